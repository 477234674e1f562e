"""The inventory's own processes over the real broker: a command comes in, its answer goes out."""

import time
from collections.abc import Callable, Iterator

import httpx
import psycopg2
import pytest
from confluent_kafka import Consumer, Producer
from ecom_common.ids import new_id
from ecom_common.kafka import make_consumer, make_producer
from ecom_common.settings import KafkaSettings
from ecom_contracts.envelope import Envelope, decode, encode
from ecom_contracts.messages import Message, StockCommit, StockLine, StockRelease, StockReserve
from ecom_contracts.topics import CATALOG, INVENTORY_COMMANDS, INVENTORY_EVENTS
from ecom_local.instance import Instance

from tests.support.databases import Databases
from tests.support.envelopes import an_envelope

DEADLINE_S = 40


class Broker:
    """Sends commands as the order service would, and listens to what the inventory says."""

    def __init__(self, producer: Producer, consumer: Consumer) -> None:
        self._producer = producer
        self._consumer = consumer
        self._heard: list[Envelope[Message]] = []

    def send(self, *commands: Message) -> list[Envelope[Message]]:
        envelopes = [an_envelope(c, source="order_service", correlation_id=c.key) for c in commands]
        for envelope in envelopes:
            self.send_bytes(envelope.subject, encode(envelope))
        return envelopes

    def send_bytes(self, key: str, payload: bytes) -> None:
        self._producer.produce(INVENTORY_COMMANDS.name, payload, key)
        assert self._producer.flush(10) == 0

    def hear(self, key: str, count: int) -> list[Envelope[Message]]:
        """The first `count` messages of this key."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self._of(key)) < count and time.monotonic() < deadline:
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None:
                self._heard.append(decode(message.value() or b""))
        assert len(self._of(key)) == count
        return self._of(key)

    def _of(self, key: str) -> list[Envelope[Message]]:
        return [envelope for envelope in self._heard if envelope.subject == key]


@pytest.fixture(scope="module")
def inventory(instance: Instance, databases: Databases) -> Instance:
    # After the templates: a database that is in use cannot be copied.
    assert databases.instance is instance
    instance.start("inventory-api", "inventory-worker")
    return instance


@pytest.fixture
def broker(inventory: Instance) -> Iterator[Broker]:
    settings = KafkaSettings(bootstrap_servers=inventory.kafka_bootstrap)
    consumer = make_consumer(settings, client_id="test", group=f"test-{new_id()}")
    consumer.subscribe([INVENTORY_EVENTS.name, CATALOG.name])
    yield Broker(make_producer(settings, client_id="test"), consumer)
    consumer.close()


def a_stocked_item(inventory: Instance, quantity: int) -> str:
    sku = f"W-{new_id()}"
    token = inventory.token(sub="seller", scope="inventory:read inventory:write")
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": sku}
    item = f"{inventory.url('inventory')}/v1/items/{sku}"
    body = {"name": "A thing", "unit_price": 100, "currency": "EUR"}
    movement = {"kind": "received", "quantity": quantity}
    assert httpx.put(item, json=body, headers=headers).status_code == 201
    answer = httpx.post(f"{item}/movements", json=movement, headers=headers)
    assert answer.status_code == 201
    return sku


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_command_is_answered_and_an_item_published(inventory: Instance, broker: Broker) -> None:
    sku = a_stocked_item(inventory, 5)
    order = new_id()
    lines = (StockLine(sku=sku, quantity=2),)
    sent = broker.send(
        StockReserve(order_id=order, lines=lines),
        StockCommit(order_id=order),
        StockRelease(order_id=order),
    )
    answers = broker.hear(str(order), 3)
    assert [answer.data.state.value for answer in answers] == ["held", "committed", "restocked"]  # type: ignore[attr-defined]
    assert [answer.sequence for answer in answers] == [1, 2, 3]
    assert [answer.causation_id for answer in answers] == [str(command.id) for command in sent]
    (item,) = broker.hear(sku, 1)
    assert (item.type, item.source, item.sequence) == ("item.changed.v1", "inventory_service", 1)


def test_a_message_that_comes_twice_has_its_effect_once(
    inventory: Instance, broker: Broker
) -> None:
    sku = a_stocked_item(inventory, 5)
    order, after = new_id(), new_id()
    lines = (StockLine(sku=sku, quantity=2),)
    (command,) = broker.send(StockReserve(order_id=order, lines=lines))
    broker.hear(str(order), 1)
    broker.send_bytes(str(order), encode(command))
    # Of the same key, so it stands behind the repeated one.
    broker.send(StockCommit(order_id=order), StockCommit(order_id=after))
    answers = broker.hear(str(order), 2)
    assert [answer.data.state.value for answer in answers] == ["held", "committed"]  # type: ignore[attr-defined]


def test_poison_goes_to_the_dead_letters_alone(inventory: Instance, broker: Broker) -> None:
    sku = a_stocked_item(inventory, 5)
    order, poisoned = new_id(), new_id()
    broker.send_bytes(str(order), b"not an envelope")
    # Each line may stand in a message, their sum may not: it can be read, and not be handled.
    too_many = (StockLine(sku=sku, quantity=100_000_000),) * 2
    broker.send(
        StockReserve(order_id=poisoned, lines=too_many),
        StockReserve(order_id=order, lines=(StockLine(sku=sku, quantity=1),)),
    )
    (answer,) = broker.hear(str(order), 1)
    assert answer.data.state.value == "held"  # type: ignore[attr-defined]
    keys = {str(order).encode(), str(poisoned).encode()}
    until(lambda: dead_letter_keys(inventory) >= keys)


def dead_letter_keys(inventory: Instance) -> set[bytes]:
    connection = psycopg2.connect(inventory.postgres_url("inventorydb", "inventory_service"))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT key FROM dead_letters WHERE state = 'open'")
            return {bytes(key) for (key,) in cursor.fetchall()}
    finally:
        connection.close()
