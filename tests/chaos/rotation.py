"""Which faults the short campaign of a day has: so that a few days see them all."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final

from tests.chaos.fault import Fault, Level, Place

DAYS: Final[dict[Place, int]] = {"natively": 3, "in containers": 8}
"""After so many days every fault of these levels has had its turn."""
LEVELS: Final[dict[Place, frozenset[Level]]] = {
    "natively": frozenset({"process"}),
    # What a container adds: it dies as a whole, has a network of its own, and is started by an engine.
    "in containers": frozenset({"part", "process", "network"}),
}


def of_the_day(
    faults: Sequence[Fault], date: datetime.date, place: Place = "natively"
) -> list[Fault]:
    """Every `DAYS`-th of the faults of `LEVELS` that run there, beginning with another one each day."""
    due = [fault for fault in faults if is_in_rotation(fault, place)]
    return due[date.toordinal() % DAYS[place] :: DAYS[place]]


def is_in_rotation(fault: Fault, place: Place) -> bool:
    return fault.level in LEVELS[place] and not fault.needs_root and place not in fault.left_out
