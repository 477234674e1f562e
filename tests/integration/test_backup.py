"""Backup and restore of a platform of its own, one database set back at a time."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ecom_common.database import sqlalchemy_url
from ecom_local import backup, demo, reconcile
from ecom_local.errors import LocalError
from ecom_local.instance import Instance
from ecom_local.parts import DATABASES, PARTS
from ecom_local.paths import REPOSITORY
from ecom_local.ports import Ports
from rich.console import Console
from sqlalchemy import create_engine, text

from tests.support.auditing import audit
from tests.support.homes import a_home

# A platform of its own, which is stopped and started several times.
pytestmark = pytest.mark.timeout(600)

SOLD_SINCE_THE_BACKUP = 2
PLACED_SINCE_THE_BACKUP = 5


@pytest.fixture(scope="module")
def shop() -> Iterator[Instance]:
    with a_home() as home, Instance(home, ports=Ports.free()) as instance:
        instance.start_all()
        yield instance


@pytest.fixture(scope="module")
def yesterday(shop: Instance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup; since then the demo's orders were placed once more."""
    folder = tmp_path_factory.mktemp("dumps") / "yesterday"
    assert demo.run(shop, Console(quiet=True)) == 0
    done = script(shop, "backup", folder)
    assert done.returncode == 0, done.stderr
    assert demo.run(shop, Console(quiet=True)) == 0
    return folder


def script(shop: Instance, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What people type; its exit code is checked by the caller."""
    return subprocess.run(
        [REPOSITORY / "scripts" / name, *arguments],
        env=os.environ | {"ECOM_HOME": str(shop.layout.home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_dumps_are_nobody_elses_to_read(yesterday: Path) -> None:
    files = sorted(yesterday.iterdir())
    assert [file.name for file in files] == sorted(f"{d.name}.dump" for d in DATABASES.values())
    assert not [path for path in (yesterday, *files) if path.stat().st_mode & 0o077]


def test_a_backup_does_not_write_over_another(shop: Instance, yesterday: Path) -> None:
    with pytest.raises(LocalError, match="not empty"):
        backup.back_up(shop, yesterday, say=print)


def test_a_dump_that_is_broken_changes_nothing(
    shop: Instance, yesterday: Path, tmp_path: Path
) -> None:
    whole = (yesterday / "orderdb.dump").read_bytes()
    (tmp_path / "orderdb.dump").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(LocalError, match=r"orderdb\.dump could not be read"):
        backup.restore(shop, tmp_path, ["order"], say=print)

    assert not reconcile.settled_differences(shop, say=print)


def test_a_dump_that_the_migrations_do_not_fit_changes_nothing(
    shop: Instance, tmp_path: Path
) -> None:
    history = "UPDATE flyway_schema_history SET checksum = checksum + {} WHERE version = '2'"
    owner = create_engine(sqlalchemy_url(shop.postgres_url("orderdb", "order_owner")))
    with owner.begin() as connection:
        connection.execute(text(history.format(1)))
    backup.back_up(shop, tmp_path / "other", say=print)
    with owner.begin() as connection:
        connection.execute(text(history.format(-1)))
    owner.dispose()

    with pytest.raises(LocalError, match="checksum"):
        backup.restore(shop, tmp_path / "other", ["payment", "order"], say=print)

    assert not reconcile.settled_differences(shop, say=print)
    assert all(shop.problem(part) is None for part in PARTS)


@pytest.mark.parametrize("name", ["inventory", "payment"])
def test_a_participant_that_was_set_back_catches_up(
    shop: Instance, yesterday: Path, name: str
) -> None:
    done = script(shop, "restore", yesterday, name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "orders, inventory, payment and provider agree" in done.stdout
    assert audit(shop)["violations"] == []


def test_orders_that_are_in_no_backup_are_told_and_can_be_undone(
    shop: Instance, yesterday: Path
) -> None:
    done = script(shop, "restore", yesterday, "order")
    assert done.returncode == 1
    assert done.stdout.count("is in no order database") == SOLD_SINCE_THE_BACKUP
    assert "scripts/reconcile --undo-unknown" in done.stdout

    done = script(shop, "reconcile", "--undo-unknown")
    assert done.returncode == 0, done.stdout + done.stderr

    assert not reconcile.settled_differences(shop, say=print)
    seen = audit(shop)
    assert seen["violations"] == []
    assert [one["kind"] for one in seen["attention"]].count("lost order") == PLACED_SINCE_THE_BACKUP
