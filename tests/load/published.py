"""What was published while a run lasted: how it ended for each order and when, and how much that was.

An order's end is the moment at which the relay handed its final event to the broker, so after it was durable:
not when the transaction began, which the order's own history would say.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import orjson
from confluent_kafka import Consumer, Message, TopicPartition
from ecom_contracts.topics import ALL_TOPICS, ORDERS_EVENTS

TIMEOUT_S: Final = 30.0
AT_ONCE: Final = 5_000
_FINAL: Final = {
    "order.confirmed.v1": "confirmed",
    "order.rejected.v1": "rejected",
    "order.cancelled.v1": "cancelled",
}

Ends = dict[tuple[str, int], int]
"""(topic, partition) → offset of the next message."""


@dataclass
class Publications:
    """The messages between two moments."""

    finals: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Order → how it ended, and when, in seconds since the epoch."""
    messages: Counter[str] = field(default_factory=Counter)
    """By topic."""
    bytes: Counter[str] = field(default_factory=Counter)


def ends(bootstrap: str) -> Ends:
    """Where the topics end now."""
    reader = _reader(bootstrap)
    try:
        known = reader.list_topics(timeout=TIMEOUT_S).topics
        return {
            (topic.name, partition): reader.get_watermark_offsets(
                TopicPartition(topic.name, partition), timeout=TIMEOUT_S
            )[1]
            for topic in ALL_TOPICS
            if topic.name in known
            for partition in known[topic.name].partitions
        }
    finally:
        reader.close()


def since(bootstrap: str, begin: Ends) -> Publications:
    """Everything that was published after `begin`."""
    found = Publications()
    for (topic, partition), end in ends(bootstrap).items():
        start = begin.get((topic, partition), 0)
        for message in _between(bootstrap, TopicPartition(topic, partition, start), end):
            value = message.value() or b""
            found.messages[topic] += 1
            found.bytes[topic] += len(value)
            if topic == ORDERS_EVENTS.name:
                _note_end(found, value, message)
    return found


def _note_end(found: Publications, value: bytes, message: Message) -> None:
    envelope = orjson.loads(value)
    if (status := _FINAL.get(envelope["type"])) is not None:
        found.finals.setdefault(envelope["subject"], (status, message.timestamp()[1] / 1000))


def _between(bootstrap: str, start: TopicPartition, end: int) -> Iterator[Message]:
    """The messages from `start` up to offset `end`; a compacted topic has fewer of them than offsets."""
    offset = start.offset
    if offset >= end:
        return
    reader = _reader(bootstrap)
    deadline = time.monotonic() + TIMEOUT_S
    try:
        reader.assign([start])
        while offset < end:
            assert time.monotonic() < deadline, f"{start.topic}: nothing came after offset {offset}"
            for message in reader.consume(min(end - offset, AT_ONCE), 1.0):
                assert message.error() is None, message.error()
                offset = (message.offset() or 0) + 1
                yield message
                deadline = time.monotonic() + TIMEOUT_S
    finally:
        reader.close()


def _reader(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
