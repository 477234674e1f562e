"""The invariants by name, and what a look at them has shown."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

INVARIANTS: Final = {
    "keys": "an idempotency key stands for one thing, which exists and is its owner's",
    "checkouts": "a customer's checkout is one order",
    "known-orders": "nothing is reserved or charged for an order that does not exist",
    "totals": "an order's total is the sum of its lines",
    "money": "captured − refunded is the total if and only if confirmed, and 0 if closed",
    "one-charge": "an order is charged once at most",
    "ledger": "every journal has two sides that sum to zero",
    "booked": "journals, operations and payments say the same amounts",
    "provider": "ledger and provider's book are the same, key by key",
    "on-hand": "on_hand is the sum of the movements",
    "reserved": "reserved is the sum of the held lines",
    "oversold": "reserved is never more than on_hand",
    "held": "nothing is held for a closed order",
    "movements": "a cause moves a SKU once, and every movement continues the count before it",
    "committed": "what was reserved and has left the house are the order's lines",
    "agreement": "confirmed ⇔ committed ⇔ captured; nobody knows more of a participant than itself",
    "stuck": "nothing is open beyond its deadline, nor forgotten",
    "outboxes": "every message is sent soon",
    "versions": "a history counts 1 to n, and n is the order's version",
    "transitions": "every step of a history is legal",
    "present": "a history ends with what the order is now",
    "messages": "a message changes an order once at most",
}
"""Every invariant that is looked at, in a sentence, in the order in which they are shown."""

KEPT: Final = 1_000
"""Violations of one invariant that are kept to be shown; all are counted."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Two sides that should agree and do not."""

    invariant: str
    subject: str
    """An order id wherever there is one; else a SKU, a journal or a key."""
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Attention:
    """Not a violation, but somebody should look."""

    kind: str
    subject: str
    note: str


Finding: TypeAlias = Violation | Attention

ATTENTION: Final = ("dead letter", "flagged", "resolved", "lost order", "set back")
SETTLED: Final = frozenset({"resolved"})
"""What is shown for ever, and nobody has to do anything about."""


@dataclass
class Report:
    """What one look has shown."""

    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Violations by invariant, also those that were not kept."""
    attention: list[Attention] = field(default_factory=list)
    orders: int = 0
    open_orders: int = 0
    """Orders in flight: open, and neither stuck nor flagged."""
    moving: int = 0
    """Differences between databases that are still changing: in flight too."""
    seconds: float = 0.0

    def add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if isinstance(finding, Attention):
                self.attention.append(finding)
                continue
            assert finding.invariant in INVARIANTS, finding.invariant
            self.counts[finding.invariant] += 1
            if self.counts[finding.invariant] <= KEPT:
                self.violations.append(finding)
