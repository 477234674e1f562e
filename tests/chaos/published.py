"""What stands in the topics: in order for each key, and once unless a relay died."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import orjson
from confluent_kafka import Consumer, TopicPartition
from ecom_contracts.topics import (
    CATALOG,
    INVENTORY_COMMANDS,
    INVENTORY_EVENTS,
    ORDERS_EVENTS,
    PAYMENT_COMMANDS,
    PAYMENT_EVENTS,
)

TOPICS: Final = tuple(
    topic.name
    for topic in (
        ORDERS_EVENTS,
        INVENTORY_COMMANDS,
        INVENTORY_EVENTS,
        PAYMENT_COMMANDS,
        PAYMENT_EVENTS,
        CATALOG,
    )
)
TIMEOUT_S: Final = 30.0
_READERS = itertools.count()

Ends = dict[tuple[str, int], int]
"""(topic, partition) → offset of the next message."""


class Publication(NamedTuple):
    """One message as it stands in a topic."""

    topic: str
    key: str
    id: str
    sequence: int


def ends(bootstrap: str) -> Ends:
    """Where the topics end now."""
    reader = _reader(bootstrap)
    try:
        return {
            (topic, partition): reader.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=TIMEOUT_S
            )[1]
            for topic in TOPICS
            for partition in reader.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
        }
    finally:
        reader.close()


def since(bootstrap: str, begin: Ends) -> list[Publication]:
    """Everything that was published after `begin`, each partition in its order."""
    now = ends(bootstrap)
    found: list[Publication] = []
    reader = _reader(bootstrap)
    try:
        for (topic, partition), end in now.items():
            start = begin.get((topic, partition), 0)
            reader.assign([TopicPartition(topic, partition, start)])
            found += _read(reader, topic, start=start, end=end)
    finally:
        reader.close()
    return found


def disorder(publications: Iterable[Publication], *, once: bool) -> Iterator[str]:
    """What is out of order: first publications of a key go forward; with `once` there are no others."""
    seen: set[tuple[str, str]] = set()
    newest: dict[tuple[str, str], int] = defaultdict(int)
    for p in publications:
        if (p.topic, p.id) in seen:
            if once:
                yield f"{p.topic}: message {p.id} of {p.key} was published again"
            continue
        seen.add((p.topic, p.id))
        if p.sequence < newest[p.topic, p.key]:
            yield f"{p.topic}: {p.key} went back from {newest[p.topic, p.key]} to {p.sequence}"
        newest[p.topic, p.key] = max(newest[p.topic, p.key], p.sequence)


def stale(publications: Iterable[Publication]) -> Iterator[str]:
    """Keys of a compacted topic whose last message, which alone is kept, is not their newest."""
    newest: dict[str, int] = defaultdict(int)
    last: dict[str, int] = {}
    for p in publications:
        if p.topic == CATALOG.name:
            newest[p.key] = max(newest[p.key], p.sequence)
            last[p.key] = p.sequence
    for key, sequence in last.items():
        if sequence < newest[key]:
            yield f"{CATALOG.name}: {key} ends with {sequence}, and {newest[key]} was published before"


def _read(reader: Consumer, topic: str, *, start: int, end: int) -> Iterator[Publication]:
    offset, deadline = start, time.monotonic() + TIMEOUT_S
    while offset < end:
        assert time.monotonic() < deadline, f"{topic} could not be read to {end}, only to {offset}"
        for message in reader.consume(1_000, 0.2):
            assert message.error() is None, message.error()
            offset = (message.offset() or 0) + 1
            if offset <= end and (publication := _publication(topic, message.value())):
                yield publication
        # Compaction leaves holes, also at the end.
        [at] = reader.position(reader.assignment())
        offset = max(offset, at.offset)


def _publication(topic: str, value: bytes | None) -> Publication | None:
    try:
        envelope = orjson.loads(value or b"")
        return Publication(topic, envelope["subject"], envelope["id"], int(envelope["sequence"]))
    except (ValueError, KeyError, TypeError):
        return None  # poison, which a fault has put there


def _reader(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"chaos-{next(_READERS)}",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
            "log_level": 0,
        }
    )
