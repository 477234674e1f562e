"""The real broker as tests use it: topics of their own, raw bytes in, raw bytes out."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic
from ecom_common import kafka
from ecom_common.settings import KafkaSettings
from ecom_local.instance import Instance

from tests.support.waiting import eventually

_NUMBERS = itertools.count()
TIMEOUT_S = 15


class Record(NamedTuple):
    """What stands in a topic."""

    key: str
    value: bytes | None


@dataclass
class Broker:
    """One test's view of the instance's broker."""

    bootstrap: str
    admin: AdminClient = field(init=False)
    _producers: list[Producer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    @classmethod
    def of(cls, instance: Instance) -> "Broker":
        return cls(instance.kafka_bootstrap)

    @property
    def settings(self) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self.bootstrap)

    def topic(self, name: str = "test", *, partitions: int = 1, **options: str) -> str:
        """The name of a new topic."""
        topic = f"{name}.{os.getpid()}.{next(_NUMBERS)}"
        self.create(topic, partitions=partitions, **options)
        return topic

    def create(self, topic: str, *, partitions: int = 1, **options: str) -> None:
        config = {option.replace("_", "."): value for option, value in options.items()}
        new = NewTopic(topic, partitions, 1, config=config)
        self.admin.create_topics([new])[topic].result(TIMEOUT_S)
        eventually(lambda: topic in self.admin.list_topics(timeout=TIMEOUT_S).topics)

    def producer(self, *, delivery_timeout_ms: int = kafka.DELIVERY_TIMEOUT_MS) -> Producer:
        return kafka.make_producer(
            self.settings, client_id="tests", delivery_timeout_ms=delivery_timeout_ms
        )

    def produce(
        self, topic: str, values: Sequence[bytes | None], *, key: str | bytes = "k"
    ) -> None:
        """Write `values` and wait until the broker has them."""
        if not self._producers:
            self._producers.append(self.producer())
        producer = self._producers[0]
        for value in values:
            producer.produce(topic, value, key)
        assert producer.flush(TIMEOUT_S) == 0

    def read(self, topic: str) -> list[Record]:
        """Everything that stands in the topic now, each partition in its order."""
        return [record for partition in self.read_partitions(topic) for record in partition]

    def read_partitions(self, topic: str) -> list[list[Record]]:
        reader = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"reader-{next(_NUMBERS)}",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        try:
            partitions = reader.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
            return [
                _read_partition(reader, TopicPartition(topic, partition, 0))
                for partition in sorted(partitions)
            ]
        finally:
            reader.close()

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        """The offset that the group has committed; negative when none."""
        reader = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 0})
        try:
            [at] = reader.committed([TopicPartition(topic, partition)], timeout=TIMEOUT_S)
            assert isinstance(at.offset, int)
            return at.offset
        finally:
            reader.close()

    def group(self, *, session_timeout_ms: int = 1_000) -> str:
        """The name of a new consumer group, whose dead members are noticed soon."""
        name = f"group-{os.getpid()}-{next(_NUMBERS)}"
        timeouts = {
            "consumer.session.timeout.ms": session_timeout_ms,
            "consumer.heartbeat.interval.ms": 300,
        }
        entries = [
            ConfigEntry(option, str(value), incremental_operation=AlterConfigOpType.SET)
            for option, value in timeouts.items()
        ]
        resource = ConfigResource(ResourceType.GROUP, name, incremental_configs=entries)
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(TIMEOUT_S)
        return name


def _read_partition(reader: Consumer, start: TopicPartition) -> list[Record]:
    low, high = reader.get_watermark_offsets(start, timeout=TIMEOUT_S)
    start.offset = low
    reader.assign([start])
    records: list[Record] = []
    offset = low

    def look() -> bool:
        nonlocal offset
        for message in reader.consume(1_000, 0.05) if offset < high else []:
            assert message.error() is None, message.error()
            key = message.key()
            records.append(Record((key or b"").decode(errors="replace"), message.value()))
            offset = (message.offset() or 0) + 1
        return offset >= high

    eventually(look, within_s=TIMEOUT_S)
    return records
