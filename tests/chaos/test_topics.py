"""Reading, producing again, emptying and setting back, against the real broker."""

import pytest
from confluent_kafka import Consumer
from ecom_local.instance import Instance

from tests.support.broker import Broker
from tests.support.topics import Record, Topics
from tests.support.waiting import eventually


@pytest.fixture
def broker(instance: Instance) -> Broker:
    return Broker.of(instance)


@pytest.fixture
def topics(broker: Broker) -> Topics:
    return Topics(broker.bootstrap)


@pytest.fixture
def topic(broker: Broker) -> str:
    name = broker.topic(partitions=3)
    for number in range(6):
        broker.produce(name, [f"{number}".encode(), b"\0\xff"], key=f"key-{number}")
    return name


def test_a_topic_is_read_whole_and_its_copies_lie_with_their_originals(
    topics: Topics, topic: str
) -> None:
    before = topics.read(topic)
    assert len(before) == 12
    assert topics.produce(r.to_the_partition_of_its_key() for r in before) == 12
    after = topics.read(topic)
    assert len(after) == 24
    places: dict[bytes | None, set[int]] = {}
    for record in after:
        places.setdefault(record.key, set()).add(record.partition)
    assert all(len(partitions) == 1 for partitions in places.values())


def test_a_record_can_be_put_into_another_partition(topics: Topics, topic: str) -> None:
    topics.empty(topic)
    assert topics.read(topic) == []
    topics.produce([Record(topic, 2, 0, b"k", b"a"), Record(topic, 0, 0, b"k", b"b")])
    assert [(r.partition, r.key, r.value) for r in topics.read(topic)] == [
        (0, b"k", b"b"),
        (2, b"k", b"a"),
    ]


def test_a_group_that_is_set_back_gets_everything_again(topics: Topics, topic: str) -> None:
    assert _consume(topics.bootstrap, topic, 12) == 12
    ends = {topic: topics.ends(topic)}
    assert topics.behind("chaos-again", ends) == 0
    topics.rewind("chaos-again", [topic])
    assert topics.behind("chaos-again", ends) == 12
    assert _consume(topics.bootstrap, topic, 12) == 12


def test_what_is_published_is_heard_of_once_and_what_was_there_before_is_not(
    broker: Broker, topics: Topics, topic: str
) -> None:
    heard: list[Record] = []
    with topics.following([topic], heard.append):
        broker.produce(topic, [b"new"], key="key-0")
        eventually(lambda: heard)
    assert [r.value for r in heard] == [b"new"]


def _consume(bootstrap: str, topic: str, count: int) -> int:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "chaos-again",
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.subscribe([topic])
        found = 0

        def look() -> bool:
            nonlocal found
            found += len(consumer.consume(count, 0.1))
            return found >= count

        eventually(look)
        consumer.commit(asynchronous=False)
        return found
    finally:
        consumer.close()
