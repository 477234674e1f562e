"""What stands in the topics: in order for each key, and once unless a relay died."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import orjson
from ecom_contracts.topics import (
    CATALOG,
    INVENTORY_COMMANDS,
    INVENTORY_EVENTS,
    ORDERS_EVENTS,
    PAYMENT_COMMANDS,
    PAYMENT_EVENTS,
)

from tests.support.topics import Ends, Topics

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


class Publication(NamedTuple):
    """One message as it stands in a topic."""

    topic: str
    key: str
    id: str
    sequence: int


def since(topics: Topics, begin: Ends) -> list[Publication]:
    """Everything that was published after `begin`, each partition in its order."""
    return [
        publication
        for topic in TOPICS
        for record in topics.read(topic, begin.get(topic))
        if (publication := _publication(topic, record.value))
    ]


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


def _publication(topic: str, value: bytes | None) -> Publication | None:
    try:
        envelope = orjson.loads(value or b"")
        return Publication(topic, envelope["subject"], envelope["id"], int(envelope["sequence"]))
    except (ValueError, KeyError, TypeError):
        return None  # poison, which a fault has put there
