"""Flyway as a subprocess: what it is given, and what is made of whatever it says."""

import json
import stat
import sys
from pathlib import Path

import pytest
from ecom_common.errors import ConfigurationError, MigrationError
from ecom_common.flyway import Flyway, flyway_environment, main

URL = "postgresql://owner:p%40ss%2Fw%3Ard%25@db:5433/orders?sslmode=verify-full&sslrootcert=/a%20b"


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    return folder


def a_command(folder: Path, *, says: str, exits: int = 0) -> str:
    """A `flyway` that notes how it was called in `called.json`, says something, and exits."""
    command = folder / "flyway"
    command.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "from pathlib import Path\n"
        f"Path({str(folder / 'called.json')!r}).write_text(\n"
        "    json.dumps({'arguments': sys.argv, 'environment': dict(os.environ)}))\n"
        f"print({says!r})\n"
        f"sys.exit({exits})\n"
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return str(command)


def test_a_url_is_given_to_flyway_whole_and_unescaped(migrations: Path) -> None:
    environment = flyway_environment(URL, migrations)
    assert environment["FLYWAY_URL"] == (
        "jdbc:postgresql://db:5433/orders?sslmode=verify-full&sslrootcert=%2Fa+b"
    )
    assert environment["FLYWAY_USER"] == "owner"
    assert environment["FLYWAY_PASSWORD"] == "p@ss/w:rd%"
    assert environment["FLYWAY_LOCATIONS"] == f"filesystem:{migrations}"


def test_ports_addresses_and_names_of_any_kind_are_understood(migrations: Path) -> None:
    def address(url: str) -> str:
        return flyway_environment(url, migrations)["FLYWAY_URL"]

    assert address("postgresql://o@db/orders") == "jdbc:postgresql://db:5432/orders"
    assert address("postgres://o@[::1]:1/orders") == "jdbc:postgresql://[::1]:1/orders"
    assert address("postgresql://o@db/a%20b%3Fc") == "jdbc:postgresql://db:5432/a%20b%3Fc"


@pytest.mark.parametrize("url", ["postgresql://db/orders", "postgresql://o@/orders", "mysql://x/y"])
def test_an_incomplete_url_is_refused_without_repeating_it(migrations: Path, url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        flyway_environment(url, migrations)
    assert url not in str(refused.value)


def test_dangerous_verbs_are_disabled_and_migrations_are_validated(migrations: Path) -> None:
    environment = flyway_environment(URL, migrations)
    assert environment["FLYWAY_CLEAN_DISABLED"] == "true"
    assert environment["FLYWAY_VALIDATE_ON_MIGRATE"] == "true"
    assert (
        environment["FLYWAY_OUT_OF_ORDER"] == environment["FLYWAY_BASELINE_ON_MIGRATE"] == "false"
    )


def test_the_password_travels_by_environment_and_not_by_arguments(
    tmp_path: Path, migrations: Path
) -> None:
    command = a_command(tmp_path, says=json.dumps({"migrationsExecuted": 2}))
    assert Flyway(url=URL, migrations=migrations, command=command).migrate().applied == 2
    called = json.loads((tmp_path / "called.json").read_text())
    assert called["arguments"][1:] == ["-outputType=json", "migrate"]
    assert called["environment"]["FLYWAY_PASSWORD"] == "p@ss/w:rd%"
    assert "PATH" in called["environment"]


def test_warnings_of_the_jvm_before_the_document_are_skipped(
    tmp_path: Path, migrations: Path
) -> None:
    says = 'OpenJDK warning: something\n{"migrations": [{"version": "1", "state": "Pending"}]}'
    command = a_command(tmp_path, says=says)
    [migration] = Flyway(url=URL, migrations=migrations, command=command).info()
    assert (migration.version, migration.state) == ("1", "Pending")


@pytest.mark.parametrize(
    ("says", "exits", "told"),
    [
        ("not JSON at all", 0, "not JSON at all"),
        ("{broken", 0, "{broken"),
        ("", 0, "no output"),
        ("Killed", 137, "exit 137: Killed"),
        ("{}", 1, "exit 1"),
        (
            json.dumps(
                {
                    "error": {
                        "errorCode": "FAULT",
                        "sqlState": "42P01",
                        "path": "/somewhere/V2__b.sql",
                        "lineNumber": 3,
                        "message": "relation missing",
                    }
                }
            ),
            0,  # without its reports module a failed migration exits 0
            "FAULT · SQLSTATE 42P01 · V2__b.sql · line 3 · relation missing",
        ),
    ],
)
def test_whatever_goes_wrong_is_told(
    tmp_path: Path, migrations: Path, says: str, exits: int, told: str
) -> None:
    command = a_command(tmp_path, says=says, exits=exits)
    with pytest.raises(MigrationError) as failed:
        Flyway(url=URL, migrations=migrations, command=command).migrate()
    assert told in str(failed.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        Flyway(url=URL, migrations=tmp_path / "nowhere")


def test_a_command_that_cannot_be_run_is_named(tmp_path: Path, migrations: Path) -> None:
    (tmp_path / "plain").write_text("not executable")
    for command in (str(tmp_path / "missing"), str(tmp_path / "plain"), str(tmp_path)):
        with pytest.raises(ConfigurationError, match="FLYWAY_COMMAND") as refused:
            Flyway(url=URL, migrations=migrations, command=command).migrate()
        assert command in str(refused.value)


def test_the_command_line_says_what_is_missing_and_exits_2(
    migrations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MIGRATION_DATABASE_URL", raising=False)
    assert main(["migrate", "--migrations", str(migrations)]) == 2
    assert "MIGRATION_DATABASE_URL" in capsys.readouterr().err
    monkeypatch.setenv("MIGRATION_DATABASE_URL", URL)
    monkeypatch.setenv("FLYWAY_COMMAND", "no-such-flyway")
    assert main(["migrate", "--migrations", str(migrations)]) == 2
    told = capsys.readouterr().err
    assert "no-such-flyway" in told
    assert "p@ss" not in told
