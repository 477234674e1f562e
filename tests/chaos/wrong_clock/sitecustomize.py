"""A wrong wall clock for one Python process: on its PYTHONPATH, with WRONG_CLOCK_S seconds.

What Python code reads is shifted: `time.time()`, `time.time_ns()`, `datetime.now()` and the like, and the time in
version 7 UUIDs. Monotonic clocks are right, as they are on a machine whose wall clock is wrong. The clock that C
libraries read by themselves (librdkafka stamps messages with it) is not shifted.
"""

import datetime
import os
import time
from typing import Any
from uuid import UUID

import uuid_utils.compat

SHIFT_S = float(os.environ["WRONG_CLOCK_S"])
SHIFT = datetime.timedelta(seconds=SHIFT_S)
SHIFT_NS = round(SHIFT_S * 1_000_000_000)

_time, _time_ns, _uuid7 = time.time, time.time_ns, uuid_utils.compat.uuid7
_datetime = datetime.datetime


class _Kind(type):
    """Every datetime is one of ours, and ours is a datetime, whoever asks."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _datetime)


class _WrongDatetime(datetime.datetime, metaclass=_Kind):
    """Makes real datetimes only: libraries in C and Rust know no others."""

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        return _datetime(*arguments, **options)

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return _datetime.now(tz) + SHIFT

    @classmethod
    def utcnow(cls) -> Any:
        return _datetime.now(datetime.UTC).replace(tzinfo=None) + SHIFT

    @classmethod
    def today(cls) -> Any:
        return _datetime.now() + SHIFT


def _wrong_uuid7(*, nanoseconds: int | None = None) -> UUID:
    return _uuid7(nanoseconds=nanoseconds or _time_ns() + SHIFT_NS)


time.time = lambda: _time() + SHIFT_S
time.time_ns = lambda: _time_ns() + SHIFT_NS
datetime.datetime = _WrongDatetime  # type: ignore[misc]
uuid_utils.compat.uuid7 = _wrong_uuid7
