"""Messages come again, in another order, all over from the start, or are none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final
from uuid import UUID

import orjson
from ecom_common import dead_letters
from ecom_common.database import make_engine, make_sessions
from ecom_contracts.topics import ALL_TOPICS, dead_letter_topic
from ecom_local.parts import DATABASES, SERVICES
from sqlalchemy.orm import Session

from tests.chaos.fault import Fault
from tests.chaos.faults.broker import until_drained
from tests.chaos.lab import Lab
from tests.support.shop import until
from tests.support.topics import Record, Topics

READ_BY: Final[Mapping[str, Sequence[str]]] = {
    service: [topic.name for topic in ALL_TOPICS if f"{service}_service" in topic.readers]
    for service in SERVICES
}
READ: Final = tuple(topic for topics in READ_BY.values() for topic in topics)
# What the service asks, and where it answers.
PARTICIPANTS: Final = {
    "inventory": ("inventory.commands", "inventory.events"),
    "payment": ("payment.commands", "payment.events"),
}
# A type that the topic's reader handles.
TYPES: Final = {
    "inventory.commands": "stock.reserve.v1",
    "inventory.events": "reservation.changed.v1",
    "payment.commands": "payment.charge.v1",
    "payment.events": "payment.changed.v1",
    "catalog": "item.changed.v1",
}

COPIES: Final = 2
ORDERS: Final = 25
"""Placed while messages pile up."""
HANDLED_WITHIN_S: Final = 120.0
PRUNED_WITHIN_S: Final = 180.0
HUGE_BYTES: Final = 1_000_000
"""Close to what the broker takes; a dead letter goes out again as it came in."""
OLD: Final = "30 days"


def _thrice(lab: Lab) -> None:
    topics = Topics(lab.kafka_bootstrap)
    seen: set[tuple[str, bytes | None]] = set()
    copied = 0

    def copy(record: Record) -> None:
        nonlocal copied
        # What is copied is heard of, too.
        if (record.topic, record.value) not in seen:
            seen.add((record.topic, record.value))
            copied += topics.produce([record.to_the_partition_of_its_key()] * COPIES)

    before = {service: _received(lab, service, "duplicate") for service in SERVICES}
    with topics.following(READ, copy):
        lab.load.until_more(2 * ORDERS)
    _until_handled(topics)
    dropped = sum(_received(lab, service, "duplicate") - before[service] for service in SERVICES)
    assert dropped >= copied, f"{copied} copies were delivered and {dropped} dropped"
    lab.fired("messages delivered again", copied)


def _reordered(lab: Lab) -> None:
    for service, (commands, events) in PARTICIPANTS.items():
        _reorder(lab, service, commands=commands, events=events)


def _reorder(lab: Lab, service: str, *, commands: str, events: str) -> None:
    """Let commands pile up, and then the answers to them; deal each pile out again, shuffled.

    Messages of one key land in several partitions, so that their reader gets them in any order.
    """
    topics = Topics(lab.kafka_bootstrap)
    with ExitStack() as until_answered:
        with lab.down(f"{service}-worker", "TERM"):
            begin = topics.ends(commands)
            lab.load.until_more(ORDERS)
            until_drained(lab, "order")
            _shuffle(lab, topics, commands, begin)
            until_answered.enter_context(lab.down("order-worker", "TERM"))
            begin = topics.ends(events)
        _until_handled(topics, service)
        until_drained(lab, service)
        _shuffle(lab, topics, events, begin)
    _until_handled(topics)


def _shuffle(lab: Lab, topics: Topics, topic: str, begin: dict[int, int]) -> None:
    records = topics.read(topic, begin)
    topics.empty(topic)
    partitions = topics.partitions(topic)
    shuffled = [record.moved_to(lab.random.choice(partitions)) for record in records]
    lab.random.shuffle(shuffled)
    topics.produce(shuffled)
    turned = len(set(_turned(shuffled)))
    lab.fired(f"{topic}: orders whose messages changed places", turned)


def _turned(records: Sequence[Record]) -> Iterator[bytes | None]:
    """The keys of which an older message now comes behind a newer one."""
    newest: dict[bytes | None, tuple[int, int]] = {}
    for record in records:
        place = (record.partition, record.offset)
        if record.key in newest and place < newest[record.key]:
            yield record.key
        newest[record.key] = max(place, newest.get(record.key, place))


def _replayed(lab: Lab) -> None:
    topics = Topics(lab.kafka_bootstrap)
    lab.load.until_more(ORDERS)
    _until_handled(topics)
    for service in SERVICES:
        with lab.down(f"{service}-worker", "TERM"):
            topics.rewind(f"{service}_service", READ_BY[service])
        _until_handled(topics, service)
        dropped = _received(lab, service, "duplicate")
        assert dropped, f"{service} was not given anything again"
        lab.fired(f"{service}: messages replayed", dropped)


def _pruned_and_replayed(lab: Lab) -> None:
    topics = Topics(lab.kafka_bootstrap)
    lab.load.until_more(ORDERS)
    _until_handled(topics)
    for service in SERVICES:
        lab.sql(f"{service}db", f"UPDATE inbox SET received_at = received_at - interval '{OLD}'")
    for service in SERVICES:
        _until_pruned(lab, service)
        with lab.down(f"{service}-worker", "TERM"):
            forgotten = _forgotten(lab, topics, service)
            topics.rewind(f"{service}_service", READ_BY[service])
        _until_handled(topics, service)
        lab.fired(f"{service}: forgotten messages handled again", forgotten)


def _until_pruned(lab: Lab, service: str) -> None:
    """By the service itself: it forgets some thousand ids at a time."""
    old = f"SELECT count(*) FROM inbox WHERE received_at < db_now() - interval '{OLD}'"
    until(
        lambda: lab.sql(f"{service}db", old) == [(0,)],
        timeout_s=PRUNED_WITHIN_S,
        about=lambda: f"{service} remembers {lab.sql(f'{service}db', old)} old messages",
        every_s=0.5,
    )


def _forgotten(lab: Lab, topics: Topics, service: str) -> int:
    """How many messages stand in the topics whose ids the inbox has no more."""
    known = {
        str(message_id) for [message_id] in lab.sql(f"{service}db", "SELECT message_id FROM inbox")
    }
    ids = {_id(record) for topic in READ_BY[service] for record in topics.read(topic)}
    return len(ids - known - {None})


def _id(record: Record) -> str | None:
    try:
        return str(UUID(orjson.loads(record.value or b"")["id"]))
    except (ValueError, KeyError, TypeError):
        return None  # poison of another fault


def _poisoned(lab: Lab) -> None:
    topics = Topics(lab.kafka_bootstrap)
    begin = {s: topics.ends(dead_letter_topic(f"{s}_service").name) for s in SERVICES}
    unknown = {service: _received(lab, service, "unknown_type") for service in SERVICES}
    for service, names in READ_BY.items():
        poison = [record for topic in names for record in _poison(lab, topic)]
        strange = [Record(topic, -1, 0, _key(lab), _of_unknown_type()) for topic in names]
        lab.random.shuffle(poison)
        topics.produce([*poison, *strange])
        lab.load.until_more(5)
        _until_buried(lab, service, poison)
        _published_as_they_came(topics, service, poison, begin[service])
        _until_handled(topics, service)
        ignored = _received(lab, service, "unknown_type") - unknown[service]
        assert ignored >= len(strange), f"{service} did not get past what it does not know"
        lab.fired(f"{service}: messages buried", len(poison))
        _redrive_and_discard(lab, service)


def _poison(lab: Lab, topic: str) -> list[Record]:
    """Everything that a reader of the topic cannot read, each under a key of its own."""
    envelope = _envelope(TYPES[topic])
    values = {
        "broken JSON": envelope[:-9],
        "no object": b'["an", "array"]',
        "not UTF-8": b"\xff\xfe" + envelope,
        "nothing at all": b"",
        "wrong schema": envelope,
        "no such time": envelope.replace(b"T00:00:00Z", b"T77:00:00Z"),
        "wrong major": _envelope(TYPES[topic].replace(".v1", ".v77")),
        "NUL": _envelope(TYPES[topic], order_id="a\0b", sku="a\0b"),
        "zeros": bytes(1_000),
        "deep": b"[" * 100_000,
        "huge": _envelope(TYPES[topic], padding="x" * HUGE_BYTES),
    }
    records = [Record(topic, -1, 0, _key(lab), value) for value in values.values()]
    odd_key = Record(topic, -1, 0, b"a key with \0 and \xff", envelope)
    return [*records, odd_key]


def _envelope(type_: str, **data: object) -> bytes:
    """Well-formed, but that its data are not what the type wants."""
    attributes = {
        "specversion": "1.0",
        "id": "01900000-0000-7000-8000-000000000000",
        "source": "chaos",
        "type": type_,
        "subject": "chaos",
        "time": "2026-01-01T00:00:00Z",
        "sequence": 1,
        "data": {"what": "poison", **data},
    }
    return json.dumps(attributes).encode()


def _of_unknown_type() -> bytes:
    return _envelope("weather.changed.v1")


def _key(lab: Lab) -> bytes:
    return str(UUID(int=lab.random.getrandbits(128), version=4)).encode()


def _until_buried(lab: Lab, service: str, poison: Sequence[Record]) -> None:
    """Until each is a dead letter, once, with the bytes that it had."""
    wanted = sorted((r.topic, r.key or b"", r.value or b"") for r in poison)
    keys = [record.key for record in poison]

    def found() -> list[tuple[str, bytes, bytes]]:
        rows = lab.sql(
            f"{service}db",
            "SELECT source_topic, key, payload FROM dead_letters WHERE state = 'open' AND key = ANY(%s)",
            keys,
        )
        return sorted((topic, bytes(key), bytes(payload)) for topic, key, payload in rows)

    until(
        lambda: found() == wanted,
        timeout_s=HANDLED_WITHIN_S,
        about=lambda: f"{service} has {len(found())} dead letters, must have {len(wanted)}",
        every_s=0.5,
    )


def _published_as_they_came(
    topics: Topics, service: str, poison: Sequence[Record], begin: dict[int, int]
) -> None:
    """The same bytes stand on the dead-letter topic."""
    topic = dead_letter_topic(f"{service}_service").name
    wanted = sorted(record.value or b"" for record in poison)
    until(
        lambda: sorted(record.value or b"" for record in topics.read(topic, begin)) == wanted,
        timeout_s=HANDLED_WITHIN_S,
        about=lambda: f"{len(topics.read(topic, begin))} of {len(wanted)} are on {topic}",
        every_s=0.5,
    )


def _redrive_and_discard(lab: Lab, service: str) -> None:
    """Whoever redrives what nobody has mended gets it back; then everything is put aside."""
    with _letters(lab, service) as session:
        before = _open_letters(lab, service)
        assert dead_letters.redrive(session, before[0], actor="chaos")
        session.commit()
    # Counted before: it may be back by now.
    until(
        lambda: len(_open_letters(lab, service)) == len(before),
        timeout_s=HANDLED_WITHIN_S,
        about=lambda: f"{service}: what was redriven does not come back",
        every_s=0.5,
    )
    with _letters(lab, service) as session:
        for letter in _open_letters(lab, service):
            assert dead_letters.discard(session, letter, actor="chaos", reason="poison of a fault")
        session.commit()


def _open_letters(lab: Lab, service: str) -> list[int]:
    rows = lab.sql(f"{service}db", "SELECT id FROM dead_letters WHERE state = 'open' ORDER BY id")
    return [letter for [letter] in rows]


@contextmanager
def _letters(lab: Lab, service: str) -> Iterator[Session]:
    own = DATABASES[service]
    url = lab.postgres_url(own.name, own.service_role)
    engine = make_engine(url, application_name="chaos", pool_size=1)
    try:
        with make_sessions(engine)() as session:
            yield session
    finally:
        engine.dispose()


def _until_handled(topics: Topics, *services: str) -> None:
    """Until everything that stands in the topics now has been handled, by these services or by all."""
    ends = {
        service: {topic: topics.ends(topic) for topic in READ_BY[service]}
        for service in services or SERVICES
    }

    def behind() -> dict[str, int]:
        return {s: topics.behind(f"{s}_service", of_service) for s, of_service in ends.items()}

    until(
        lambda: not any(behind().values()),
        timeout_s=HANDLED_WITHIN_S,
        about=lambda: f"behind: {behind()}",
        every_s=0.3,
    )


def _received(lab: Lab, service: str, outcome: str) -> int:
    """How many messages the service's worker has met with this outcome since it was started."""
    return int(lab.metric(f"{service}-worker", "ecom_messages_received_total", outcome=outcome))


FAULTS: Final = (
    Fault(
        name="messages-delivered-thrice",
        shows="each message has its effect once, however often it comes",
        level="message",
        inject=_thrice,
    ),
    Fault(
        name="messages-reordered",
        shows="commands and answers of an order may come in any order, the cancel before what it cancels",
        level="message",
        inject=_reordered,
        published_in_order=False,
    ),
    Fault(
        name="topics-replayed",
        shows="whoever reads all topics again from the start changes nothing",
        level="message",
        inject=_replayed,
    ),
    Fault(
        name="inbox-pruned-and-topics-replayed",
        shows="nor does one who has forgotten what it has handled: versions and natural keys stand behind the inbox",
        level="message",
        inject=_pruned_and_replayed,
    ),
    Fault(
        name="poison-in-every-topic",
        shows="what cannot be read is buried alone, byte for byte; its neighbours are handled, and operators put it aside",
        level="message",
        inject=_poisoned,
    ),
)
