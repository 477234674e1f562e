"""Every Kafka topic of the platform, in one place.

Owns names, keys, retention and compaction; workers create what is missing from here at start,
since automatic creation is off at the broker. Knows nothing of messages: they point here.
"""

from dataclasses import dataclass
from typing import Final, Literal

DAY_MS: Final = 24 * 60 * 60 * 1000

# Commands and answers are asked for again by the sweeper, so a week only has to outlast an
# outage and the people who look into it.
COMMAND_RETENTION_MS: Final = 7 * DAY_MS

# What others subscribe to, and what an operator may still redrive, is kept for a month.
PUBLIC_RETENTION_MS: Final = 30 * DAY_MS

# Raising it later is safe: messages of one key may arrive in any order.
DEFAULT_PARTITIONS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic as its publisher promises it."""

    name: str
    key: Literal["order_id", "sku"]
    """The field of the data that is the message key."""
    retention_ms: int | None
    """None: kept for ever, as a compacted topic is."""
    compacted: bool = False
    """A null value on a compacted topic is a tombstone, not poison."""
    partitions: int = DEFAULT_PARTITIONS
    """The default; a deployment may create more."""
    summary: str
    publishers: tuple[str, ...] = ()
    """Which of our services write it."""
    readers: tuple[str, ...] = ()
    """Which of our services read it; anybody else may, too."""


ORDERS_EVENTS: Final = Topic(
    name="orders.events",
    key="order_id",
    retention_ms=PUBLIC_RETENTION_MS,
    summary="What became of orders, for everybody else. The saga itself never reads it.",
    publishers=("order_service",),
)
INVENTORY_COMMANDS: Final = Topic(
    name="inventory.commands",
    key="order_id",
    retention_ms=COMMAND_RETENTION_MS,
    summary="What the order service asks of the inventory service.",
    publishers=("order_service",),
    readers=("inventory_service",),
)
INVENTORY_EVENTS: Final = Topic(
    name="inventory.events",
    key="order_id",
    retention_ms=COMMAND_RETENTION_MS,
    summary="The inventory service's answers: a reservation's whole state and version.",
    publishers=("inventory_service",),
    readers=("order_service",),
)
PAYMENT_COMMANDS: Final = Topic(
    name="payment.commands",
    key="order_id",
    retention_ms=COMMAND_RETENTION_MS,
    summary="What the order service asks of the payment service.",
    publishers=("order_service",),
    readers=("payment_service",),
)
PAYMENT_EVENTS: Final = Topic(
    name="payment.events",
    key="order_id",
    retention_ms=COMMAND_RETENTION_MS,
    summary="The payment service's answers: a payment intent's whole state and version.",
    publishers=("payment_service",),
    readers=("order_service",),
)
CATALOG: Final = Topic(
    name="catalog",
    key="sku",
    retention_ms=None,
    compacted=True,
    summary="The latest state of every item; a reader from the beginning has the whole catalogue.",
    publishers=("inventory_service",),
    readers=("order_service",),
)


def _dead_letters_of(service: str) -> Topic:
    return Topic(
        name=f"{service}.dead-letter",
        key="order_id",
        retention_ms=PUBLIC_RETENTION_MS,
        summary=f"Messages that {service} could not handle: the original key and bytes.",
        publishers=(service,),
    )


DEAD_LETTER_TOPICS: Final[dict[str, Topic]] = {
    "order_service": _dead_letters_of("order_service"),
    "inventory_service": _dead_letters_of("inventory_service"),
    "payment_service": _dead_letters_of("payment_service"),
}

ALL_TOPICS: Final[tuple[Topic, ...]] = (
    ORDERS_EVENTS,
    INVENTORY_COMMANDS,
    INVENTORY_EVENTS,
    PAYMENT_COMMANDS,
    PAYMENT_EVENTS,
    CATALOG,
    *DEAD_LETTER_TOPICS.values(),
)


def dead_letter_topic(service: str) -> Topic:
    """The dead-letter topic of a service by its package name; KeyError for any other name."""
    return DEAD_LETTER_TOPICS[service]
