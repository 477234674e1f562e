"""When the consumer commits its offsets: now and then, and whenever it gives something away."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import TopicPartition
from ecom_common.consumer import OFFSETS_EVERY_S, Consumer
from ecom_common.database import Sessions


class Tombstone:
    """A message that is acknowledged without a database."""

    def __init__(self, partition: int, offset: int) -> None:
        self._place = partition, offset

    def error(self) -> None:
        return None

    def value(self) -> None:
        return None

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int:
        return self._place[1]


class Kafka:
    """Hands out messages one by one, and remembers what was committed."""

    def __init__(self) -> None:
        self.messages: deque[Tombstone] = deque()
        self.committed: list[dict[int, int]] = []
        self.revoke: Callable[[Any, list[TopicPartition]], None]

    def subscribe(self, _: Sequence[str], *, on_revoke: Any) -> None:
        self.revoke = on_revoke

    def poll(self, _: float) -> Tombstone | None:
        return self.messages.popleft() if self.messages else None

    def consume(self, *_: object) -> list[Tombstone]:
        return []

    def commit(self, *, offsets: Sequence[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.committed.append({at.partition: at.offset for at in offsets})

    def resume(self, _: object) -> None: ...

    def close(self) -> None: ...


class Stage:
    """A consumer between a broker and a clock of the test's."""

    def __init__(self) -> None:
        self.now = 100.0
        self.kafka = Kafka()
        self.consumer = Consumer(
            cast(KafkaConsumer, self.kafka),
            cast(Sessions, None),
            {},
            topics=["t"],
            dead_letter_topic="dead",
            max_batch=10,
            clock=lambda: self.now,
        )

    def handle(self, *places: tuple[int, int]) -> None:
        self.kafka.messages += [Tombstone(*place) for place in places]
        while self.consumer.run_once(0):
            pass


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_offsets_are_committed_at_most_once_in_a_while_and_without_new_messages(
    stage: Stage,
) -> None:
    stage.handle((0, 7))
    assert stage.kafka.committed == [{0: 8}]
    stage.handle((0, 8), (1, 3), (0, 9))
    assert stage.kafka.committed == [{0: 8}]
    stage.now += OFFSETS_EVERY_S
    stage.handle()
    assert stage.kafka.committed == [{0: 8}, {0: 10, 1: 4}]
    stage.now += OFFSETS_EVERY_S
    stage.handle()
    assert len(stage.kafka.committed) == 2, "there is nothing new to say"


def test_offsets_are_committed_when_partitions_are_taken_away_and_at_the_end(stage: Stage) -> None:
    stage.handle((0, 1))
    stage.handle((0, 2))
    stage.kafka.revoke(stage.kafka, [TopicPartition("t", 0)])
    assert stage.kafka.committed[1:] == [{0: 3}]
    stage.handle((1, 5))
    stage.consumer.close()
    assert stage.kafka.committed[2:] == [{1: 6}]
