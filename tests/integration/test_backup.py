"""Backup and restore of a platform of its own, one database set back at a time."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ecom_common.database import sqlalchemy_url
from ecom_local import backup, demo, reconcile
from ecom_local.errors import LocalError
from ecom_local.facts import Differences
from ecom_local.instance import Instance
from ecom_local.parts import DATABASES
from ecom_local.ports import Ports
from rich.console import Console
from sqlalchemy import create_engine, text

from tests.support.auditing import audit

SOLD_SINCE_THE_BACKUP = 4
PLACED_SINCE_THE_BACKUP = 10


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with Instance(tmp_path_factory.mktemp("backup"), ports=Ports.free()) as instance:
        instance.start_all()
        yield instance


@pytest.fixture(scope="module")
def yesterday(shop: Instance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup; since then the demo's orders were placed once more."""
    folder = tmp_path_factory.mktemp("dumps") / "yesterday"
    assert demo.run(shop, Console(quiet=True)) == 0
    backup.back_up(shop, folder, say=print)
    assert demo.run(shop, Console(quiet=True)) == 0
    return folder


def after_restore(shop: Instance, folder: Path, *names: str) -> Differences:
    backup.restore(shop, folder, names, say=print)
    return reconcile.settled_differences(shop, say=print)


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

    with pytest.raises(LocalError, match="V2__orders"):
        backup.restore(shop, tmp_path / "other", ["payment", "order"], say=print)

    assert not reconcile.settled_differences(shop, say=print)
    assert demo.run(shop, Console(quiet=True)) == 0


@pytest.mark.parametrize("name", ["inventory", "payment"])
def test_a_participant_that_was_set_back_catches_up(
    shop: Instance, yesterday: Path, name: str
) -> None:
    assert not after_restore(shop, yesterday, name)
    assert audit(shop)["violations"] == []


def test_orders_that_are_in_no_backup_are_told_and_can_be_undone(
    shop: Instance, yesterday: Path
) -> None:
    found = after_restore(shop, yesterday, "order")
    assert len(found.unknown) == SOLD_SINCE_THE_BACKUP
    assert not found.of_orders

    reconcile.reconcile(shop, undo_unknown=True, say=print)

    assert not reconcile.settled_differences(shop, say=print)
    seen = audit(shop)
    assert seen["violations"] == []
    assert [one["kind"] for one in seen["attention"]].count("lost order") == PLACED_SINCE_THE_BACKUP
