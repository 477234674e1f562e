"""Leaving a safeguard out: a suite that cannot find anything would prove nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from ecom_local.parts import SERVICES

from tests.chaos.campaign import FOR_ATTENTION, MEANWHILE, describe, judge, observe
from tests.chaos.faults import FAULTS
from tests.chaos.lab import Lab, Settings
from tests.chaos.published import TOPICS

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
"""Of a seed, of who is told what happens, and of settings beside the usual ones."""


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
    # What did not hold meanwhile, or is left for people, is a sign and not yet a proof.
    proofs = [p for p in result.problems if not p.startswith((MEANWHILE, FOR_ATTENTION))]
    found = Counter(kind_of(proof) for proof in proofs)
    kinds = ", ".join(f"{count} × {kind}" for kind, count in found.most_common())
    say(f"without {name} the suite found: {kinds or 'nothing'}")
    return FOUND if found else NOT_FOUND


def kind_of(problem: str) -> str:
    """The invariant of the audit, a topic, or what customers were told."""
    what, _, rest = problem.partition(": ")
    if what == "audit":
        return f"audit: {rest.partition(': ')[0]}"
    return f"topic {what}" if what in TOPICS else "history"
