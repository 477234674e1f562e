"""What stands in the topics as bytes: read from the start, produced again, deleted, and groups set back.

Whatever is produced here was published by a relay before, with the same key and the same bytes; the exceptions
are poison, which is made up by whoever needs it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from tests.support.shop import until

TIMEOUT_S: Final = 30.0
AT_ONCE: Final = 5_000
MAX_MESSAGE_BYTES: Final = 1024 * 1024
_NUMBERS: Final = itertools.count()


Ends = Mapping[str, Mapping[int, int]]
"""Topic → partition → offset of the next message."""


@dataclass(frozen=True, slots=True)
class Record:
    """A message where it stands; a partition of -1 is the one that its key belongs to."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    at: float = field(default=0.0, compare=False)
    """When it was produced, by its producer's clock, in seconds since the epoch."""

    def to_the_partition_of_its_key(self) -> Record:
        return replace(self, partition=-1)

    def moved_to(self, partition: int) -> Record:
        return replace(self, partition=partition)


@dataclass
class Topics:
    """The topics of one broker."""

    bootstrap: str

    def __post_init__(self) -> None:
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        self._producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                "partitioner": "murmur2_random",
                "message.max.bytes": MAX_MESSAGE_BYTES,
            }
        )

    def partitions(self, topic: str) -> list[int]:
        return sorted(self._admin.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions)

    def exists(self, topic: str) -> bool:
        found = self._admin.list_topics(timeout=TIMEOUT_S).topics.get(topic)
        return found is not None and found.error is None

    def ends(self, topic: str) -> dict[int, int]:
        """For each partition the offset of its next message."""
        with self._reader() as reader:
            return {p: self._bounds(reader, topic, p)[1] for p in self.partitions(topic)}

    def all_ends(self, topics: Iterable[str]) -> Ends:
        """For each of these topics that there is, the offsets of its next messages."""
        return {topic: self.ends(topic) for topic in topics if self.exists(topic)}

    def read(self, topic: str, begin: Mapping[int, int] | None = None) -> list[Record]:
        """Everything that stands in the topic now, or of it what came after `begin`; each partition in its
        order."""
        with self._reader() as reader:
            return [
                record
                for partition in self.partitions(topic)
                for record in _read_partition(
                    reader, TopicPartition(topic, partition, (begin or {}).get(partition, 0))
                )
            ]

    def produce(self, records: Iterable[Record]) -> int:
        """Write them, in this order, and wait until the broker has them; how many those were."""
        count = 0
        for count, record in enumerate(records, start=1):  # noqa: B007 - counts them
            self._producer.produce(
                record.topic, record.value, record.key, partition=record.partition
            )
            self._producer.poll(0)
        assert self._producer.flush(TIMEOUT_S) == 0, "the broker did not take everything"
        return count

    def empty(self, topic: str) -> None:
        """Delete everything that stands in the topic now; offsets go on counting."""
        ends = [TopicPartition(topic, partition, -1) for partition in self.partitions(topic)]
        for future in self._admin.delete_records(ends).values():
            future.result(TIMEOUT_S)

    def rewind(self, group: str, topics: Collection[str]) -> None:
        """Have the group begin at the start again. It must have no member; one that has just left is waited for."""
        with self._reader() as reader:
            starts = [
                TopicPartition(topic, partition, self._bounds(reader, topic, partition)[0])
                for topic in topics
                for partition in self.partitions(topic)
            ]

        def done() -> bool:
            request = [ConsumerGroupTopicPartitions(group, starts)]
            try:
                [answer] = self._admin.alter_consumer_group_offsets(request).values()
                # Refused is each partition by itself.
                return not any(at.error for at in answer.result(TIMEOUT_S).topic_partitions)
            except KafkaException:
                return False

        until(done, timeout_s=TIMEOUT_S, about=lambda: f"{group} has members", every_s=0.5)

    def behind(self, group: str, ends: Ends) -> int:
        """How many offsets the group is from having committed these ends of topics."""
        places = [TopicPartition(topic, partition) for topic in ends for partition in ends[topic]]
        with self._reader(group) as reader:
            return sum(
                max(
                    0,
                    ends[at.topic][at.partition]
                    - max(self._bounds(reader, at.topic, at.partition)[0], at.offset),
                )
                for at in reader.committed(places, timeout=TIMEOUT_S)
            )

    @contextmanager
    def following(
        self, topics: Collection[str], on_message: Callable[[Record], None]
    ) -> Iterator[None]:
        """Hear of every message that is published from now on, on a thread of its own."""
        stop = threading.Event()
        failures: list[Exception] = []
        with self._reader() as reader:
            reader.assign(
                [
                    TopicPartition(topic, partition, self._bounds(reader, topic, partition)[1])
                    for topic in topics
                    for partition in self.partitions(topic)
                ]
            )
            thread = threading.Thread(
                target=_follow, args=(reader, on_message, stop, failures), daemon=True
            )
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join(TIMEOUT_S)
        if failures:
            raise failures[0]

    def _bounds(self, reader: Consumer, topic: str, partition: int) -> tuple[int, int]:
        place = TopicPartition(topic, partition)
        low, high = reader.get_watermark_offsets(place, timeout=TIMEOUT_S)
        return low, high

    @contextmanager
    def _reader(self, group: str | None = None) -> Iterator[Consumer]:
        reader = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": group or f"reader-{next(_NUMBERS)}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        try:
            yield reader
        finally:
            reader.close()


def _read_partition(reader: Consumer, place: TopicPartition) -> Iterator[Record]:
    low, high = reader.get_watermark_offsets(place, timeout=TIMEOUT_S)
    place.offset = offset = max(low, place.offset)
    reader.assign([place])
    deadline = time.monotonic() + TIMEOUT_S
    while offset < high:
        assert time.monotonic() < deadline, f"{place.topic} could be read to {offset} of {high}"
        for message in reader.consume(min(AT_ONCE, high - offset), 0.1):
            record = _record(message)
            offset = record.offset + 1
            if offset <= high:
                yield record
        # Compaction leaves holes, also at the end.
        [at] = reader.position([place])
        offset = max(offset, at.offset)


def _follow(
    reader: Consumer,
    on_message: Callable[[Record], None],
    stop: threading.Event,
    failures: list[Exception],
) -> None:
    try:
        while not stop.is_set():
            for message in reader.consume(100, 0.05):
                on_message(_record(message))
    except Exception as error:
        failures.append(error)


def _record(message: Message) -> Record:
    assert message.error() is None, message.error()
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    key = message.key()
    return Record(
        topic,
        partition,
        offset,
        key.encode() if isinstance(key, str) else key,
        message.value(),
        message.timestamp()[1] / 1000,
    )
