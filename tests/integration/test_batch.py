"""The unit of work: what happens to a batch when one of it, another transaction, or the database fails."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from ecom_common import batch as batch_module
from ecom_common.batch import TRIES, Batcher, Failed, apply_batch
from ecom_common.database import Sessions, make_engine, make_sessions
from ecom_common.errors import DependencyDown, Problem
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tests.chaos.wires import Moment, a_wire
from tests.support.chassis import Database, a_database
from tests.support.databases import Databases


@pytest.fixture(scope="module")
def fresh_database(databases: Databases) -> Iterator[Database]:
    with a_database(databases) as database:
        yield database


@pytest.fixture
def database(fresh_database: Database) -> Database:
    fresh_database.empty()
    return fresh_database


class Note(NamedTuple):
    """A command: write a note, once for each key."""

    key: str
    then: Callable[[Session], Any] = lambda _: None


def write(session: Session, notes: Sequence[Note]) -> list[str | Problem]:
    """A handler as services write them: refusals are values, keys are looked up first."""
    results: list[str | Problem] = []
    for note in notes:
        if note.key.startswith("refused"):
            results.append(Problem("not_found", "There is no such thing."))
            continue
        seen = session.scalar(text("SELECT note FROM effects WHERE note = :n"), {"n": note.key})
        if seen is None:
            session.execute(text("INSERT INTO effects (note) VALUES (:n)"), {"n": note.key})
        note.then(session)
        results.append("found" if seen else "written")
    return results


def raise_(error: Exception) -> Callable[[Session], None]:
    def then(_: Session) -> None:
        raise error

    return then


def notes_in(database: Database) -> list[str]:
    return database.rows("SELECT note FROM effects ORDER BY id")


# ---- apply_batch


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
            _lock(session, first)
            if len(tries) <= 2:
                both_hold_one.wait()
            _lock(session, second)
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
        _lock(session, "row")

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


# ---- Batcher


def batched(
    database: Database,
    use: Callable[["Batcher[Note, str | Problem]"], Any],
    *,
    handle: Callable[[Session, Sequence[Note]], Sequence[Any]] = write,
    max_batch: int = 100,
) -> Any:
    """Run `use` with a batcher on an event loop of its own."""

    async def run() -> Any:
        batcher: Batcher[Note, str | Problem] = Batcher(
            database.sessions, handle, name="test", max_batch=max_batch
        )
        try:
            return await use(batcher)
        finally:
            await batcher.close()

    return asyncio.run(run())


async def settled(*submitted: Any) -> list[Any]:
    return await asyncio.gather(*submitted, return_exceptions=True)


def test_commands_that_come_together_share_a_transaction_and_get_each_their_own_result(
    database: Database,
) -> None:
    sizes = []

    def handle(session: Session, notes: Sequence[Note]) -> list[Any]:
        sizes.append(len(notes))
        return [
            f"{result} {note.key}"
            for note, result in zip(notes, write(session, notes), strict=True)
        ]

    async def use(batcher: Any) -> list[Any]:
        return await settled(*(batcher.submit(Note(f"n{n}")) for n in range(250)))

    results = batched(database, use, handle=handle, max_batch=100)
    assert results == [f"written n{n}" for n in range(250)]
    assert sum(sizes) == 250
    assert max(sizes) == 100


def test_a_refused_command_raises_its_problem_and_only_for_its_client(database: Database) -> None:
    async def use(batcher: Any) -> list[Any]:
        return await settled(*(batcher.submit(Note(k)) for k in ("a", "refused", "b")))

    first, second, third = batched(database, use)
    assert isinstance(second, Problem)
    assert (first, second.code, third) == ("written", "not_found", "written")


def test_a_bug_reaches_its_client_and_nobody_else(database: Database) -> None:
    async def use(batcher: Any) -> list[Any]:
        notes = [Note("a"), Note("b", raise_(ZeroDivisionError("a bug"))), Note("c")]
        return await settled(*map(batcher.submit, notes))

    first, second, third = batched(database, use)
    assert (first, type(second), third) == ("written", ZeroDivisionError, "written")


def test_a_database_that_is_down_is_answered_unavailable_and_works_again_afterwards(
    database: Database,
) -> None:
    async def use(batcher: Any) -> list[Any]:
        database.shut()
        refused = await settled(batcher.submit(Note("a")), batcher.submit(Note("b")))
        database.reopen()
        return [*refused, await batcher.submit(Note("c"))]

    *refused, served = batched(database, use)
    assert [problem.code for problem in refused] == ["unavailable"] * 2
    assert refused[0] is not refused[1]
    assert served == "written"


async def _until_served(batcher: "Batcher[Note, Any]", note: Note) -> Any:
    for _ in range(100):
        [result] = await settled(batcher.submit(note))
        if not isinstance(result, Problem):
            return result
        await asyncio.sleep(0.1)
    return None


def test_while_the_database_swallows_everything_whoever_comes_later_is_told_at_once(
    database: Database,
) -> None:
    with a_wire(database.url) as (wire, url):
        engine = make_engine(url, application_name="silent", pool_size=2)

        async def use() -> tuple[Problem, Problem, float, Any]:
            batcher: Batcher[Note, Any] = Batcher(
                make_sessions(engine), write, name="test", max_batch=10
            )
            await batcher.submit(Note("a"))
            with wire.black_hole():
                [first] = await settled(batcher.submit(Note("b")))
                begin = time.monotonic()
                [later] = await settled(batcher.submit(Note("c")))
                took_s = time.monotonic() - begin
            # What was swallowed is still being delivered; the next waits behind it, as ever.
            again = await _until_served(batcher, Note("d"))
            await batcher.close()
            return first, later, took_s, again

        first, later, took_s, again = asyncio.run(use())
        engine.dispose()
    assert [first.code, later.code] == ["unavailable"] * 2
    assert took_s < 1
    assert again == "written"


def test_a_lock_that_somebody_keeps_is_answered_request_in_progress(database: Database) -> None:
    apply_batch(database.sessions, write, [Note("row")], name="test")

    def handle(session: Session, notes: Sequence[Note]) -> list[Any]:
        session.execute(text("SET LOCAL lock_timeout = '50ms'"))
        _lock(session, "row")
        return ["locked"] * len(notes)

    async def use(batcher: Any) -> Any:
        with database.sessions.begin() as session:
            _lock(session, "row")
            return (await settled(batcher.submit(Note("x"))))[0]

    problem = batched(database, use, handle=handle)
    assert problem.code == "request_in_progress"
    assert problem.kind.retryable


def test_a_unique_violation_that_never_ends_is_a_bug_and_not_an_overload(
    database: Database,
) -> None:
    def again(session: Session) -> None:
        session.execute(text("INSERT INTO effects (note) VALUES ('a')"))

    async def use(batcher: Any) -> Any:
        return (await settled(batcher.submit(Note("a", again))))[0]

    assert isinstance(batched(database, use), IntegrityError)


def test_too_many_waiting_commands_are_refused_at_once(database: Database) -> None:
    begun, gate = threading.Event(), threading.Event()

    def slow(session: Session, notes: Sequence[Note]) -> list[Any]:
        begun.set()
        assert gate.wait(10)
        return ["done"] * len(notes)

    async def use(batcher: Any) -> tuple[list[Any], list[Any]]:
        first = asyncio.ensure_future(batcher.submit(Note("first")))
        await asyncio.to_thread(begun.wait, 10)
        waiting = [
            asyncio.ensure_future(batcher.submit(Note(f"n{n}")))
            for n in range(batch_module.MAX_WAITING)
        ]
        await asyncio.sleep(0)
        refused = await settled(*(batcher.submit(Note("one too many")) for _ in range(10)))
        gate.set()
        return refused, await settled(first, *waiting)

    refused, served = batched(database, use, handle=slow, max_batch=1_000)
    assert [problem.code for problem in refused] == ["overloaded"] * 10
    assert refused[0].retry_after_s
    assert served == ["done"] * (batch_module.MAX_WAITING + 1)


def test_a_client_that_has_given_up_is_not_served(database: Database) -> None:
    gate = threading.Event()

    def slow_at_first(session: Session, notes: Sequence[Note]) -> list[Any]:
        assert gate.wait(10)
        return write(session, notes)

    async def use(batcher: Any) -> list[Any]:
        first = asyncio.ensure_future(batcher.submit(Note("first")))
        await asyncio.sleep(0.02)
        second = asyncio.ensure_future(batcher.submit(Note("second")))
        third = asyncio.ensure_future(batcher.submit(Note("third")))
        await asyncio.sleep(0)
        second.cancel()
        await settled(second)
        gate.set()
        return await settled(first, third)

    assert batched(database, use, handle=slow_at_first) == ["written", "written"]
    assert notes_in(database) == ["first", "third"]


def test_a_client_that_gives_up_during_its_batch_does_not_harm_the_others(
    database: Database,
) -> None:
    begun, gate = threading.Event(), threading.Event()

    def slow(session: Session, notes: Sequence[Note]) -> list[Any]:
        begun.set()
        assert gate.wait(10)
        return write(session, notes)

    async def use(batcher: Any) -> Any:
        leaving = asyncio.ensure_future(batcher.submit(Note("leaving")))
        staying = asyncio.ensure_future(batcher.submit(Note("staying")))
        await asyncio.to_thread(begun.wait, 10)
        leaving.cancel()
        await settled(leaving)
        gate.set()
        return await staying

    assert batched(database, use, handle=slow) == "written"
    assert "leaving" in notes_in(database), "its transaction had begun; its retry will find it"


def test_close_finishes_what_was_submitted(database: Database) -> None:
    async def use(batcher: Any) -> list[Any]:
        tasks = [asyncio.ensure_future(batcher.submit(Note(f"n{n}"))) for n in range(20)]
        await asyncio.sleep(0)
        await batcher.close()
        return await settled(*tasks)

    assert batched(database, use, max_batch=3) == ["written"] * 20


def test_an_error_that_nobody_has_foreseen_leaves_nobody_waiting(database: Database) -> None:
    def ends_the_thread(session: Session, notes: Sequence[Note]) -> list[Any]:
        raise MemoryError

    async def use(batcher: Any) -> list[Any]:
        started = time.monotonic()
        results = await settled(batcher.submit(Note("a")), batcher.submit(Note("b")))
        assert time.monotonic() - started < batch_module.SUBMIT_TIMEOUT_S
        return results

    assert [type(r) for r in batched(database, use, handle=ends_the_thread)] == [MemoryError] * 2


def _lock(session: Session, note: str) -> None:
    session.execute(text("SELECT id FROM effects WHERE note = :n FOR UPDATE"), {"n": note})


def _hold_a_connection(sessions: Sessions, gate: threading.Barrier) -> None:
    with sessions() as session:
        session.execute(text("SELECT 1"))
        gate.wait()


def _no_sleep(_: float) -> None:
    """Contention that a test has made goes away at once or never."""
