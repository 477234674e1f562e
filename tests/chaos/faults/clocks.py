"""Wall clocks that are wrong, each by another amount: no deadline, lease or order of things may depend on one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.lab import WRONG_CLOCK, Lab, Settings

# Every pair of processes that talk to each other is 20 minutes apart; the deadline is some seconds.
MINUTES: Final = {
    "order-api": 10,
    "order-worker": -10,
    "inventory-api": -10,
    "inventory-worker": 10,
    "payment-api": 10,
    "payment-worker": -10,
}
TOLERANCE_S: Final = 120
WHILE_ORDERS: Final = 40


def _wrong(minutes: int) -> dict[str, str]:
    return {"PYTHONPATH": str(WRONG_CLOCK), "WRONG_CLOCK_S": str(minutes * 60)}


ENVIRONMENT: Final[Settings] = {part: _wrong(minutes) for part, minutes in MINUTES.items()}


def _clocks_apart(lab: Lab) -> None:
    """They are wrong from the beginning of the load to its end: see `environment`."""
    for part, minutes in MINUTES.items():
        off_s = _off_by_s(lab, part)
        assert abs(off_s - minutes * 60) < TOLERANCE_S, (
            f"the clock of {part} is off by {off_s:.0f} s"
        )
        lab.fired(f"{part} lives {off_s / 60:+.0f} min from now")
    lab.load.until_more(WHILE_ORDERS)


def _off_by_s(lab: Lab, part: str) -> float:
    """By the last line of its log, which was written after its start, some seconds ago."""
    lines = [line for line in lab.log(part).splitlines() if line.startswith("{")]
    at = datetime.fromisoformat(json.loads(lines[-1])["at"])
    return (at - datetime.now(UTC)).total_seconds()


FAULTS: Final = (
    Fault(
        name="clocks-apart",
        shows="wall clocks ±10 min per process: deadlines and leases go by the databases' clock alone",
        level="clock",
        inject=_clocks_apart,
        environment=ENVIRONMENT,
    ),
)
