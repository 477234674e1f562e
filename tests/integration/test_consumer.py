"""The consumer against a real broker and a real database: each message has its effect once, whatever fails."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID

import orjson
import pytest
from confluent_kafka import Consumer as KafkaConsumer
from ecom_common import kafka
from ecom_common.consumer import POISON_TRIES, Consumer
from ecom_common.database import make_engine, make_sessions
from ecom_common.ids import new_id
from ecom_common.messages import Handler, Handlers, Received
from ecom_local.instance import Instance
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.support.broker import Broker
from tests.support.chassis import Database, a_message, leave_effects
from tests.support.processes import a_child
from tests.support.waiting import eventually

TYPE = "stock.commit.v1"
DEAD = "tests.dead-letter"


@pytest.fixture(scope="module")
def broker(instance: Instance) -> Broker:
    return Broker.of(instance)


@contextmanager
def a_consumer(
    database: Database,
    broker: Broker,
    *topics: str,
    handler: Handler = leave_effects,
    handlers: Handlers | None = None,
    group: str | None = None,
    max_batch: int = 100,
) -> Iterator[Consumer]:
    # Connections of its own, as a worker has.
    engine = make_engine(database.url, application_name="consumer", pool_size=4)
    consumer = Consumer(
        kafka.make_consumer(broker.settings, client_id="tests", group=group or broker.group()),
        make_sessions(engine),
        handlers or {TYPE: handler},
        topics=topics,
        dead_letter_topic=DEAD,
        max_batch=max_batch,
    )
    try:
        yield consumer
    finally:
        consumer.close()
        engine.dispose()


def effects(database: Database) -> list[UUID]:
    return database.rows("SELECT message_id FROM effects ORDER BY id")


def handled(consumer: Consumer, count: int) -> None:
    """Run the consumer until it has dealt with `count` messages, good or bad."""
    done = 0

    def look() -> bool:
        nonlocal done
        done += consumer.run_once(0.05)
        return done >= count

    eventually(look)


def some_messages(count: int) -> tuple[list[UUID], list[bytes | None]]:
    ids = [new_id() for _ in range(count)]
    return ids, [a_message(message_id=identifier) for identifier in ids]


def received_so_far(topic: str, outcome: str) -> float:
    labels = {"topic": topic, "outcome": outcome}
    return REGISTRY.get_sample_value("ecom_messages_received_total", labels) or 0.0


def test_what_has_queued_up_is_handled_in_one_transaction_and_in_order(
    database: Database, broker: Broker
) -> None:
    topic, group = broker.topic(), broker.group()
    ids, messages = some_messages(30)
    broker.produce(topic, messages)
    batches: list[int] = []

    def handler(session: Session, received: Sequence[Received]) -> None:
        batches.append(len(received))
        leave_effects(session, received)

    with a_consumer(database, broker, topic, handler=handler, group=group) as consumer:
        handled(consumer, 30)
        assert consumer.run_once(0.05) == 0
    assert effects(database) == ids
    assert len(batches) < 30
    assert broker.committed(group, topic) == 30
    assert received_so_far(topic, "handled") == 30


def test_a_batch_is_no_larger_than_asked_for(database: Database, broker: Broker) -> None:
    topic = broker.topic()
    ids, messages = some_messages(25)
    broker.produce(topic, messages)
    with a_consumer(database, broker, topic, max_batch=10) as consumer:
        sizes = [eventually(lambda: consumer.run_once(0.05))]
        while sum(sizes) < 25:
            sizes.append(consumer.run_once(0.05))
    assert max(sizes) <= 10
    assert effects(database) == ids


def test_a_message_knows_where_it_stood(database: Database, broker: Broker) -> None:
    topic = broker.topic()
    seen: list[Received] = []
    broker.produce(topic, [a_message(), a_message()])
    with a_consumer(database, broker, topic, handler=lambda _, r: seen.extend(r)) as consumer:
        handled(consumer, 2)
    assert [(r.topic, r.partition, r.offset) for r in seen] == [(topic, 0, 0), (topic, 0, 1)]


def test_a_consumer_killed_between_its_transaction_and_its_offsets_has_no_second_effect(
    database: Database, broker: Broker
) -> None:
    topic, group = broker.topic(), broker.group()
    ids, messages = some_messages(10)
    broker.produce(topic, messages)
    arguments = (database.url, broker.bootstrap, group, topic)
    with a_child("tests.support.consumer_process", *arguments) as child:
        child.says("committing")
        assert child.wait(10) == -9
    survived = effects(database)
    assert survived
    assert broker.committed(group, topic) < 0
    with a_consumer(database, broker, topic, group=group) as consumer:
        handled(consumer, 10)
    assert effects(database) == ids
    assert received_so_far(topic, "duplicate") == len(survived)


def test_a_message_that_was_produced_twice_has_one_effect_even_within_a_batch(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    ids, messages = some_messages(3)
    broker.produce(topic, [*messages, *messages, messages[0]])
    with a_consumer(database, broker, topic) as consumer:
        handled(consumer, 7)
        broker.produce(topic, messages)
        handled(consumer, 3)
    assert effects(database) == ids
    assert received_so_far(topic, "handled") == 3
    assert received_so_far(topic, "duplicate") == 7


def test_each_handler_gets_its_messages_of_a_batch_at_once_and_in_their_order(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    ids = [new_id() for _ in range(20)]
    types = {message_id: ("commit", "release")[n % 2] for n, message_id in enumerate(ids)}
    batches: dict[int, list[tuple[str, list[UUID]]]] = {}

    def handler(name: str) -> Handler:
        def handle(session: Session, messages: Sequence[Received]) -> None:
            [transaction] = session.scalars(text("SELECT txid_current()"))
            called = (name, [message.envelope.id for message in messages])
            batches.setdefault(transaction, []).append(called)

        return handle

    broker.produce(
        topic,
        [
            orjson.dumps(orjson.loads(a_message(message_id=i)) | {"type": f"stock.{kind}.v1"})
            for i, kind in types.items()
        ],
    )
    handlers = {TYPE: handler("commit"), "stock.release.v1": handler("release")}
    with a_consumer(database, broker, topic, handlers=handlers) as consumer:
        handled(consumer, len(ids))
    assert len(batches) < len(ids)
    for called in batches.values():
        assert [name for name, _ in called] in (["commit"], ["release"], ["commit", "release"])
    for kind in ("commit", "release"):
        got = [
            i
            for called in batches.values()
            for name, those in called
            if name == kind
            for i in those
        ]
        assert got == [i for i in ids if types[i] == kind]


def test_types_that_nobody_handles_and_tombstones_are_acknowledged_and_counted(
    database: Database, broker: Broker
) -> None:
    topic, group = broker.topic(cleanup_policy="compact"), broker.group()
    ids, messages = some_messages(1)
    unknown = orjson.dumps(orjson.loads(a_message()) | {"type": "weather.changed.v1"})
    not_ours = orjson.dumps(orjson.loads(a_message()) | {"type": "stock.release.v1"})
    broker.produce(topic, [unknown, None, not_ours, *messages])
    with a_consumer(database, broker, topic, group=group) as consumer:
        handled(consumer, 4)
    assert effects(database) == ids
    assert broker.committed(group, topic) == 4
    assert received_so_far(topic, "unknown_type") == 2
    assert received_so_far(topic, "tombstone") == 1
    assert database.rows("SELECT 1 FROM dead_letters") == []


def poison(**changes: Any) -> bytes:
    return orjson.dumps(orjson.loads(a_message()) | changes)


UNREADABLE = [
    b"",
    b"\0",
    b"{",
    b"\xff\xfe\0\x80 not JSON",
    b"[" * 100_000,
    b"null",
    b'"text"',
    poison(type="stock.commit.v2"),
    poison(data={"order_id": "not a uuid"}),
    poison(data=None),
    poison(id="4111111111111111"),
    poison(time="yesterday"),
    poison(specversion="2.0"),
    poison(sequence=-1),
]


def test_each_message_that_cannot_be_read_is_buried_alone(
    database: Database, broker: Broker
) -> None:
    topic, group = broker.topic(), broker.group()
    ids, messages = some_messages(len(UNREADABLE))
    for message, unreadable in zip(messages, UNREADABLE, strict=True):
        broker.produce(topic, [message, unreadable], key="order-1")
    with a_consumer(database, broker, topic, group=group) as consumer:
        handled(consumer, 2 * len(UNREADABLE))
    assert effects(database) == ids
    assert broker.committed(group, topic) == 2 * len(UNREADABLE)
    letters = database.letters()
    assert [bytes(letter.payload) for letter in letters] == UNREADABLE
    assert [letter.source_offset for letter in letters] == [
        2 * n + 1 for n in range(len(UNREADABLE))
    ]
    assert {(letter.source_topic, bytes(letter.key), letter.state) for letter in letters} == {
        (topic, b"order-1", "open")
    }
    assert database.outgoing() == [(DEAD, "order-1", payload) for payload in UNREADABLE]
    assert received_so_far(topic, "dead_letter") == len(UNREADABLE)


def test_a_message_that_its_handler_cannot_handle_is_tried_again_and_then_buried_alone(
    database: Database, broker: Broker
) -> None:
    topic, group = broker.topic(), broker.group()
    ids, messages = some_messages(9)
    failures = []

    def handler(session: Session, received: Sequence[Received]) -> None:
        leave_effects(session, received)
        if any(r.envelope.id == ids[4] for r in received):
            if len(received) == 1:
                failures.append(1)
            raise ZeroDivisionError("a bug, for this one")

    broker.produce(topic, messages)
    with a_consumer(database, broker, topic, group=group, handler=handler) as consumer:
        handled(consumer, 9)
    assert len(failures) == POISON_TRIES
    assert sorted(effects(database)) == [i for i in ids if i != ids[4]]
    assert broker.committed(group, topic) == 9
    [letter] = database.letters()
    assert bytes(letter.payload) == messages[4]
    assert letter.error == "ZeroDivisionError: a bug, for this one"
    assert "test_consumer.py" in letter.stack
    assert database.outgoing() == [(DEAD, "k", messages[4])]
    assert database.rows("SELECT 1 FROM inbox WHERE message_id = :id", id=ids[4]) == []


def test_a_failure_that_goes_away_by_itself_buries_nothing(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    ids, messages = some_messages(3)
    failures: list[int] = []

    def handler(session: Session, received: Sequence[Received]) -> None:
        leave_effects(session, received)
        if len(failures) < POISON_TRIES:
            failures.append(1)
            raise ZeroDivisionError("at first")

    broker.produce(topic, messages)
    with a_consumer(database, broker, topic, handler=handler) as consumer:
        handled(consumer, 3)
    assert sorted(effects(database)) == sorted(ids)
    assert database.letters() == []


def test_a_handler_that_always_violates_a_key_is_poison_and_holds_nobody_up(
    database: Database, broker: Broker
) -> None:
    # A unique violation is contention at first: a twin may have committed in between.
    topic = broker.topic()
    ids, messages = some_messages(3)

    def handler(session: Session, received: Sequence[Received]) -> None:
        leave_effects(session, received)
        if any(r.envelope.id == ids[1] for r in received):
            session.execute(text("INSERT INTO effects (note) VALUES ('twin'), ('twin')"))

    broker.produce(topic, messages)
    with a_consumer(database, broker, topic, handler=handler) as consumer:
        handled(consumer, 3)
    assert effects(database) == [ids[0], ids[2]]
    [letter] = database.letters()
    assert bytes(letter.payload) == messages[1]


def test_keys_that_postgres_has_no_text_for_do_not_stop_the_burial(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    keys = [b"", b"\0", b"a\0b", b"\xff\xfe", "ü".encode()]
    for key in keys:
        broker.produce(topic, [b"not json"], key=key)
    with a_consumer(database, broker, topic) as consumer:
        handled(consumer, len(keys))
    assert [bytes(letter.key) for letter in database.letters()] == keys
    assert len(database.outgoing()) == len(keys)


def test_a_letter_is_buried_once_when_its_offset_was_not_committed(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    broker.produce(topic, [b"not json", b"not json"])
    for _ in range(2):  # each in a group of its own: both begin at the beginning
        with a_consumer(database, broker, topic) as consumer:
            handled(consumer, 2)
    assert len(database.letters()) == 2
    assert len(database.outgoing()) == 2


def test_a_database_that_is_down_holds_the_batch_and_buries_nothing(
    database: Database, broker: Broker
) -> None:
    topic, group = broker.topic(), broker.group()
    ids, messages = some_messages(60)
    with a_consumer(database, broker, topic, group=group, max_batch=10) as consumer:
        broker.produce(topic, messages[:5])
        handled(consumer, 5)
        database.shut()
        broker.produce(topic, messages[5:])
        for _ in range(8):
            assert consumer.run_once(0.05) == 0
        database.reopen()
        handled(consumer, 55)
    database.reconnect()
    assert effects(database) == ids
    assert database.letters() == []
    assert broker.committed(group, topic) == 60


def test_a_message_that_waits_for_a_lock_is_held_and_not_buried(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    ids, messages = some_messages(3)
    database.as_owner("INSERT INTO effects (note) VALUES ('row')")

    def handler(session: Session, received: Sequence[Received]) -> None:
        session.execute(text("SET LOCAL lock_timeout = '20ms'"))
        session.execute(text("SELECT 1 FROM effects WHERE note = 'row' FOR UPDATE"))
        leave_effects(session, received)

    broker.produce(topic, messages)
    with a_consumer(database, broker, topic, handler=handler) as consumer:
        with database.holding("SELECT 1 FROM effects WHERE note = 'row' FOR UPDATE"):
            waited = received_so_far(topic, "handled")
            for _ in range(5):
                assert consumer.run_once(0.05) == 0
            assert waited == 0
        handled(consumer, 3)
    assert database.rows("SELECT message_id FROM effects WHERE note IS NULL ORDER BY id") == ids
    assert database.letters() == []


def test_a_batch_that_loses_a_race_is_run_again_as_a_whole(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    ids, messages = some_messages(5)
    broker.produce(topic, messages)
    tries: list[int] = []

    def handler(session: Session, received: Sequence[Received]) -> None:
        leave_effects(session, received)
        tries.append(len(received))
        if len(tries) == 1:
            session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    with a_consumer(database, broker, topic, handler=handler) as consumer:
        handled(consumer, 5)
    assert tries[0] == tries[1]
    assert effects(database) == ids


def test_a_connection_killed_in_the_middle_of_a_batch_costs_nothing(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    ids, messages = some_messages(5)
    broker.produce(topic, messages)
    tries = []

    def handler(session: Session, received: Sequence[Received]) -> None:
        tries.append(1)
        leave_effects(session, received)
        if len(tries) == 1:
            database.cut("consumer")
        session.execute(text("SELECT 1"))

    with a_consumer(database, broker, topic, handler=handler) as consumer:
        handled(consumer, 5)
    assert effects(database) == ids


def test_two_consumers_share_the_partitions_and_a_change_of_members_repeats_no_effect(
    database: Database, broker: Broker
) -> None:
    topic, group = broker.topic(partitions=4), broker.group()
    ids: list[UUID] = []

    def produce(count: int) -> None:
        more, messages = some_messages(count)
        ids.extend(more)
        for identifier, message in zip(more, messages, strict=True):
            broker.produce(topic, [message], key=str(identifier))

    shares = {"first": 0, "second": 0}

    def run(name: str, stop: threading.Event) -> None:
        with a_consumer(database, broker, topic, group=group, max_batch=5) as consumer:
            while not stop.is_set():
                shares[name] += consumer.run_once(0.02)

    with ExitStack() as stack:
        stops = {name: threading.Event() for name in shares}
        threads = {name: threading.Thread(target=run, args=(name, stops[name])) for name in shares}
        for stop in stops.values():
            stack.callback(stop.set)
        threads["first"].start()
        produce(50)
        eventually(lambda: shares["first"] >= 10)
        threads["second"].start()

        def second_works() -> bool:
            produce(10)
            return shares["second"] > 0

        eventually(second_works, within_s=20)
        stops["first"].set()
        threads["first"].join(10)
        produce(50)
        eventually(lambda: len(effects(database)) >= len(ids), within_s=20)
        stops["second"].set()
        threads["second"].join(10)
    assert sorted(effects(database)) == sorted(ids)
    assert all(shares.values())
    assert database.letters() == []


def test_partitions_that_move_while_a_batch_is_held_are_consumed_when_they_come_back(
    database: Database, broker: Broker
) -> None:
    topic, group = broker.topic(partitions=2), broker.group()

    def produce(count: int) -> list[UUID]:
        ids, messages = some_messages(count)
        for identifier, message in zip(ids, messages, strict=True):
            broker.produce(topic, [message], key=str(identifier))
        return ids

    with a_consumer(database, broker, topic, group=group) as staying:
        ids = produce(20)
        handled(staying, 20)
        database.shut()
        ids += produce(20)
        eventually(lambda: staying.run_once(0.02) == 0 and _holds(staying))
        with a_consumer(database, broker, topic, group=group) as visitor:

            def visitor_holds() -> bool:
                staying.run_once(0.02)
                visitor.run_once(0.02)
                return _holds(visitor)

            eventually(visitor_holds)
            database.reopen()
            database.reconnect()
            eventually(lambda: staying.run_once(0.02) or not _holds(staying))
        ids += produce(20)
        eventually(
            lambda: staying.run_once(0.02) * 0 or len(effects(database)) == len(ids), within_s=20
        )
    assert sorted(effects(database)) == sorted(ids)


def test_the_lag_is_exported_for_assigned_partitions_only(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    _, messages = some_messages(30)
    broker.produce(topic, messages)
    labels = {"topic": topic, "partition": "0"}
    with a_consumer(database, broker, topic, max_batch=1) as consumer:
        handled(consumer, 1)
        consumer.observe_lag()
        lag = REGISTRY.get_sample_value("ecom_consumer_lag", labels)
        assert lag is not None
        assert 0 < lag <= 29
        handled(consumer, 29)
        consumer.observe_lag()
        assert REGISTRY.get_sample_value("ecom_consumer_lag", labels) == 0
    with a_consumer(database, broker, broker.topic()) as other:
        other.observe_lag()
        assert REGISTRY.get_sample_value("ecom_consumer_lag", labels) is None


def test_a_client_that_has_failed_for_good_is_replaced(database: Database, broker: Broker) -> None:
    topic, group = broker.topic(), broker.group()
    ids, messages = some_messages(3)
    broker.produce(topic, messages)
    # No broker has such an assignor; like a group that the broker has lost, that is the end of a client.
    hopeless = KafkaConsumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": group,
            "group.protocol": "consumer",
            "group.remote.assignor": "nobody",
            "log_level": 0,
        }
    )
    made: list[KafkaConsumer] = []

    def renew() -> KafkaConsumer:
        made.append(kafka.make_consumer(broker.settings, client_id="tests", group=group))
        return made[-1]

    consumer = Consumer(
        hopeless,
        database.sessions,
        {TYPE: leave_effects},
        topics=[topic],
        dead_letter_topic=DEAD,
        max_batch=100,
        renew=renew,
    )
    handled(consumer, 3)
    consumer.close()
    assert len(made) == 1
    assert effects(database) == ids


def _holds(consumer: Consumer) -> bool:
    return bool(consumer._held)
