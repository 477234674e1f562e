"""Waiting for something to come true: with a deadline, and never longer than it takes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.01


def eventually(look: Callable[[], T], *, within_s: float = 15.0) -> T:
    """The first truthy value of `look`; fails the test with the last one when time is up.

    `look` may do the work that is waited for, such as one round of a loop.
    """
    deadline = time.monotonic() + within_s
    while not (value := look()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {look}, last {value!r}"
        time.sleep(POLL_S)
    return value
