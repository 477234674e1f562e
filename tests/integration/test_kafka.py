"""The topics that workers make sure of, and the clients' promises."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from ecom_common import create_topics, kafka
from ecom_common.errors import DependencyDown
from ecom_common.kafka import ADMIN_TIMEOUT_S, ensure_topics
from ecom_common.settings import KafkaSettings
from ecom_contracts.topics import ALL_TOPICS, Topic
from ecom_local.instance import Instance
from ecom_local.ports import Ports
from pydantic import SecretStr

from tests.support.broker import Broker
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def broker(instance: Instance) -> Broker:
    return Broker.of(instance)


def a_topic(name: str, **changes: object) -> Topic:
    values = {"name": name, "key": "order_id", "retention_ms": 60_000, "summary": "For tests."}
    return Topic(**(values | changes))  # type: ignore[arg-type]


def partitions(broker: Broker, topic: str) -> int:
    topics = eventually(lambda: broker.admin.list_topics(topic, timeout=10).topics)
    return len(topics[topic].partitions)


def option(broker: Broker, topic: str, name: str) -> str | None:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entries = broker.admin.describe_configs([resource])[resource].result(10)
    value = entries[name].value
    assert value is None or isinstance(value, str)
    return value


def test_missing_topics_are_made_as_their_publishers_promise(broker: Broker) -> None:
    plain, compacted = broker.topic("x") + ".plain", broker.topic("x") + ".compacted"
    topics = [
        a_topic(plain, partitions=5),
        a_topic(compacted, key="sku", retention_ms=None, compacted=True),
    ]
    ensure_topics(broker.settings, topics, client_id="tests")
    eventually(lambda: {plain, compacted} <= set(broker.admin.list_topics(timeout=10).topics))
    assert partitions(broker, plain) == 5
    assert option(broker, plain, "retention.ms") == "60000"
    assert option(broker, plain, "cleanup.policy") == "delete"
    assert option(broker, compacted, "cleanup.policy") == "compact"


def test_topics_that_exist_are_left_to_their_operator(broker: Broker) -> None:
    existing, missing = broker.topic(partitions=2, retention_ms="5000"), broker.topic() + ".new"
    topics = [a_topic(existing, partitions=7), a_topic(missing)]
    for _ in range(2):
        ensure_topics(broker.settings, topics, client_id="tests")
    assert partitions(broker, existing) == 2
    assert option(broker, existing, "retention.ms") == "5000"
    eventually(lambda: missing in broker.admin.list_topics(timeout=10).topics)


def test_an_installation_can_ask_for_another_number_of_partitions(broker: Broker) -> None:
    name = broker.topic() + ".more"
    settings = KafkaSettings(bootstrap_servers=broker.bootstrap, partitions=4)
    ensure_topics(settings, [a_topic(name)], client_id="tests")
    eventually(lambda: name in broker.admin.list_topics(timeout=10).topics)
    assert partitions(broker, name) == 4


def test_three_workers_may_make_the_same_topics_at_once(broker: Broker) -> None:
    topics = [a_topic(f"{broker.topic()}.{n}") for n in range(6)]

    def ensure(number: int) -> None:
        ensure_topics(broker.settings, topics, client_id=f"worker-{number}")

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(ensure, range(3)))
    eventually(lambda: {t.name for t in topics} <= set(broker.admin.list_topics(timeout=10).topics))


def test_a_topic_that_the_broker_refuses_is_named(broker: Broker) -> None:
    with pytest.raises(DependencyDown, match="no/such/name"):
        ensure_topics(broker.settings, [a_topic("no/such/name")], client_id="tests")


def test_a_broker_that_does_not_answer_is_said_to_be_down_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{Ports.free().kafka}")
    began = time.monotonic()
    assert create_topics.main() == 1
    assert "does not answer" in capsys.readouterr().err
    assert time.monotonic() - began < 2 * ADMIN_TIMEOUT_S


def test_the_command_that_makes_all_topics_tells_by_its_exit_code_how_it_went(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    assert create_topics.main() == 2
    assert "KAFKA_BOOTSTRAP_SERVERS" in capsys.readouterr().err
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap)
    assert create_topics.main() == create_topics.main() == 0
    wanted = {topic.name for topic in ALL_TOPICS}
    eventually(lambda: wanted <= set(broker.admin.list_topics(timeout=10).topics))


def test_nobody_creates_a_topic_by_writing_to_it(broker: Broker) -> None:
    name = broker.topic() + ".misspelt"
    producer = broker.producer()
    refused: list[bool] = []
    producer.produce(name, b"x", on_delivery=lambda error, _: refused.append(error is not None))
    producer.flush(10)
    assert refused == [True]
    assert name not in broker.admin.list_topics(timeout=10).topics


def test_a_new_group_begins_at_the_beginning(broker: Broker) -> None:
    topic = broker.topic()
    broker.produce(topic, [b"written before anybody read"])
    consumer = kafka.make_consumer(broker.settings, client_id="tests", group=broker.group())
    consumer.subscribe([topic])
    try:
        message = eventually(lambda: consumer.poll(0.1))
        assert message is not None
        assert message.value() == b"written before anybody read"
    finally:
        consumer.close()


def test_a_managed_broker_is_reached_with_its_credentials_and_they_are_not_logged() -> None:
    settings = KafkaSettings(
        bootstrap_servers="127.0.0.1:1",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="ecom",
        sasl_password=SecretStr("hunter2"),
    )
    producer = kafka.make_producer(settings, client_id="tests")
    producer.poll(0)
    assert "hunter2" not in repr(settings)
