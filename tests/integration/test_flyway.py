"""Real migrations by the real Flyway: applied once, and loud when they cannot be."""

import itertools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg2
import pytest
from ecom_common.errors import MigrationError
from ecom_common.flyway import Flyway, Migrated, main
from ecom_local.instance import Instance
from sqlalchemy import make_url

from tests.support.waiting import eventually

ODD_PASSWORD = "p@ss/w:rd% '\"\\&?#"
_NUMBERS = itertools.count()


@pytest.fixture
def new_database(instance: Instance) -> Callable[..., str]:
    """Makes an empty database, owned by a role of its own with an odd password; its URL."""

    def make() -> str:
        name = f"flyway_{next(_NUMBERS)}"
        quoted = ODD_PASSWORD.replace("'", "''")
        superuser = instance.postgres_url("postgres", "postgres")
        execute(superuser, f"CREATE ROLE {name} LOGIN PASSWORD '{quoted}'")
        execute(superuser, f"CREATE DATABASE {name} OWNER {name}")
        url = make_url(superuser).set(username=name, password=ODD_PASSWORD, database=name)
        return url.render_as_string(hide_password=False) + "?sslmode=prefer"

    return make


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_migrations_are_applied_once_and_told(
    instance: Instance, new_database: Callable[..., str], tmp_path: Path
) -> None:
    url = new_database()
    (tmp_path / "V1__teas.sql").write_text("CREATE TABLE teas (id int);")
    (tmp_path / "V2__mugs.sql").write_text("CREATE TABLE mugs (id int);")
    flyway = Flyway(url=url, migrations=tmp_path, command=instance.flyway_command)
    assert flyway.migrate() == Migrated(before=None, after="2", applied=2)
    assert flyway.migrate() == Migrated(before="2", after="2", applied=0)
    (tmp_path / "V3__index.sql").write_text("CREATE INDEX CONCURRENTLY ix ON teas (id);")
    states = [(m.version, m.description, m.state) for m in flyway.info()]
    assert states == [("1", "teas", "Success"), ("2", "mugs", "Success"), ("3", "index", "Pending")]
    with pytest.raises(MigrationError, match="3"):
        flyway.validate()
    assert flyway.migrate().applied == 1
    flyway.validate()
    tables = execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {("teas",), ("mugs",)} <= set(tables)


def test_a_migration_that_fails_names_its_file_and_the_sql_error_and_can_be_mended(
    instance: Instance,
    new_database: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MIGRATION_DATABASE_URL", new_database())
    monkeypatch.setenv("FLYWAY_COMMAND", instance.flyway_command)
    (tmp_path / "V1__teas.sql").write_text("CREATE TABLE teas (id int);")
    broken = tmp_path / "V2__broken.sql"
    broken.write_text("CREATE TABLE half (id int);\nINSERT INTO nowhere VALUES (1);")
    assert main(["migrate", "--migrations", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "V2__broken.sql" in told
    assert "SQLSTATE 42P01" in told
    assert 'relation "nowhere" does not exist' in told
    assert ODD_PASSWORD not in told
    broken.write_text("INSERT INTO teas VALUES (1);")
    assert main(["migrate", "--migrations", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "1 applied; the schema is at 2\n"


def test_a_migration_that_was_changed_afterwards_is_noticed(
    instance: Instance, new_database: Callable[..., str], tmp_path: Path
) -> None:
    first = tmp_path / "V1__teas.sql"
    first.write_text("CREATE TABLE teas (id int);")
    flyway = Flyway(url=new_database(), migrations=tmp_path, command=instance.flyway_command)
    flyway.migrate()
    first.write_text("CREATE TABLE teas (id bigint);")
    with pytest.raises(MigrationError, match=r"(?i)checksum"):
        flyway.validate()
    (tmp_path / "V2__mugs.sql").write_text("CREATE TABLE mugs (id int);")
    with pytest.raises(MigrationError, match=r"(?i)checksum"):
        flyway.migrate()


def test_two_migrators_at_once_apply_each_migration_once_and_show_no_password(
    instance: Instance, new_database: Callable[..., str], tmp_path: Path
) -> None:
    url = new_database()
    (tmp_path / "V1__slow.sql").write_text("SELECT pg_sleep(1); CREATE TABLE teas (id int);")
    (tmp_path / "V2__mugs.sql").write_text("CREATE TABLE mugs (id int);")

    def migrate(_: int) -> Migrated:
        return Flyway(url=url, migrations=tmp_path, command=instance.flyway_command).migrate()

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(migrate, n) for n in range(2)]
        commands = eventually(_command_lines)
        results = [one.result(60) for one in running]
    assert sorted(result.applied for result in results) == [0, 2]
    assert all(ODD_PASSWORD not in command for command in commands)
    assert not any(re.search("p(@|%40)ss", command) for command in commands)


def _command_lines() -> list[str]:
    """What everybody on the machine can read about the running Flyways."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "flywaydb" in line:
            found.append(line)
    return found if len(found) >= 2 else []


def test_a_wrong_password_is_told_at_once_and_not_after_all_the_retries(
    instance: Instance, new_database: Callable[..., str], tmp_path: Path
) -> None:
    wrong = make_url(new_database()).set(password="wrong").render_as_string(hide_password=False)
    # A command that is not there: Flyway, which would try for two minutes, is not even started.
    flyway = Flyway(url=wrong, migrations=tmp_path, command="/nowhere/flyway")
    with pytest.raises(MigrationError, match=r"refuses the owner.*password authentication failed"):
        flyway.migrate()
