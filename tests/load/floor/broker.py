"""The broker alone, by the clients and the options that the services use: how soon, and how much."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

from confluent_kafka import Consumer, Producer
from ecom_common.kafka import ensure_topics, make_consumer, make_producer
from ecom_common.settings import KafkaSettings
from ecom_contracts.topics import ORDERS_EVENTS

from tests.load.platform import BenchPlatform
from tests.load.running import Percentiles

ROUND_TRIPS: Final = 300
MESSAGES: Final = 100_000
AT_ONCE: Final = 1_000
PAYLOAD: Final = b"x" * 560
"""About what our messages have."""
TIMEOUT_S: Final = 30.0
_TOPIC: Final = replace(ORDERS_EVENTS, name="floor")


@dataclass(frozen=True)
class BrokerFloor:
    """`round_trip`: produced, flushed and consumed one by one."""

    round_trip: Percentiles
    messages_per_s: float
    """Produced in batches and consumed."""


def measure(platform: BenchPlatform) -> BrokerFloor:
    settings = KafkaSettings(bootstrap_servers=platform.instance.kafka_bootstrap)
    ensure_topics(settings, [_TOPIC], client_id="floor")
    producer = make_producer(settings, client_id="floor")
    consumer = make_consumer(settings, client_id="floor", group="floor")
    try:
        consumer.subscribe([_TOPIC.name])
        _send(producer, 1)
        _receive(consumer, 1)
        times = []
        for _ in range(ROUND_TRIPS):
            begin = time.perf_counter()
            _send(producer, 1)
            _receive(consumer, 1)
            times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for _ in range(MESSAGES // AT_ONCE):
            _send(producer, AT_ONCE)
            _receive(consumer, AT_ONCE)
        seconds = time.perf_counter() - begin
    finally:
        consumer.close()
    found = Percentiles.of_seconds(times)
    assert found is not None
    return BrokerFloor(found, MESSAGES / seconds)


def _send(producer: Producer, count: int) -> None:
    for number in range(count):
        producer.produce(_TOPIC.name, PAYLOAD, str(number))
    assert producer.flush(TIMEOUT_S) == 0, "the broker does not answer"


def _receive(consumer: Consumer, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while count > 0:
        assert time.monotonic() < deadline, "the broker does not answer"
        first = consumer.poll(TIMEOUT_S)
        got = [] if first is None else [first, *consumer.consume(AT_ONCE, 0)]
        assert all(message.error() is None for message in got)
        count -= len(got)
