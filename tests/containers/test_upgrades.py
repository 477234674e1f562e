"""Migrations that come with a new version: one that fails, and one that does not.

In this order: Flyway lets an old version start on a newer schema, but skips no version in between.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.containers import trading
from tests.support.compose import Project
from tests.support.shop import Shop

IN_THE_IMAGE: Final = "/app/migrations"
GOOD: Final = (
    "V900__note_for_the_gift.sql",
    "SET lock_timeout = '2s';\nALTER TABLE orders ADD COLUMN gift_note text;\n",
)
BROKEN: Final = ("V999__broken.sql", "ALTER TABLE no_such_table ADD COLUMN x integer;\n")


def _written(project: Project, migration: tuple[str, str]) -> Path:
    """The file, where the engine can mount it from."""
    name, sql = migration
    path = project.home / name
    path.write_text(sql)
    return path


@contextmanager
def _broken_version(project: Project) -> Iterator[Path]:
    """A compose file in which the order service's next version has a migration that fails; in the end
    the version before it runs again."""
    mount = f"{_written(project, BROKEN)}:{IN_THE_IMAGE}/{BROKEN[0]}:ro"
    file = project.home / "broken.yml"
    file.write_text(f"services: {{order_migrate: {{volumes: ['{mount}']}}}}\n")
    try:
        yield file
    finally:
        project.up()


def test_a_migration_that_fails_keeps_the_service_from_starting_and_says_why(
    project: Project, shop: Shop
) -> None:
    order = shop.until_final(shop.place({shop.item(stock=1): 1})["id"])
    with _broken_version(project) as broken:
        new = ["order_service", "order_worker"]
        project.compose("rm", "--stop", "--force", *new, "order_migrate")
        done = project.compose("up", "--detach", *new, files=[broken], check=False)
        assert done.returncode != 0
        assert "order_migrate" in done.stderr
        job = project.container("order_migrate")
        assert job.attrs["State"]["ExitCode"] == 1
        said = job.logs().decode()
        for detail in (BROKEN[0], "42P01", 'relation "no_such_table" does not exist'):
            assert detail in said
        states = [c.attrs["State"]["Status"] for name in new for c in project.containers(name)]
        assert set(states) <= {"created"}
        # The others go on.
        for name in ("inventory", "payment"):
            assert shop.http.get(shop.url(name, "/health/ready")).status_code == 200
    assert shop.order(order["id"]) == order


def test_a_migration_runs_while_the_old_version_serves(project: Project) -> None:
    mount = f"{_written(project, GOOD)}:{IN_THE_IMAGE}/{GOOD[0]}:ro"
    with trading.customers(project, seed=5) as load:
        load.until_more(5)
        done = project.compose("run", "--rm", "--no-deps", "--volume", mount, "order_migrate")
        load.until_more(5)
    assert done.stdout.strip() == "1 applied; the schema is at 900"
    failed = [answer for answer in load.history if answer.status == 0 or answer.status >= 500]
    assert failed == []
    trading.check(project, load)
    columns = "SELECT count(*) FROM information_schema.columns WHERE column_name = 'gift_note'"
    assert project.sql("order_postgres", "orderdb", columns) == ["1"]


def test_the_old_version_starts_on_the_newer_schema(project: Project, shop: Shop) -> None:
    """So that the new one can be taken back."""
    done = project.compose("run", "--rm", "--no-deps", "order_migrate")
    assert done.stdout.strip().startswith("0 applied")
    project.compose("up", "--detach", "--wait", "--no-deps", "--force-recreate", "order_service")
    assert shop.until_final(shop.place({shop.item(stock=1): 1})["id"])["status"] == "confirmed"
