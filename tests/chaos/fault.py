"""A fault: what it is called, what it must show, and how it is brought about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from tests.chaos.lab import Lab

Level = Literal[
    "process",
    "part",
    "network",
    "client",
    "migration",
    "clock",
    "broker",
    "database",
    "message",
    "provider",
]
Place = Literal["natively", "in containers"]
"""Where a platform runs."""
PLACES: Final[tuple[Place, ...]] = ("natively", "in containers")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way in which things go wrong."""

    name: str
    shows: str
    """One line: what must hold although it happens."""
    level: Level
    inject: Callable[[Lab], None]
    """Brings it about while the load runs, and returns when everything is whole again.

    It says `lab.fired(…)` for each time that it has really happened, and may assert what must hold meanwhile.
    """
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Settings that it needs, by service or part as for `Instance`; those parts are restarted for it."""
    needs_root: bool = False
    check: Callable[[Lab], None] | None = None
    """What must hold after the drain, beside what holds after every fault."""
    load_without: frozenset[str] = frozenset()
    """Kinds of the load's mix that would drown what is to be seen."""
    attention: frozenset[str] = frozenset()
    """What it leaves behind for people on purpose, by the auditor's kinds: "dead letter", "flagged", …"""
    published_once: bool = False
    """No relay dies of it, so nothing may be published twice. Otherwise only first publications count."""
    published_in_order: bool = True
    """False where topics are emptied or replayed: then what stands in them says nothing about the relays."""
    left_out: Mapping[Place, str] = field(default_factory=dict)
    """Where it cannot run, and why."""
