"""Whoever acts next, and how an act can end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation.processes import LOOP, Process


class Crash(BaseException):
    """The process dies here."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Something that can happen next."""

    name: str
    run: Callable[[], Any]
    weight: float
    process: Process | None = None
    thread: str = LOOP
