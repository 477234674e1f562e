"""The simulated broker's clients keep the promises that the real ones keep, and that our code builds on."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition
from ecom_common import kafka
from ecom_contracts.topics import INVENTORY_COMMANDS
from ecom_local.instance import Instance

from tests.simulation import broker as simulated
from tests.simulation.clock import Clock
from tests.simulation.trace import Trace
from tests.support.broker import Broker
from tests.support.waiting import eventually

KEYS: Final = ("a", "b", "c", "d", "e")
PARTITIONS: Final = INVENTORY_COMMANDS.partitions


@dataclass
class Bench:
    """A topic, and how to make clients of its broker."""

    topic: str
    group: str
    make_producer: Callable[[], Any]
    make_consumer: Callable[[], Any]
    _early: list[Message] = field(default_factory=list)
    """What came while partitions were waited for."""

    def send(self, numbers: range) -> list[tuple[KafkaError | None, Message]]:
        """A record for each number, of one key after the other; what was reported of them."""
        producer = self.make_producer()
        reports: list[tuple[KafkaError | None, Message]] = []
        for number in numbers:
            producer.produce(
                self.topic,
                str(number).encode(),
                KEYS[number % len(KEYS)],
                on_delivery=lambda error, message: reports.append((error, message)),
            )
        assert producer.flush(10.0) == 0
        return reports

    def consumer(self) -> Any:
        """One that has its partitions."""
        consumer = self.make_consumer()
        consumer.subscribe([self.topic], on_revoke=lambda *_: None)
        self._early = []

        def joined() -> bool:
            if (message := consumer.poll(0.05)) is not None:
                self._early.append(message)
            return len(consumer.assignment()) == PARTITIONS

        eventually(joined)
        return consumer

    def take(self, consumer: Any, count: int) -> list[Message]:
        """So many records, as the chassis takes them."""
        taken: list[Message] = self._early
        self._early = []

        def enough() -> bool:
            if (message := consumer.poll(0.05)) is not None:
                taken.extend([message, *consumer.consume(count, 0)])
            return len(taken) >= count

        eventually(enough)
        assert all(message.error() is None for message in taken)
        return taken


def _simulated(_: Instance) -> Bench:
    broker = simulated.Broker(Random(5), Trace(Clock()))
    return Bench(
        INVENTORY_COMMANDS.name,
        "readers",
        lambda: simulated.SimulatedProducer(broker),
        lambda: simulated.SimulatedConsumer(broker, "readers"),
    )


def _real(instance: Instance) -> Bench:
    broker = Broker.of(instance)
    group = broker.group()
    return Bench(
        broker.topic(partitions=PARTITIONS),
        group,
        broker.producer,
        lambda: kafka.make_consumer(broker.settings, client_id="tests", group=group),
    )


@pytest.fixture(params=[_simulated, _real], ids=["simulated", "real"])
def bench(request: pytest.FixtureRequest, instance: Instance) -> Bench:
    make: Callable[[Instance], Bench] = request.param
    return make(instance)


def test_every_record_is_reported_once(bench: Bench) -> None:
    reports = bench.send(range(20))
    assert [error for error, _ in reports] == [None] * 20
    assert {message.value() for _, message in reports} == {str(n).encode() for n in range(20)}


def test_a_key_has_one_partition_and_keeps_its_order(bench: Bench) -> None:
    bench.send(range(40))
    with closing(bench.consumer()) as consumer:
        taken = bench.take(consumer, 40)
    by_key = defaultdict(list)
    for message in taken:
        by_key[str(message.key())].append((message.partition(), int(message.value() or b"")))
    assert len(by_key) == len(KEYS)
    for records in by_key.values():
        assert len({partition for partition, _ in records}) == 1
        assert records == sorted(records)


def test_a_partition_counts_its_records(bench: Bench) -> None:
    bench.send(range(40))
    with closing(bench.consumer()) as consumer:
        taken = bench.take(consumer, 40)
    offsets = defaultdict(list)
    for message in taken:
        offsets[message.partition()].append(message.offset())
    assert all(found == list(range(len(found))) for found in offsets.values())


def test_who_comes_back_begins_where_offsets_were_committed(bench: Bench) -> None:
    bench.send(range(20))
    with closing(bench.consumer()) as consumer:
        taken = bench.take(consumer, 20)
        done = [message for message in taken if message.partition() == taken[0].partition()]
        end = TopicPartition(bench.topic, taken[0].partition() or 0, len(done))
        consumer.commit(offsets=[end], asynchronous=False)
    with closing(bench.consumer()) as consumer:
        again = bench.take(consumer, 20 - len(done))
    values = {message.value() for message in taken} - {message.value() for message in done}
    assert {message.value() for message in again} == values


def test_a_paused_partition_is_silent_until_it_is_resumed(bench: Bench) -> None:
    with closing(bench.consumer()) as consumer:
        consumer.pause(consumer.assignment())
        bench.send(range(5))
        assert [consumer.poll(0.05) for _ in range(10)] == [None] * 10
        consumer.resume(consumer.assignment())
        assert len(bench.take(consumer, 5)) == 5
