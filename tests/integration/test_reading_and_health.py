"""Queries of the HTTP side and the checks behind /health/ready, with a database that comes and goes."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from ecom_common.errors import Problem
from ecom_common.health import SchemaTooOld, check_database, run_checks
from ecom_common.reading import MAX_WAITING, Reader
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from tests.support.chassis import Database


def reading(
    database: Database, use: Callable[[Reader], Coroutine[Any, Any, Any]], *, threads: int = 4
) -> Any:
    async def run() -> Any:
        reader = Reader(database.sessions, threads=threads)
        try:
            return await use(reader)
        finally:
            reader.close()

    return asyncio.run(run())


def one(session: Session) -> Any:
    return session.scalar(text("SELECT 1"))


def test_queries_run_side_by_side_on_their_own_connections(database: Database) -> None:
    together = threading.Barrier(4, timeout=10)

    def query(session: Session) -> Any:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        together.wait()
        return pid

    async def use(reader: Reader) -> list[Any]:
        return await asyncio.gather(*(reader.read(query) for _ in range(4)))

    assert len(set(reading(database, use))) == 4


def test_after_a_restart_of_the_database_no_reader_notices(database: Database) -> None:
    async def use(reader: Reader) -> list[Any]:
        await asyncio.gather(*(reader.read(one) for _ in range(8)))
        await asyncio.to_thread(database.cut)
        return [await reader.read(one) for _ in range(8)]

    assert reading(database, use) == [1] * 8


def test_a_database_that_is_down_is_unavailable_and_a_bug_stays_a_bug(database: Database) -> None:
    async def use(reader: Reader) -> None:
        with pytest.raises(ProgrammingError):
            await reader.read(lambda session: session.scalar(text("SELECT nothing")))
        await asyncio.to_thread(database.shut)
        with pytest.raises(Problem, match="unavailable"):
            await reader.read(one)
        await asyncio.to_thread(database.reopen)
        assert await reader.read(one) == 1

    reading(database, use)


def test_too_many_waiting_queries_are_refused_at_once(database: Database) -> None:
    gate = threading.Event()

    def slow(session: Session) -> Any:
        assert gate.wait(10)
        return one(session)

    async def use(reader: Reader) -> list[Any]:
        waiting = [asyncio.ensure_future(reader.read(slow)) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="overloaded"):
            await reader.read(one)
        gate.set()
        return await asyncio.gather(*waiting)

    assert reading(database, use, threads=2) == [1] * MAX_WAITING


def test_when_every_thread_is_stuck_whoever_comes_later_is_told_at_once(
    database: Database,
) -> None:
    gate = threading.Event()

    def stuck(session: Session) -> Any:
        assert gate.wait(30)
        return one(session)

    async def use(reader: Reader) -> tuple[list[Any], float]:
        first = await asyncio.gather(
            *(reader.read(stuck) for _ in range(2)), return_exceptions=True
        )
        begin = time.monotonic()
        with pytest.raises(Problem, match="unavailable"):
            await reader.read(one)
        took_s = time.monotonic() - begin
        gate.set()
        await asyncio.sleep(0.5)  # they come to their end, and then there is room again
        assert await reader.read(one) == 1
        return first, took_s

    first, took_s = reading(database, use, threads=2)
    assert [problem.code for problem in first] == ["unavailable"] * 2
    assert took_s < 1


@pytest.mark.parametrize(
    ("found", "needed", "fits"),
    [("2", "2", True), ("10", "9", True), ("1.10", "1.9", True), ("1", "2", False)],
)
def test_a_service_is_ready_when_the_schema_is_at_least_as_new_as_its_code(
    database: Database, found: str, needed: str, fits: bool
) -> None:
    database.as_owner(
        "DELETE FROM flyway_schema_history; INSERT INTO flyway_schema_history VALUES "
        f"(1, '{found}', 'd', 'SQL', 's', 0, 'me', now(), 1, true)"
    )
    check = check_database(database.sessions, schema_version=needed)
    if fits:
        check()
        return
    with pytest.raises(SchemaTooOld, match="run the migrations"):
        check()


def test_a_failed_migration_does_not_count(database: Database) -> None:
    database.as_owner(
        "DELETE FROM flyway_schema_history; INSERT INTO flyway_schema_history VALUES "
        "(1, '1', 'd', 'SQL', 's', 0, 'me', now(), 1, true), "
        "(2, '2', 'd', 'SQL', 's', 0, 'me', now(), 1, false)"
    )
    with pytest.raises(SchemaTooOld, match="at 1"):
        check_database(database.sessions, schema_version="2")()


def test_a_database_that_does_not_answer_is_told_without_its_password(database: Database) -> None:
    database.shut()
    try:
        ok, results = run_checks({"db": check_database(database.sessions, schema_version="1")})
    finally:
        database.reopen()
    assert not ok
    assert "OperationalError" in results["db"]
    password = database.sessions.kw["bind"].url.password
    assert password
    assert password not in results["db"]
