"""Safeguards that can be switched off, to show what each of them is for.

A proof that cannot fail proves nothing: a simulation or a fault suite that finds no violation has to find one
when a safeguard is missing. So each of these can be left out, by `WITHOUT_SAFEGUARDS=outbox,versions`, in
development only; production settings refuse it. While all are on, asking costs a look into an empty set.
"""

from collections.abc import Iterable
from typing import Final

SAFEGUARDS: Final = {
    "outbox": "messages are rows of the transaction that caused them; without: sent after its commit",
    "versions": "answers that are not newer than what is known are ignored; without: they are believed",
    "tombstones": "a cancel before its command is remembered; without: the late command has its effect",
    "idempotency": "a used key is found again; without: every request is a new one",
    "provider-key": "a charge has one key for all tries; without: a new one at each",
    "deadline": "an order that takes too long is given up; without: it waits for ever",
    "row-locks": "whoever changes a row has locked it; without: it works on what it has read",
    "relay-lock": "one relay of a service publishes at a time; without: all of them do",
    "oversell-check": "stock is checked before it is reserved, and by the database; without: neither",
}
"""Every safeguard, what it does, and what happens without it."""


class _State:
    """Holds what the process does without; a module global that functions rebind would be harder to type."""

    off: frozenset[str] = frozenset()


def is_off(name: str) -> bool:
    """Whether the process has to do without this one of `SAFEGUARDS`."""
    return name in _State.off


def switch_off(names: Iterable[str]) -> None:
    """Do without exactly these of `SAFEGUARDS` from now on."""
    _State.off = frozenset(names)
    assert _State.off <= SAFEGUARDS.keys(), _State.off
