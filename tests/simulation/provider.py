"""The payment provider of a run: the built-in simulator, at the end of a bad line.

Whatever happens on the line, the book has it as the provider sees it; so the auditor can compare.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final, TypeVar

from payment_service.provider import Outcome, Provider, ProviderCharge, ProviderTimeout

from tests.simulation.clock import Clock
from tests.simulation.trace import Trace
from tests.simulation.weather import CALM, Weather

T = TypeVar("T")

SILENT: Final = "pm_card_jcb"
"""A card whose issuer never says yes or no: no confirm is ever answered, nor decided."""


@dataclass
class Line:
    """What all processes share of the way to the provider."""

    random: Random
    clock: Clock
    trace: Trace
    timeout_s: float
    weather: Weather = CALM
    methods: dict[str, str] = field(default_factory=dict)
    """By the reference of the charge."""


class BadLine:
    """A `Provider` that may not hear, or not be heard, or take its time."""

    def __init__(self, inner: Provider, line: Line, pause: Callable[[], None]) -> None:
        """`pause` lets others act while a call is under way."""
        self._inner = inner
        self._line = line
        self._pause = pause

    def open(self, key: str, *, amount: int, currency: str, method: str) -> str:
        reference = self._call(
            f"open {key}",
            lambda: self._inner.open(key, amount=amount, currency=currency, method=method),
        )
        self._line.methods[reference] = method
        return reference

    def confirm(self, reference: str) -> Outcome:
        if self._line.methods[reference] == SILENT:
            raise self._time_out(f"confirm {reference}: never answered")
        return self._call(f"confirm {reference}", lambda: self._inner.confirm(reference))

    def cancel(self, reference: str) -> Outcome:
        return self._call(f"cancel {reference}", lambda: self._inner.cancel(reference))

    def refund(self, reference: str, key: str, amount: int) -> Outcome:
        return self._call(f"refund {key}", lambda: self._inner.refund(reference, key, amount))

    def find(
        self, *, reference: str | None = None, key: str | None = None
    ) -> ProviderCharge | None:
        return self._inner.find(reference=reference, key=key)

    def _call(self, what: str, call: Callable[[], T]) -> T:
        chance, weather = self._line.random.random, self._line.weather
        if chance() < weather.request_lost:
            raise self._time_out(f"{what}: lost on the way there")
        if chance() < weather.answer_slow:
            self._line.clock.advance(self._line.random.uniform(0, self._line.timeout_s))
        self._pause()
        answer = call()
        self._line.trace.note(f"{what}: {answer}")
        self._pause()
        if chance() < weather.answer_lost:
            raise self._time_out(f"{what}: lost on the way back")
        return answer

    def _time_out(self, what: str) -> ProviderTimeout:
        self._line.trace.note(what)
        self._line.clock.advance(self._line.timeout_s)
        return ProviderTimeout("no answer in time")
