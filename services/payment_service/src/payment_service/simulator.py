"""The built-in payment provider: a simulation with a book of its own, in a database of its own.

It stands for somebody else's system. Nothing here reads or writes our tables; what it did can be compared
with our ledger, key by key. Its faults are those of real providers, chosen by the payment method, and
always decided in its book first: a caller who never hears of a capture has been charged nonetheless.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NoReturn

from payment_service.provider import Outcome, ProviderCharge, ProviderError, ProviderTimeout, Status
from payment_service.simulator_book import Book
from payment_service.simulator_tokens import Mishap, behaviour_of

SIMULATED_TIMEOUT_S: Final = 0.5
"""Longest that a simulated time-out takes: real enough, and a demonstration need not wait for it."""


class Simulator:
    """A `Provider` with a book in Postgres. Thread-safe."""

    def __init__(
        self,
        book: Book,
        *,
        timeout_s: float,
        slow_s: float,
        late_s: float,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._book = book
        self._timeout_s = timeout_s
        self._slow_s = slow_s
        self._late = timedelta(seconds=late_s)
        self._sleep = sleep

    def open(self, key: str, *, amount: int, currency: str, method: str) -> str:
        if behaviour_of(method).mishap is Mishap.NEVER_SEEN and self._book.lose(key):
            self._time_out()
        return self._book.open(key, amount=amount, currency=currency, method=method)

    def confirm(self, reference: str) -> Outcome:
        if self._book.capture_plain(reference):
            return Outcome(Status.CAPTURED)
        with self._book.locked(reference) as charge:
            mishap = charge.confirm(late=self._late)
        if mishap is Mishap.ERROR:
            raise ProviderError("500 Internal Server Error")
        if mishap in (Mishap.ANSWER_LOST, Mishap.LATE):
            self._time_out()
        if mishap is Mishap.SLOW:
            self._take(self._slow_s)
        return charge.outcome

    def cancel(self, reference: str) -> Outcome:
        with self._book.locked(reference) as charge:
            charge.cancel()
        return charge.outcome

    def refund(self, reference: str, key: str, amount: int) -> Outcome:
        outcome, mishap = self._book.refund(reference, key, amount)
        if mishap is Mishap.REFUND_ANSWER_LOST:
            self._time_out()
        return outcome

    def find(
        self, *, reference: str | None = None, key: str | None = None
    ) -> ProviderCharge | None:
        return self._book.find(reference=reference, key=key)

    def _time_out(self) -> NoReturn:
        self._sleep(min(self._timeout_s, SIMULATED_TIMEOUT_S))
        raise ProviderTimeout("no answer in time")

    def _take(self, seconds: float) -> None:
        self._sleep(min(seconds, self._timeout_s))
        if seconds >= self._timeout_s:
            raise ProviderTimeout("no answer in time")
