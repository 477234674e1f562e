"""Time and identity of a simulated run: both move only when the run says so."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_LONG_RUNNING_S: Final = 1_000.0
"""What a monotonic clock says at the start: later than anything that is due at once."""


class Clock:
    """One clock for everybody: databases, processes, broker and provider."""

    def __init__(self) -> None:
        self._passed = timedelta(0)

    @property
    def passed_s(self) -> float:
        return self._passed.total_seconds()

    def now(self) -> datetime:
        return START + self._passed

    def monotonic(self) -> float:
        return _LONG_RUNNING_S + self.passed_s

    def advance(self, seconds: float) -> None:
        """Whole microseconds, as the databases count."""
        self._passed += timedelta(microseconds=round(seconds * 1e6))


class Ids:
    """A source of version 7 UUIDs that replays: the simulated time, and random bits of the seed."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random

    def __call__(self) -> UUID:
        milliseconds = int(self._clock.now().timestamp() * 1000)
        bits = self._random.getrandbits(74)
        high, low = bits >> 62, bits & (1 << 62) - 1
        return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
