"""Leaving a safeguard out: a suite that cannot find anything would prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from ecom_local.parts import SERVICES

from tests.chaos.campaign import describe, judge, observe
from tests.chaos.faults import FAULTS
from tests.chaos.lab import Lab, Settings

FOUND: Final = 0
NOT_FOUND: Final = 1

SHOWN_BY: Final[dict[str, str]] = {}
"""Safeguard → the fault that shows what it is for."""

OpenLab = Callable[[int, Callable[[str], None], Settings], AbstractContextManager[Lab]]


def show(
    name: str, open_lab: OpenLab, *, seed: int, orders: int, say: Callable[[str], None]
) -> int:
    """Run the fault without the safeguard; 0 only when a violation was found."""
    fault = FAULTS[SHOWN_BY[name]]
    settings = {service: {"WITHOUT_SAFEGUARDS": name} for service in SERVICES}
    say(f"── {fault.name} without {name}: {fault.shows}")
    with open_lab(seed, say, settings) as lab:
        [result] = judge(lab, [observe(lab, fault, orders=orders)])
    say(describe(result))
    if not result.fired:
        return NOT_FOUND
    say(
        f"without {name}: "
        + ("nothing was found" if result.held else "violations were found, as must be")
    )
    return NOT_FOUND if result.held else FOUND
