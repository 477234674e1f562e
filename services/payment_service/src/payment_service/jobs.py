"""Asks the provider, on threads of its own: outside every transaction and beside the worker's loop.

One thread claims jobs, hands them to the askers and writes their results down, many in one transaction; so
the database sees as few transactions as there is room for. A job whose result is never written (a crash, a
database that is away for long) is claimed again when its lease has ended, and asked with the same key.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from ecom_common.batch import Failed, apply_batch
from ecom_common.crash_points import crash_point
from ecom_common.database import Sessions, Trouble, backoff_s, classify
from ecom_common.errors import DependencyDown
from ecom_common.logs import describe
from ecom_common.tracing import about_order

from payment_service import metrics, service
from payment_service.provider import Outcome, Provider, ProviderError, ProviderTimeout
from payment_service.service import Job, Result
from payment_service.settings import CALLS_OF_A_JOB
from payment_service.states import Backoff, OperationKind

IDLE_POLL_S: Final = 0.1
"""How often an idle claimer looks for what it was not woken for: other workers' jobs, and retries."""
AHEAD: Final = 32
"""Jobs in hand for each asker: enough that none waits for a transaction between two calls, and that half of it has
room for a batch of charges, which then need no claim of their own."""
STOPPED_S: Final = 0.5
"""What a stop leaves of its time for writing down the last results."""

log = logging.getLogger(__name__)

T = TypeVar("T")
_Ask = Callable[[Provider, str, Job], Outcome]

# What is asked for each kind of operation, once the charge's reference is known.
_QUESTIONS: Final[Mapping[OperationKind, tuple[str, _Ask]]] = {
    OperationKind.CHARGE: ("confirm", lambda provider, reference, _: provider.confirm(reference)),
    OperationKind.VOID: ("cancel", lambda provider, reference, _: provider.cancel(reference)),
    OperationKind.REFUND: (
        "refund",
        lambda provider, reference, job: provider.refund(reference, job.key, job.amount),
    ),
}


@dataclass(frozen=True, slots=True)
class JobSettings:
    """How many calls at once, how long a claim lasts, and when a missing answer is asked for again."""

    threads: int
    call_timeout_s: float
    lease_s: float
    backoff: Backoff


def ask(provider: Provider, job: Job) -> Result:
    """Ask the provider once. Never raises: whatever goes wrong is an unknown outcome."""
    with about_order(str(job.order_id), job.traceparent):
        crash_point("provider.before_call")
        result = _ask(provider, job)
        crash_point("provider.after_call")
        return result


def _ask(provider: Provider, job: Job) -> Result:
    reference = job.reference
    try:
        # Also before a cancel: a charge that the provider has never seen has no fence yet, and a late
        # open would still get through. Opening moves no money.
        reference = reference or _timed("open", lambda: _open(provider, job))
        name, question = _QUESTIONS[job.kind]
        known: str = reference
        answer = _timed(name, lambda: question(provider, known, job))
    except ProviderError as error:
        log.warning("%s: no answer (attempt %d): %s", job.kind, job.attempt, describe(error))
        return Result(job, reference, None, describe(error))
    except Exception as error:
        log.error("%s failed: %s", job.kind, describe(error), exc_info=error)
        return Result(job, reference, None, describe(error))
    return Result(job, reference, answer)


def _open(provider: Provider, job: Job) -> str:
    return provider.open(
        job.charge_key, amount=job.amount, currency=job.currency, method=job.method
    )


