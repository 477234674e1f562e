"""Migrations that go wrong while the platform works: the old version goes on serving.

They run as in a release: Flyway, as the owner of the database, with a folder that has the service's own
migrations and one more. What they have changed is undone at the end, so that the next fault finds the schema of
the code.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ecom_local.parts import DATABASES

from tests.chaos.fault import Fault
from tests.chaos.lab import MIGRATED_WITHIN_S, Lab, Migrator
from tests.support.shop import until

NEXT: Final = "V9001"
"""Far above the service's own, whatever they have come to."""
LOCK_TIMEOUT: Final = "SET lock_timeout = '2s';\n"
FAILS: Final = LOCK_TIMEOUT + "CREATE TABLE chaos (id int);\nSELECT 1 / 0;\n"
ADDS: Final = LOCK_TIMEOUT + "CREATE TABLE chaos (id int);\nINSERT INTO chaos VALUES (1);\n"
TAKES_LONG: Final = ADDS + "SELECT pg_sleep(5);\n"
ALTERS: Final = LOCK_TIMEOUT + "ALTER TABLE orders ADD COLUMN chaos int;\n"
UNDO: Final = f"""
    DROP TABLE IF EXISTS chaos;
    ALTER TABLE orders DROP COLUMN IF EXISTS chaos;
    DELETE FROM flyway_schema_history WHERE version = '{NEXT[1:]}'"""
MEANWHILE: Final = 10
ANSWERS_WITHIN_S: Final = 8.0
"""Longest that a customer may wait meanwhile: a lock's time-out, tried again a few times."""


class Release:
    """The order service's migrations and one more, and a way to run them."""

    def __init__(self, lab: Lab, sql: str) -> None:
        self.folder = lab.home / "release"
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(DATABASES["order"].migrations, self.folder)
        (self.folder / f"{NEXT}__chaos.sql").write_text(sql)
        self._lab = lab

    def start(self) -> Migrator:
        return self._lab.migrate(self.folder)

    def run(self) -> tuple[int, str]:
        return self.start().finished()


@contextmanager
def _release(lab: Lab, sql: str) -> Iterator[Release]:
    release = Release(lab, sql)
    begin = time.monotonic()
    try:
        yield release
        lab.load.until_more(MEANWHILE)
        _assert_served(lab, since=begin)
    finally:
        lab.sql("orderdb", UNDO)


def _assert_served(lab: Lab, *, since: float) -> None:
    """The old version has gone on: ready, no failures, and nobody has waited for long."""
    for part in ("order-api", "order-worker"):
        assert lab.problem(part) is None, lab.problem(part)
    answers = [answer for answer in lab.load.history if answer.asked_at >= since]
    assert answers
    slowest_s = max(answer.answered_at - answer.asked_at for answer in answers)
    assert slowest_s < ANSWERS_WITHIN_S, f"somebody waited {slowest_s:.1f} s"
    lost = [answer.outcome for answer in answers if answer.status in (0, 500)]
    assert not lost, lost


def _applied(lab: Lab) -> int:
    [(count,)] = lab.sql(
        "orderdb",
        f"SELECT count(*) FROM flyway_schema_history WHERE version = '{NEXT[1:]}' AND success",
    )
    return int(count)


def _has_table(lab: Lab) -> bool:
    return lab.sql("orderdb", "SELECT to_regclass('chaos') IS NOT NULL") == [(True,)]


def _fails(lab: Lab) -> None:
    with _release(lab, FAILS) as release:
        code, output = release.run()
        assert code == 1, output
        assert "division by zero" in output, output
        assert not _has_table(lab), "half of it has stayed"
        assert _applied(lab) == 0
        lab.fired("a migration failed")


def _two_migrators(lab: Lab) -> None:
    with _release(lab, ADDS) as release:
        outcomes = [migrator.finished() for migrator in [release.start(), release.start()]]
        assert [code for code, _ in outcomes] == [0, 0], outcomes
        assert _applied(lab) == 1
        assert lab.sql("orderdb", "SELECT count(*) FROM chaos") == [(1,)]
        lab.fired("two migrators at once")


def _killed(lab: Lab) -> None:
    with _release(lab, TAKES_LONG) as release:
        migrator = release.start()
        until(lambda: _sleeps(lab), timeout_s=MIGRATED_WITHIN_S, about=lambda: "it never began")
        migrator.kill()
        migrator.finished()
        lab.fired("migrator killed mid-way")
        until(lambda: not _sleeps(lab), timeout_s=MIGRATED_WITHIN_S)
        assert not _has_table(lab), "half of it has stayed"
        code, output = release.run()
        assert code == 0, output
        assert _applied(lab) == 1


def _sleeps(lab: Lab) -> bool:
    """Whether the migration is in its long statement."""
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(5)%' AND pid <> pg_backend_pid()"
    return lab.sql("orderdb", running) != [(0,)]


def _blocked(lab: Lab) -> None:
    with _release(lab, ALTERS) as release:
        with lab.postgres("orderdb") as reader:
            reader.autocommit = False
            # A report that reads for long: it locks nobody out, except a migration.
            reader.cursor().execute("SELECT count(*) FROM orders")
            code, output = release.run()
        assert code == 1, output
        assert "lock timeout" in output, output
        lab.fired("a migration gave up its wait for a lock")
        code, output = release.run()
        assert code == 0, output
        assert _applied(lab) == 1


FAULTS: Final = (
    Fault(
        name="migration-fails",
        shows="a failing migration says so, leaves nothing behind, and the old version goes on serving",
        level="migration",
        inject=_fails,
    ),
    Fault(
        name="two-migrators",
        shows="two migrators at once: one applies, both succeed",
        level="migration",
        inject=_two_migrators,
    ),
    Fault(
        name="migrator-killed",
        shows="a migrator that is killed mid-way leaves nothing behind; the next one does it all",
        level="migration",
        inject=_killed,
    ),
    Fault(
        name="migration-blocked",
        shows="a migration that waits for a lock gives up after 2 s, and nobody waits longer than that for it",
        level="migration",
        inject=_blocked,
    ),
)
