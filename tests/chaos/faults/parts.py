"""Whole parts that are killed, one after the other, whatever they are just doing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.lab import APIS, WORKERS, Lab

MEANWHILE: Final = 5
"""Orders between one and the next."""


def _kill_each(lab: Lab, parts: Iterable[str]) -> None:
    for part in parts:
        lab.kill(part)
        lab.until_ready(part)
        lab.load.until_more(MEANWHILE)


FAULTS: Final = (
    Fault(
        name="apis-killed",
        shows="kill -9 of each api at any moment: requests are sent again, and done once",
        level="part",
        inject=lambda lab: _kill_each(lab, APIS),
        published_once=True,
    ),
    Fault(
        name="workers-killed",
        shows="kill -9 of each worker at any moment: it comes back by itself, and everything goes on",
        level="part",
        inject=lambda lab: _kill_each(lab, WORKERS),
    ),
    Fault(
        name="databases-killed",
        shows="kill -9 of each database server: it recovers, and what was acknowledged is there",
        level="part",
        inject=lambda lab: _kill_each(lab, lab.databases),
        left_out={
            "natively": "the server's other processes outlive its first, and keep it from starting; "
            "postgres-stopped-at-once is its crash there"
        },
    ),
    Fault(
        name="broker-killed",
        shows="kill -9 of the broker: it comes back with all that it has acknowledged",
        level="part",
        inject=lambda lab: _kill_each(lab, ["kafka"]),
    ),
)