def _timed(name: str, call: Callable[[], T]) -> T:
    begin = time.perf_counter()
    outcome = "error"
    try:
        answer = call()
        outcome = answer.status.value if isinstance(answer, Outcome) else "ok"
    except ProviderTimeout:
        outcome = "timeout"
        raise
    finally:
        metrics.PROVIDER_SECONDS.labels(name, outcome).observe(time.perf_counter() - begin)
    return answer


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A job in hand, and when it is too late to begin with it."""

    job: Job
    begin_by: float


@dataclass(frozen=True, slots=True)
class Hand:
    """What the askers may be given by a transaction that begins now."""

    room: int
    lease: timedelta
    begin_by: float


@dataclass(frozen=True, slots=True)
class _NotBegun:
    job: Job


class ProviderJobs:
    """The side job of the worker that claims operations, asks the provider and records its answers."""

    def __init__(
        self,
        sessions: Sessions,
        provider: Provider,
        settings: JobSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sessions = sessions
        self._provider = provider
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._todo: queue.SimpleQueue[_Claimed | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Result | _NotBegun | None] = queue.SimpleQueue()
        self._results: list[Result] = []
        self._not_begun: list[Job] = []
        self._in_hand = 0
        self._counting = threading.Lock()
        self._claim_due_at = 0.0
        self._troubles = 0
        self._stopping = threading.Event()
        self._finish_by = 0.0
        self._claimer = threading.Thread(target=self._claim_and_record, name="jobs", daemon=True)
        # Daemons: a call that hangs must not keep the process from ending.
        self._askers = [
            threading.Thread(target=self._ask_on, name=f"provider-{number}", daemon=True)
            for number in range(settings.threads)
        ]

    def start(self) -> None:
        for thread in (self._claimer, *self._askers):
            thread.start()

    def open_hand(self) -> Hand:
        """How many new jobs the askers have room for, and on which terms.

        Up to half of what they take: the rest is for what is due already, which new ones must not keep waiting.
        """
        # Half of the time too: the transaction that asks may have waited before it did, and its lease with it.
        return self._hand(self._capacity // 2, self._spare_s / 2)

    def _hand(self, most: int, begin_within_s: float) -> Hand:
        room = 0 if self._stopping.is_set() else max(0, most - self._in_hand)
        lease = timedelta(seconds=self._settings.lease_s)
        return Hand(room, lease, self._clock() + begin_within_s)

    @property
    def _spare_s(self) -> float:
        """How long a lease may wait before its job begins."""
        return self._settings.lease_s - CALLS_OF_A_JOB * self._settings.call_timeout_s

    def take(self, jobs: Sequence[Job], hand: Hand) -> None:
        """Ask for these, which a committed transaction has leased to us; and look for what it has made beside them."""
        if len(jobs) == hand.room:
            self.wake()
        with self._counting:
            self._in_hand += len(jobs)
        for job in jobs:
            self._todo.put(_Claimed(job, hand.begin_by))

    def give_back(self, jobs: Sequence[Job]) -> None:
        """A transaction that leased these to us was rolled back, or nobody knows. Where it was not, nobody would ask for
        them before their lease is over."""
        with self._counting:
            self._in_hand += len(jobs)
        for job in jobs:
            self._done.put(_NotBegun(job))

    def wake(self) -> None:
        """There may be something to claim."""
        self._claim_due_at = 0.0
        self._done.put(None)

    def stop(self, timeout_s: float) -> None:
        """Let running calls end and record them; give back what was claimed and not begun."""
        self._finish_by = self._clock() + max(0.0, timeout_s - STOPPED_S)
        self._stopping.set()
        self.wake()
        self._claimer.join(timeout_s)

    def run_once(self) -> int:
        """Ask for what was taken and what is due, and record it, all in this thread; how many jobs that were."""
        self._collect(0)
        hand = self._hand(self._capacity, self._spare_s)
        jobs = [*self._waiting(), *self._claim(hand)]
        self._results += [ask(self._provider, job) for job in jobs]
        self._write_down()
        return len(jobs)

    def _waiting(self) -> list[Job]:
        jobs: list[Job] = []
        while not self._todo.empty() and (claimed := self._todo.get()) is not None:
            jobs.append(claimed.job)
        with self._counting:
            self._in_hand -= len(jobs)
        return jobs

    @property
    def _capacity(self) -> int:
        return self._settings.threads * AHEAD

    def _ask_on(self) -> None:
        while (claimed := self._todo.get()) is not None:
            # Without this a long queue before slow calls would outlast its leases.
            late = self._clock() >= claimed.begin_by or self._stopping.is_set()
            self._done.put(_NotBegun(claimed.job) if late else ask(self._provider, claimed.job))

    def _claim_and_record(self) -> None:
        while not self._stopping.is_set():
            self._collect(IDLE_POLL_S)
            self._guarded(self._round)
        for _ in self._askers:
            self._todo.put(None)
        while self._in_hand and self._clock() < self._finish_by:
            self._collect(self._finish_by - self._clock())
        self._guarded(self._write_down)

    def _round(self) -> None:
        self._write_down()
        # The time of before the claim, so that our end of the lease comes before the database's.
        hand = self._hand(self._capacity, self._spare_s)
        # Not for every result that frees a place: claims in one transaction are cheaper together.
        if hand.room >= self._capacity // 2 and self._clock() >= self._claim_due_at:
            self._claim_due_at = self._clock() + IDLE_POLL_S
            self.take(self._claim(hand), hand)

    def _collect(self, timeout_s: float) -> None:
        """Take what has been done, waiting at most `timeout_s` for the first."""
        try:
            self._settle(self._done.get(timeout=max(0.0, timeout_s)))
            while True:
                self._settle(self._done.get_nowait())
        except queue.Empty:
            return

    def _settle(self, done: Result | _NotBegun | None) -> None:
        if done is None:
            return
        with self._counting:
            self._in_hand -= 1
        if isinstance(done, Result):
            self._results.append(done)
        else:
            self._not_begun.append(done.job)

    def _claim(self, hand: Hand) -> list[Job]:
        with self._sessions.begin() as session:
            return service.claim_jobs(session, most=hand.room, lease=hand.lease)

    def _write_down(self) -> None:
        if self._results:
            self._record()
        if self._not_begun:
            with self._sessions.begin() as session:
                service.give_back_jobs(session, self._not_begun)
            metrics.JOBS_NOT_BEGUN.inc(len(self._not_begun))
            self._not_begun = []

    def _record(self) -> None:
        """Write the results down; those that a busy database did not take are kept for the next time."""
        record = partial(service.record_results, backoff=self._settings.backoff)
        results = self._results
        outcomes = apply_batch(
            self._sessions, record, results, name="provider_results", sleep=self._sleep
        )
        self._results = []
        for result, outcome in zip(results, outcomes, strict=True):
            if isinstance(outcome, Failed):
                self._not_recorded(result, outcome.error)

    def _not_recorded(self, result: Result, error: Exception) -> None:
        if classify(error) is not Trouble.UNEXPECTED:
            self._results.append(result)
            return
        # Its lease ends, and then the provider is asked again, with the same key.
        log.error(
            "a result could not be recorded: %s",
            describe(error),
            exc_info=error,
            extra={"order_id": str(result.job.order_id)},
        )

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
            self._troubles = 0
        except Exception as error:
            self._troubles += 1
            expected = (
                isinstance(error, DependencyDown) or classify(error) is not Trouble.UNEXPECTED
            )
            if not expected:
                log.error("provider jobs failed: %s", describe(error), exc_info=error)
            elif self._troubles == 1 or self._troubles % 20 == 0:
                log.warning("provider jobs have to wait: %s", describe(error))
            self._stopping.wait(backoff_s(self._troubles, first_s=0.05, most_s=1.0))
