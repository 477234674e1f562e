"""Leaving a safeguard out: a suite that cannot find anything would prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from ecom_local.parts import SERVICES

from tests.chaos.campaign import MEANWHILE, describe, judge, observe
from tests.chaos.faults import FAULTS
from tests.chaos.lab import Lab, Settings

FOUND: Final = 0
NOT_FOUND: Final = 1

SHOWN_BY: Final[dict[str, str]] = {
    "row-locks": "crossed-baskets",
    "relay-lock": "relays-side-by-side",
    "oversell-check": "last-units",
}
"""Safeguard → the fault that shows what it is for."""

# The database's part of it. The ledger's own CHECK, which would notice a negative count, goes with it.
_CHECKS_AGAINST_OVERSELL: Final = (
    "ALTER TABLE stock_levels DROP CONSTRAINT ck_stock_levels_reserved",
    "ALTER TABLE movements DROP CONSTRAINT ck_movements_on_hand_after",
)

OpenLab = Callable[[int, Callable[[str], None], Settings], AbstractContextManager[Lab]]


def show(
    name: str, open_lab: OpenLab, *, seed: int, orders: int, say: Callable[[str], None]
) -> int:
    """Run the fault without the safeguard; 0 only when a violation was found."""
    fault = FAULTS[SHOWN_BY[name]]
    settings = {service: {"WITHOUT_SAFEGUARDS": name} for service in SERVICES}
    say(f"── {fault.name} without {name}: {fault.shows}")
    with open_lab(seed, say, settings) as lab:
        for statement in _CHECKS_AGAINST_OVERSELL if name == "oversell-check" else ():
            lab.sql("inventorydb", statement)
        [result] = judge(lab, [observe(lab, fault, orders=orders)])
    say(describe(result))
    if not result.fired:
        return NOT_FOUND
    found = [problem for problem in result.problems if not problem.startswith(MEANWHILE)]
    say(f"without {name}: {len(found)} violations were found{', as must be' if found else ''}")
    return FOUND if found else NOT_FOUND
