"""Which faults the short campaign of a day has: so that a few days see them all."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final

from tests.chaos.fault import Fault

DAYS: Final = 3
"""After so many days every fault of these levels has had its turn."""
LEVELS: Final = frozenset({"process"})


def of_the_day(faults: Sequence[Fault], date: datetime.date) -> list[Fault]:
    """Every `DAYS`-th of the faults of `LEVELS`, beginning with another one each day."""
    due = [fault for fault in faults if fault.level in LEVELS and not fault.needs_root]
    return due[date.toordinal() % DAYS :: DAYS]
