"""One look: everything within the databases, everything across them, and again what may have been moving."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine

from ecom_audit import across, transitions, within
from ecom_audit.across import COMPARISONS, Comparison, Suspicion
from ecom_audit.databases import snapshots
from ecom_audit.invariants import Report

_Suspicions = list[tuple[Comparison, dict[str, Suspicion]]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things are given before they count as wrong."""

    grace_s: float = 60.0
    """Beyond a deadline, or unsent."""
    settle_s: float = 5.0
    """A row that changed so recently is on its way to agree with others."""
    pause_s: float = 1.0
    """Between two looks at the same difference."""

    @property
    def most_looks(self) -> int:
        """Enough for whatever moved at the first to have settled, and to be seen unchanged after that."""
        return math.ceil(self.settle_s / self.pause_s) + 2


def look(
    engines: Mapping[str, Engine],
    patience: Patience,
    *,
    sleep: Callable[[float], object] = time.sleep,
) -> Report:
    """Everything that does not hold. Raises SQLAlchemyError when a database cannot be read."""
    begin = time.monotonic()
    report = Report()
    with snapshots(engines) as now:
        # The comparisons first: the closer to the snapshots, the less has to be looked at again.
        suspicions = [
            (c, across.suspicions(c, now, settle_s=patience.settle_s)) for c in COMPARISONS
        ]
        report.orders, report.open_orders = within.count_orders(now, grace_s=patience.grace_s)
        report.add(within.violations(now, grace_s=patience.grace_s))
        report.add(transitions.violations(now))
        report.add(within.attention(now))
    for _ in range(patience.most_looks):
        if any(found for _, found in suspicions):
            sleep(patience.pause_s)
            suspicions = _look_again(engines, patience, suspicions, report)
    report.moving = sum(len(found) for _, found in suspicions)
    report.seconds = time.monotonic() - begin
    return report


def _look_again(
    engines: Mapping[str, Engine], patience: Patience, before: _Suspicions, report: Report
) -> _Suspicions:
    """Report what stands still and is still wrong; what is wrong and moves is suspected further."""
    left: _Suspicions = []
    with snapshots(engines) as now:
        for comparison, suspected in before:
            again = across.suspicions(
                comparison, now, settle_s=patience.settle_s, keys=list(suspected)
            )
            moving = {}
            for key, suspicion in again.items():
                if suspicion.is_moving or suspicion.facts != suspected[key].facts:
                    moving[key] = suspicion
                else:
                    report.add(suspicion.findings)
            left.append((comparison, moving))
    return left
