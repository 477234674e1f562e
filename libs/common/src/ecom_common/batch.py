"""The unit of work is a batch: many commands or messages, one transaction.

`apply_batch` is the one primitive under the HTTP commands (`Batcher`) and the Kafka messages
(`consumer`): apply the batch; when another transaction is in the way roll back and retry the whole; when
something unexpected happens roll back and replay in parts, down to one, so that only the guilty one fails.

An ambiguous COMMIT (the connection went away while it ran) is answered by running the unit again: each
unit carries a key (idempotency key, message id) by which it finds what it had committed.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sqlalchemy.orm import Session

from ecom_common import metrics
from ecom_common.crash_points import crash_point
from ecom_common.database import (
    LOCK_NOT_AVAILABLE,
    UNIQUE_VIOLATION,
    Sessions,
    Trouble,
    backoff_s,
    classify,
    sql_state,
)
from ecom_common.errors import DependencyDown, Problem
from ecom_common.logs import describe

C = TypeVar("C")
R = TypeVar("R")

TRIES: Final = 4
"""How often a batch is run before contention is treated as the fault of one of its members."""

MAX_WAITING: Final = 2_000
"""Commands in front of a batcher beyond which new ones are refused: some seconds' worth."""

SUBMIT_TIMEOUT_S: Final = 6.0
"""Longest that a client waits for its command; later its own retry, with its key, finds the result."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failed:
    """The outcome of a batch member that could not be applied; its effect was rolled back."""

    error: Exception


def apply_batch(
    sessions: Sessions,
    handle: Callable[[Session, Sequence[C]], Sequence[R]],
    items: Sequence[C],
    *,
    name: str,
    sleep: Callable[[float], None] = time.sleep,
) -> list[R | Failed]:
    """Apply `items` in one transaction, or in ever smaller ones when that fails; one outcome for each, in order.

    Raises DependencyDown when the database does not answer: then nothing is known to be committed, and
    the whole may be run again.
    """
    metrics.BATCH_SIZE.labels(name).observe(len(items))
    try:
        return list(_apply_with_retries(sessions, handle, items, name=name, sleep=sleep))
    except DependencyDown:
        raise
    except Exception as error:
        if len(items) == 1:
            return [Failed(error)]
        parts = _parts(items, error)
        log.warning("replaying %d in %d parts: %s", len(items), len(parts), describe(error))
    metrics.BATCHES_REPLAYED.labels(name).inc()
    return [
        outcome
        for part in parts
        for outcome in apply_batch(sessions, handle, part, name=name, sleep=sleep)
    ]


def _parts(items: Sequence[C], error: Exception) -> list[Sequence[C]]:
    """What to try instead of a batch that has failed, in order.

    Halves, so that one guilty of 200 costs some 16 transactions and not 200: while they run, nothing else does.
    But each by itself when the failure costs time, as waiting for a lock does: halves would wait at every level.
    """
    if classify(error) is not Trouble.UNEXPECTED:
        return [[item] for item in items]
    middle = len(items) // 2
    return [items[:middle], items[middle:]]


def _apply_with_retries(
    sessions: Sessions,
    handle: Callable[[Session, Sequence[C]], Sequence[R]],
    items: Sequence[C],
    *,
    name: str,
    sleep: Callable[[float], None],
) -> Sequence[R]:
    for attempt in range(TRIES):
        try:
            with sessions.begin() as session:
                results = handle(session, items)
                assert len(results) == len(items), "a handler owes one result for each item"
                crash_point("batch.before_commit")
            crash_point("batch.after_commit")
            return results
        except Exception as error:
            trouble = classify(error)
            if trouble is Trouble.UNEXPECTED or sql_state(error) == LOCK_NOT_AVAILABLE:
                # Whoever has kept a lock for all of the lock time-out will keep it longer: the one that
                # needs it must find out before its client gives up, and the others must not wait for it.
                raise
            metrics.UNITS_RETRIED.labels(name, trouble.value).inc()
            if attempt == TRIES - 1:
                if trouble is Trouble.DOWN:
                    raise DependencyDown(
                        f"the database does not answer: {describe(error)}"
                    ) from error
                raise
            sleep(backoff_s(attempt))
    raise AssertionError("unreachable")


class Batcher(Generic[C, R]):
    """Collects commands while a transaction runs, and applies what has come together in the next one.

    An idle system adds no delay: the first command starts a batch of one. One batch at a time, on a
    thread of its own, because a second one would only compete with it for the interpreter. Belongs to
    one event loop.
    """

    def __init__(
        self,
        sessions: Sessions,
        handle: Callable[[Session, Sequence[C]], Sequence[R]],
        *,
        name: str,
        max_batch: int,
    ) -> None:
        self._sessions = sessions
        self._handle = handle
        self._name = name
        self._max_batch = max_batch
        self._waiting: deque[tuple[C, asyncio.Future[R]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"batcher-{name}")
        self._draining: asyncio.Task[None] | None = None
        self._applying_since: float | None = None

    async def submit(self, command: C) -> R:
        """The command's own result, after the commit of the batch it was part of.

        Raises the Problem it was refused with; `overloaded` when too many wait; `unavailable` when the
        database does not answer; `request_in_progress` when a twin holds the lock on its key.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Problem("overloaded", "Try again in a moment.", retry_after_s=1)
        if self._is_stuck:
            raise _unavailable()
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        try:
            return await asyncio.wait_for(future, SUBMIT_TIMEOUT_S)
        except TimeoutError:
            raise _unavailable() from None

    async def close(self) -> None:
        """Finish what has been submitted, then stop the thread."""
        if self._draining is not None:
            await self._draining
        self._thread.shutdown()

    @property
    def _is_stuck(self) -> bool:
        """The batch that is being applied has taken so long that nobody waits for it any more: whoever came
        now would wait just as long, behind it, and be told the same."""
        since = self._applying_since
        return since is not None and time.monotonic() - since > SUBMIT_TIMEOUT_S

    async def _drain(self) -> None:
        while self._waiting:
            batch = self._take()
            if batch:
                await self._apply(batch)

    def _take(self) -> list[tuple[C, "asyncio.Future[R]"]]:
        taken: list[tuple[C, asyncio.Future[R]]] = []
        while self._waiting and len(taken) < self._max_batch:
            command, future = self._waiting.popleft()
            # A client that has given up is not served: its retry would only repeat the work.
            if not future.done():
                taken.append((command, future))
        return taken

    async def _apply(self, batch: list[tuple[C, "asyncio.Future[R]"]]) -> None:
        commands = [command for command, _ in batch]
        self._applying_since = time.monotonic()
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._apply_in_thread, commands
            )
        except DependencyDown as error:
            log.warning("%s: %s", self._name, error)
            outcomes = [Failed(_unavailable()) for _ in batch]
        except Exception as error:
            # Nobody waits in vain, whatever it was.
            outcomes = [Failed(error) for _ in batch]
        finally:
            self._applying_since = None
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if not future.done():
                _settle(future, outcome)

    def _apply_in_thread(self, commands: Sequence[C]) -> list[R | Failed]:
        return apply_batch(self._sessions, self._handle, commands, name=self._name)


def _settle(future: "asyncio.Future[R]", outcome: R | Failed) -> None:
    if isinstance(outcome, Problem):
        future.set_exception(outcome)
    elif isinstance(outcome, Failed):
        future.set_exception(_as_answer(outcome.error))
    else:
        future.set_result(outcome)


def _as_answer(error: Exception) -> Exception:
    if isinstance(error, Problem):
        return error
    if sql_state(error) == LOCK_NOT_AVAILABLE:
        return Problem(
            "request_in_progress",
            "The same request, or one for the same rows, has not finished. Try again.",
            retry_after_s=1,
        )
    # A unique violation that outlives every try is no twin, which the second try would have found, but a
    # bug of ours: it must show as one.
    if classify(error) is Trouble.CONTENTION and sql_state(error) != UNIQUE_VIOLATION:
        return Problem(
            "overloaded", "Too many changes of the same rows. Try again.", retry_after_s=1
        )
    return error


def _unavailable() -> Problem:
    return Problem("unavailable", "The database does not answer. Try again.", retry_after_s=2)
