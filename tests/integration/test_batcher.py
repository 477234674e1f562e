"""What clients of a batcher see: results, refusals, and answers in time when the database fails."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ecom_common import batch as batch_module
from ecom_common.batch import Batcher, apply_batch
from ecom_common.database import make_engine, make_sessions
from ecom_common.errors import Problem
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tests.chaos.wires import a_wire
from tests.support.chassis import Database
from tests.support.notes import Note, lock_note, notes_in, raise_, write


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
        lock_note(session, "row")
        return ["locked"] * len(notes)

    async def use(batcher: Any) -> Any:
        with database.sessions.begin() as session:
            lock_note(session, "row")
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
