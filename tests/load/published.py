"""What was published while a run lasted: how it ended for each order and when, and how much that was.

An order's end is the moment at which the relay handed its final event to the broker, so after it was durable:
not when the transaction began, which the order's own history would say.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import orjson
from ecom_contracts.topics import ALL_TOPICS, ORDERS_EVENTS

from tests.support.topics import Ends, Record, Topics

_FINAL: Final = {
    "order.confirmed.v1": "confirmed",
    "order.rejected.v1": "rejected",
    "order.cancelled.v1": "cancelled",
}


@dataclass
class Publications:
    """The messages between two moments."""

    finals: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Order → how it ended, and when, in seconds since the epoch."""
    messages: Counter[str] = field(default_factory=Counter)
    """By topic."""
    bytes: Counter[str] = field(default_factory=Counter)


def ends(topics: Topics) -> Ends:
    """Where the topics end now."""
    return topics.all_ends(topic.name for topic in ALL_TOPICS)


def since(topics: Topics, begin: Ends) -> Publications:
    """Everything that was published after `begin`."""
    found = Publications()
    for topic in ends(topics):
        for record in topics.read(topic, begin.get(topic)):
            found.messages[topic] += 1
            found.bytes[topic] += len(record.value or b"")
            if topic == ORDERS_EVENTS.name:
                _note_end(found, record)
    return found


def _note_end(found: Publications, record: Record) -> None:
    envelope = orjson.loads(record.value or b"")
    if (status := _FINAL.get(envelope["type"])) is not None:
        found.finals.setdefault(envelope["subject"], (status, record.at))
