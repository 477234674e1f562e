"""The unit of work: what happens to a batch when one of it, another transaction, or the database fails."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ecom_common.batch import TRIES, Failed, apply_batch
from ecom_common.database import Sessions, make_engine, make_sessions
from ecom_common.errors import DependencyDown, Problem
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tests.chaos.wires import Moment, a_wire
from tests.support.chassis import Database
from tests.support.notes import Note, lock_note, notes_in, raise_, write


def test_a_batch_is_one_transaction(database: Database) -> None:
    transactions: set[int] = set()

    def remember(session: Session) -> None:
        transactions.add(session.scalar(text("SELECT pg_current_xact_id()::text::bigint")) or 0)

    notes = [Note(f"n{n}", remember) for n in range(50)]
    assert apply_batch(database.sessions, write, notes, name="test") == ["written"] * 50
    assert len(transactions) == 1


def test_one_bad_command_does_not_disturb_the_49_others(database: Database) -> None:
    error = ZeroDivisionError("a bug")
    notes = [Note(f"n{n}", raise_(error) if n == 17 else lambda _: None) for n in range(50)]
    outcomes = apply_batch(database.sessions, write, notes, name="test")
    assert outcomes[17] == Failed(error)
    assert [o for n, o in enumerate(outcomes) if n != 17] == ["written"] * 49
    assert notes_in(database) == [f"n{n}" for n in range(50) if n != 17]


def test_one_guilty_of_128_is_found_in_15_transactions_and_the_order_is_kept(
    database: Database,
) -> None:
    sizes: list[int] = []

    def counted(session: Session, notes: Sequence[Note]) -> list[str | Problem]:
        sizes.append(len(notes))
        return write(session, notes)

    guilty = raise_(ZeroDivisionError("a bug"))
    notes = [Note(f"n{n}", guilty if n == 100 else lambda _: None) for n in range(128)]
    outcomes = apply_batch(database.sessions, counted, notes, name="test")
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Failed)] == [100]
    assert len(sizes) == 1 + 2 * 7
    assert notes_in(database) == [f"n{n}" for n in range(128) if n != 100]


def test_a_command_that_breaks_a_constraint_fails_alone(database: Database) -> None:
    def null_into_not_null(session: Session) -> None:
        session.execute(text("INSERT INTO inbox (message_id) VALUES (NULL)"))

    notes = [Note("a"), Note("b", null_into_not_null), Note("c")]
    first, second, third = apply_batch(database.sessions, write, notes, name="test")
    assert (first, third) == ("written", "written")
    assert isinstance(second, Failed)
    assert isinstance(second.error, IntegrityError)


def test_a_refusal_is_a_value_and_costs_the_others_nothing(database: Database) -> None:
    attempts = []

    def count(session: Session) -> None:
        attempts.append(session)

    notes = [Note("a", count), Note("refused"), Note("b", count)]
    first, second, third = apply_batch(database.sessions, write, notes, name="test")
    assert isinstance(second, Problem)
    assert second.code == "not_found"
    assert (first, third, len(attempts)) == ("written", "written", 2)


def test_two_batches_that_deadlock_are_both_applied_in_the_end(database: Database) -> None:
    apply_batch(database.sessions, write, [Note("left"), Note("right")], name="test")
    both_hold_one = threading.Barrier(2, timeout=5)
    tries: list[str] = []

    def swap(first: str, second: str) -> Callable[[Session, Sequence[str]], list[str]]:
        def handle(session: Session, items: Sequence[str]) -> list[str]:
            tries.append(first)
            lock_note(session, first)
            if len(tries) <= 2:
                both_hold_one.wait()
            lock_note(session, second)
            return list(items)

        return handle

    with ThreadPoolExecutor(2) as threads:
        outcomes = [
            threads.submit(apply_batch, database.sessions, handle, ["x"], name="test")
            for handle in (swap("left", "right"), swap("right", "left"))
        ]
        assert [o.result(15) for o in outcomes] == [["x"], ["x"]]
    assert len(tries) == 3, "Postgres ended one of the two, which was then run again"


def test_a_serialization_failure_is_run_again(database: Database) -> None:
    tries = []

    def handle(session: Session, items: Sequence[str]) -> list[str]:
        tries.append(1)
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        session.execute(text("SELECT count(*) FROM effects"))
        if len(tries) == 1:
            database.as_owner("UPDATE effects SET key = 'changed' WHERE note = 'a'")
        session.execute(text("UPDATE effects SET key = 'mine' WHERE note = 'a'"))
        return list(items)

    apply_batch(database.sessions, write, [Note("a")], name="test")
    assert apply_batch(database.sessions, handle, ["x"], name="test") == ["x"]
    assert len(tries) == 2


def test_a_twin_that_commits_between_look_and_insert_is_found_at_the_next_try(
    database: Database,
) -> None:
    tries = []

    def handle(session: Session, items: Sequence[str]) -> list[str]:
        tries.append(1)
        seen = session.scalar(text("SELECT note FROM effects WHERE note = 'twin'"))
        if seen is None:
            database.as_owner("INSERT INTO effects (note) VALUES ('twin')")
            session.execute(text("INSERT INTO effects (note) VALUES ('twin')"))
        return ["found" if seen else "written"] * len(items)

    assert apply_batch(database.sessions, handle, ["a", "b"], name="test") == ["found"] * 2
    assert len(tries) == 2
    assert notes_in(database) == ["twin"]


def test_a_lock_that_somebody_keeps_fails_its_command_after_one_wait_and_no_other(
    database: Database,
) -> None:
    apply_batch(database.sessions, write, [Note("row")], name="test")
    waits = []

    def wait(session: Session) -> None:
        waits.append(1)
        session.execute(text("SET LOCAL lock_timeout = '50ms'"))
        lock_note(session, "row")

    with database.holding("SELECT id FROM effects WHERE note = 'row' FOR UPDATE"):
        notes = [Note("a"), Note("b", wait), Note("c")]
        first, second, third = apply_batch(database.sessions, write, notes, name="test")
    assert (first, third) == ("written", "written")
    assert isinstance(second, Failed)
    assert len(waits) == 2, "once with the others and once alone"


def test_a_unique_violation_that_never_ends_fails_its_command_alone(database: Database) -> None:
    def again(session: Session) -> None:
        session.execute(text("INSERT INTO effects (note) VALUES ('a')"))

    notes = [Note("a"), Note("b", again)]
    first, second = apply_batch(database.sessions, write, notes, name="test", sleep=_no_sleep)
    assert first == "written"
    assert isinstance(second, Failed)
    assert notes_in(database) == ["a"]


@pytest.mark.parametrize(("moment", "outcome"), [("before", "written"), ("after", "found")])
def test_a_connection_lost_in_commit_runs_the_unit_again_which_finds_what_it_had_done(
    database: Database, moment: Moment, outcome: str
) -> None:
    with a_wire(database.url) as (wire, url):
        engine = make_engine(url, application_name="ambiguous", pool_size=2)
        wire.cut(moment)
        notes = [Note("a"), Note("b")]
        outcomes = apply_batch(make_sessions(engine), write, notes, name="test")
        engine.dispose()
    assert wire.cuts == [moment]
    assert outcomes == [outcome] * 2
    assert notes_in(database) == ["a", "b"]


def test_a_connection_that_is_killed_in_the_middle_is_replaced(database: Database) -> None:
    tries = []

    def killed_once(session: Session) -> None:
        tries.append(1)
        if len(tries) == 1:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            database.as_superuser(f"SELECT pg_terminate_backend({pid}, 5000)")
        session.execute(text("SELECT 1"))

    notes = [Note("a", killed_once), Note("b")]
    assert apply_batch(database.sessions, write, notes, name="test") == ["written"] * 2
    assert notes_in(database) == ["a", "b"]


def test_after_the_server_has_cut_every_pooled_connection_the_next_batch_succeeds(
    database: Database,
) -> None:
    with ThreadPoolExecutor(8) as threads:  # fill the pool
        gate = threading.Barrier(8, timeout=10)
        list(threads.map(lambda _: _hold_a_connection(database.sessions, gate), range(8)))
    database.cut()
    assert apply_batch(database.sessions, write, [Note("a")], name="test") == ["written"]


def test_a_database_that_does_not_answer_is_said_to_be_down_and_nothing_is_half_done(
    database: Database,
) -> None:
    database.shut()
    waits: list[float] = []
    with pytest.raises(DependencyDown):
        apply_batch(
            database.sessions, write, [Note("a"), Note("b")], name="test", sleep=waits.append
        )
    assert len(waits) == TRIES - 1
    database.reopen()
    notes = [Note("a"), Note("b")]
    assert apply_batch(database.sessions, write, notes, name="test") == ["written"] * 2


def test_a_handler_that_forgets_a_result_is_a_bug_and_commits_nothing(database: Database) -> None:
    def forgetful(session: Session, notes: Sequence[Note]) -> list[Any]:
        return write(session, notes)[1:]

    [outcome] = apply_batch(database.sessions, forgetful, [Note("a")], name="test")
    assert isinstance(outcome, Failed)
    assert notes_in(database) == []


def _hold_a_connection(sessions: Sessions, gate: threading.Barrier) -> None:
    with sessions() as session:
        session.execute(text("SELECT 1"))
        gate.wait()


def _no_sleep(_: float) -> None:
    """Contention that a test has made goes away at once or never."""
