"""Queries of the HTTP APIs: a session on one of a few threads, never on the event loop.

As many threads as connections: a request waits for a thread, cheaply, instead of holding a thread while it
waits for a connection.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sqlalchemy.orm import Session

from ecom_common.database import Sessions, Trouble, classify
from ecom_common.errors import Problem

T = TypeVar("T")

READ_TIMEOUT_S: Final = 6.0
MAX_WAITING: Final = 500


class Reader:
    """Runs queries for one event loop."""

    def __init__(self, sessions: Sessions, *, threads: int) -> None:
        self._sessions = sessions
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._waiting = 0
        self._size = threads
        self._begun: dict[int, float] = {}
        """When each thread that is at work began."""

    async def read(self, query: Callable[[Session], T]) -> T:
        """The query's result; raises `unavailable` or `overloaded`."""
        if self._waiting >= MAX_WAITING:
            raise Problem("overloaded", "Try again in a moment.", retry_after_s=1)
        if self._is_stuck:
            raise _unavailable()
        self._waiting += 1
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)
            return await asyncio.wait_for(running, READ_TIMEOUT_S)
        except TimeoutError:
            raise _unavailable() from None
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let the running queries end; their own time-outs bound the wait."""
        self._threads.shutdown(cancel_futures=True)

    @property
    def _is_stuck(self) -> bool:
        """Every thread is at work for somebody who has given up: whoever came now would wait in vain."""
        begun = list(self._begun.values())
        now = time.monotonic()
        return len(begun) == self._size and all(now - at > READ_TIMEOUT_S for at in begun)

    def _run(self, query: Callable[[Session], T]) -> T:
        thread = threading.get_ident()
        self._begun[thread] = time.monotonic()
        try:
            return self._run_twice(query)
        finally:
            del self._begun[thread]

    def _run_twice(self, query: Callable[[Session], T]) -> T:
        try:
            return self._run_once(query)
        except Exception as error:
            if classify(error) is Trouble.UNEXPECTED:
                raise
        # Once more: after a restart of the database every pooled connection fails once.
        try:
            return self._run_once(query)
        except Exception as error:
            if classify(error) is Trouble.UNEXPECTED:
                raise
            raise _unavailable() from error

    def _run_once(self, query: Callable[[Session], T]) -> T:
        with self._sessions() as session:
            return query(session)


def _unavailable() -> Problem:
    return Problem("unavailable", "The database does not answer. Try again.", retry_after_s=2)
