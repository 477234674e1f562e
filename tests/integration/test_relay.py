"""The relay against a real database and a real broker: nothing is lost and no key is reordered."""

import itertools
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from confluent_kafka import Producer
from ecom_common import kafka
from ecom_common.crash_points import use_hook
from ecom_common.database import DATABASE_ERRORS
from ecom_common.kafka import MAX_MESSAGE_BYTES
from ecom_common.outbox import Outgoing
from ecom_common.relay import (
    BATCH,
    FULL_SCAN_EVERY_S,
    LATE_COMMIT_S,
    LOCK_RETRY_S,
    PARKED_S,
    PARKED_TOPIC_S,
    Relay,
    make_relay_engine,
)
from ecom_common.settings import KafkaSettings
from ecom_local.instance import Instance
from ecom_local.ports import Ports
from prometheus_client import REGISTRY
from sqlalchemy import text

from tests.support.broker import Broker
from tests.support.chassis import Database, numbered
from tests.support.processes import a_child, stopped
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def broker(instance: Instance) -> Broker:
    return Broker.of(instance)


@dataclass
class Clock:
    """The real clock, which a test can put forward."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s

    def pass_(self, seconds: float) -> None:
        self.ahead_s += seconds


@contextmanager
def a_relay(
    database: Database,
    broker: Broker,
    *,
    make_producer: Callable[[], Producer] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Relay]:
    engine = make_relay_engine(database.url, application_name="relay")
    relay = Relay(engine, make_producer or broker.producer, clock=clock)
    try:
        yield relay
    finally:
        relay.close()
        engine.dispose()


def a_producer(settings: KafkaSettings, delivery_timeout_ms: int) -> Producer:
    return kafka.make_producer(settings, client_id="tests", delivery_timeout_ms=delivery_timeout_ms)


def drained(relay: Relay, database: Database) -> Callable[[], bool]:
    """One more round; whether the outbox is empty now."""

    def look() -> bool:
        relay.run_once()
        return not database.waiting()

    return look


def values(broker: Broker, topic: str) -> list[str]:
    return [(record.value or b"").decode() for record in broker.read(topic)]


def first_deliveries(broker: Broker, topic: str) -> dict[str, list[str]]:
    """For each key its distinct values in the order in which they first arrived."""
    by_key: dict[str, dict[str, None]] = defaultdict(dict)
    for record in broker.read(topic):
        by_key[record.key][(record.value or b"").decode()] = None
    return {key: list(found) for key, found in by_key.items()}


def test_a_relay_that_was_stopped_in_the_middle_of_a_round_sends_nothing_more_of_it(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    clock = Clock()
    database.publish(*numbered(topic, "k", range(10)))
    with a_relay(database, broker, clock=clock) as relay:
        use_hook(lambda name: clock.pass_(30) if name == "relay.half_sent" else None)
        try:
            assert relay.run_once() == 4
        finally:
            use_hook(None)
        assert len(values(broker, topic)) == 4
        eventually(drained(relay, database))
    assert values(broker, topic) == [
        message.payload.decode() for message in numbered(topic, "k", range(10))
    ]


def test_what_is_in_the_outbox_is_published_with_its_key_and_forgotten(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    database.publish(Outgoing(topic, "order ü", b"\0\xff"), *numbered(topic, "k", [1, 2]))
    with a_relay(database, broker) as relay:
        assert relay.run_once() == 3
        assert len(database.outgoing()) == 3, "the next read forgets them, or the end"
        assert relay.run_once() == 0
        assert database.waiting() == []
        database.publish(*numbered(topic, "last", [3]))
        assert relay.run_once() == 1
    assert broker.read(topic)[:3] == [("order ü", b"\0\xff"), ("k", b"k:1"), ("k", b"k:2")]
    assert database.waiting() == []


def test_the_same_key_goes_to_the_partition_that_javas_clients_choose(
    database: Database, broker: Broker
) -> None:
    # murmur2, as computed by org.apache.kafka.common.utils.Utils: what every other client expects.
    topic = broker.topic(partitions=3)
    database.publish(*numbered(topic, "foobar", [1]), *numbered(topic, "21", [1]))
    with a_relay(database, broker) as relay:
        relay.run_once()
    by_partition = [[record.key for record in p] for p in broker.read_partitions(topic)]
    # murmur2("foobar") = -790332482, murmur2("21") = -973932308; positive, modulo 3.
    expected: list[list[str]] = [[], [], []]
    for key, value in (("foobar", -790332482), ("21", -973932308)):
        expected[(value & 0x7FFFFFFF) % 3].append(key)
    assert by_partition == expected


def test_a_relay_killed_between_produce_and_delete_repeats_messages_and_loses_none(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    database.publish(*numbered(topic, "k", range(10)))
    with (
        # Whoever has locked a row makes the relay wait in its delete: the messages are out by then.
        database.holding("SELECT id FROM outbox FOR UPDATE"),
        a_child("tests.support.relay_process", database.url, broker.bootstrap, "10") as child,
    ):
        eventually(lambda: len(broker.read(topic)) == 10)
        child.kill()
        database.cut(
            "relay-process"
        )  # or its delete, which waits in the server, would still be done
    assert len(database.waiting()) == 10
    with a_relay(database, broker) as relay:
        eventually(drained(relay, database))
    assert values(broker, topic) == [f"k:{n}" for n in range(10)] * 2


def test_a_message_that_commits_after_later_ids_were_published_is_not_skipped(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    clock = Clock()
    with a_relay(database, broker, clock=clock) as relay, database.sessions() as late:
        late.execute(
            text("INSERT INTO outbox (topic, key, payload) VALUES (:t, 'late', 'late:1')"),
            {"t": topic},
        )
        database.publish(*numbered(topic, "k", [1]))
        assert relay.run_once() == 1
        clock.pass_(LATE_COMMIT_S + FULL_SCAN_EVERY_S)
        assert relay.run_once() == 0
        late.commit()
        assert relay.run_once() == 0, "it lies below the lower bound now"
        clock.pass_(FULL_SCAN_EVERY_S)
        assert relay.run_once() == 1
    assert values(broker, topic) == ["k:1", "late:1"]


def test_every_key_keeps_its_order_over_many_batches_broken_producers_and_changes_of_the_leader(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic(partitions=3)
    count = 2 * BATCH + 500
    database.publish(*(m for n in range(count) for m in numbered(topic, f"key-{n % 7}", [n])))
    unreachable = KafkaSettings(bootstrap_servers=f"127.0.0.1:{Ports.free().kafka}")
    makes = itertools.cycle([lambda: a_producer(unreachable, 100), broker.producer])
    clock = Clock()
    while database.waiting():
        with a_relay(database, broker, clock=clock, make_producer=lambda: next(makes)()) as relay:
            for _ in range(2):
                relay.run_once()
            clock.pass_(LATE_COMMIT_S + FULL_SCAN_EVERY_S)
    assert first_deliveries(broker, topic) == {
        f"key-{k}": [f"key-{k}:{n}" for n in range(count) if n % 7 == k] for k in range(7)
    }


def test_a_broker_that_hangs_costs_repeats_but_neither_order_nor_messages(
    database: Database, broker: Broker, instance: Instance
) -> None:
    topic = broker.topic()
    pid = instance.pid("kafka")
    assert pid is not None
    with a_relay(
        database, broker, make_producer=lambda: broker.producer(delivery_timeout_ms=1_000)
    ) as relay:
        database.publish(*numbered(topic, "k", [0]))
        eventually(drained(relay, database))
        database.publish(*numbered(topic, "k", range(1, 50)))
        with stopped(pid):
            assert relay.run_once() == 0
            database.publish(*numbered(topic, "k", range(50, 60)))
            assert relay.run_once() == 0
            assert relay.is_leader
        assert len(database.waiting()) == 59
        eventually(drained(relay, database))
    assert first_deliveries(broker, topic) == {"k": [f"k:{n}" for n in range(60)]}


def test_a_broker_that_cannot_be_reached_leaves_the_rows_where_they_are(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    unreachable = KafkaSettings(bootstrap_servers=f"127.0.0.1:{Ports.free().kafka}")
    makes = iter([*[lambda: a_producer(unreachable, 200)] * 2, broker.producer])
    database.publish(*numbered(topic, "k", range(5)))
    with a_relay(database, broker, make_producer=lambda: next(makes)()) as relay:
        assert relay.run_once() == relay.run_once() == 0
        assert len(database.waiting()) == 5
        assert relay.run_once() == 5
    assert values(broker, topic) == [f"k:{n}" for n in range(5)]


def test_of_two_relays_one_leads_and_the_other_takes_over_when_it_closes(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    clock = Clock()
    with (
        a_relay(database, broker) as first,
        a_relay(database, broker, clock=clock) as second,
    ):
        first.run_once()
        second.run_once()
        assert (first.is_leader, second.is_leader) == (True, False)
        database.publish(*numbered(topic, "k", [1]))
        assert second.run_once() == 0
        assert first.run_once() == 1
        database.publish(*numbered(topic, "k", [2]))
        first.close()
        assert not first.is_leader

        def second_publishes() -> int:
            clock.pass_(LOCK_RETRY_S)
            return second.run_once()

        assert eventually(second_publishes, within_s=2) == 1
        assert second.is_leader
    assert values(broker, topic) == ["k:1", "k:2"]


def test_a_relay_that_is_stopped_loses_its_lock_and_finds_that_out_when_it_goes_on(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    with a_child("tests.support.relay_process", database.url, broker.bootstrap, "1") as child:
        child.says("leads")
        with stopped(child.process.pid), a_relay(database, broker) as relay:
            eventually(lambda: relay.run_once() or relay.is_leader, within_s=8)
            database.publish(*numbered(topic, "k", [1]))
            assert relay.run_once() == 1
            child.send(signal.SIGCONT)
            child.says("failed OperationalError")
            child.says("follows")
            database.publish(*numbered(topic, "k", [2]))
            assert relay.run_once() == 1
    assert values(broker, topic) == ["k:1", "k:2"]


def test_a_relay_whose_connection_was_cut_does_not_publish_until_it_leads_again(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    clock = Clock()
    with a_relay(database, broker, clock=clock) as relay:
        relay.run_once()
        database.cut("relay")
        database.publish(*numbered(topic, "k", [1]))
        with pytest.raises(DATABASE_ERRORS):
            relay.run_once()
        assert not relay.is_leader
        assert broker.read(topic) == []
        clock.pass_(LOCK_RETRY_S)
        assert relay.run_once() == 1


def test_a_relay_without_a_database_says_so_and_goes_on_when_it_is_back(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    database.publish(*numbered(topic, "k", [1]))
    clock = Clock()
    with a_relay(database, broker, clock=clock) as relay:
        relay.run_once()
        database.publish(*numbered(topic, "k", [2]))
        database.shut()
        for _ in range(2):
            with pytest.raises(DATABASE_ERRORS):
                relay.run_once()
            clock.pass_(LOCK_RETRY_S)
        database.reopen()
        # The first was published, and the database was away before it could be forgotten.
        assert relay.run_once() == 2
    assert first_deliveries(broker, topic) == {"k": ["k:1", "k:2"]}


@pytest.mark.parametrize("size", [2 * MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES - 40])
def test_a_message_that_is_too_large_parks_its_own_key_and_no_other(
    database: Database, broker: Broker, size: int
) -> None:
    # The larger one is refused by the client at once, the smaller one by the broker, later.
    topic = broker.topic()
    clock = Clock()
    large = Outgoing(topic, "large", b"x" * size)
    database.publish(*numbered(topic, "k", [1]), large, *numbered(topic, "k", [2]))
    with a_relay(database, broker, clock=clock) as relay:
        eventually(lambda: relay.run_once() or len(database.waiting()) == 1)
        database.publish(*numbered(topic, "large", [1]), *numbered(topic, "k", [3]))
        assert relay.run_once() == 1
        assert values(broker, topic) == ["k:1", "k:2", "k:3"]
        assert REGISTRY.get_sample_value("ecom_outbox_parked_keys") == 1
        clock.pass_(PARKED_S)
        relay.run_once()
        assert len(database.waiting()) == 2, "refused again, and its key still in order behind it"
        database.as_owner(f"DELETE FROM outbox WHERE length(payload) = {size}")
        clock.pass_(PARKED_S)
        eventually(drained(relay, database))
    assert values(broker, topic)[-1] == "large:1"


def test_a_message_just_below_the_brokers_limit_is_published(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    payload = b"x" * (MAX_MESSAGE_BYTES - 1_000)
    database.publish(Outgoing(topic, "k", payload))
    with a_relay(database, broker) as relay:
        assert relay.run_once() == 1
    assert broker.read(topic) == [("k", payload)]


def test_a_topic_that_is_missing_parks_its_messages_however_many_and_no_others(
    database: Database, broker: Broker
) -> None:
    missing, good = f"{broker.topic()}.missing", broker.topic()
    clock = Clock()
    lost = [m for n in range(BATCH + 1) for m in numbered(missing, f"key-{n}", [n])]
    database.publish(*lost, *numbered(good, "k", [1]))
    with a_relay(database, broker, clock=clock) as relay:
        began = time.monotonic()
        eventually(lambda: relay.run_once() or values(broker, good) == ["k:1"])
        assert time.monotonic() - began < 4, "a missing topic must not hold up the others"
        database.publish(*numbered(good, "k", [2]))
        began = time.monotonic()
        assert relay.run_once() == 1
        assert time.monotonic() - began < 4
        broker.create(missing)
        clock.pass_(PARKED_TOPIC_S)
        eventually(drained(relay, database))
    assert sorted(values(broker, missing)) == sorted(m.payload.decode() for m in lost)
    assert values(broker, good) == ["k:1", "k:2"]
