"""The messages that the services exchange, as the `data` of an envelope.

Owns their shape and bounds, and nothing of their handling. Every class is one type at one major
version; the docstrings and descriptions here are what the JSON Schemas and the AsyncAPI document
say. Consumers ignore fields they do not know; producers only ever add optional ones.

Integers and booleans are strict ("1" is not 1, true is not 1): a message that means something
else than it says must not be coerced into sense. Lists are tuples, so that a message is immutable
all the way down.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Final
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ecom_contracts.topics import (
    CATALOG,
    INVENTORY_COMMANDS,
    INVENTORY_EVENTS,
    ORDERS_EVENTS,
    PAYMENT_COMMANDS,
    PAYMENT_EVENTS,
    Topic,
)

MAX_LINES: Final = 100
# A line's million, times the hundred lines that may have been merged into one by SKU.
MAX_QUANTITY: Final = 1_000_000 * MAX_LINES
# Minor units. Far above any order, far below 2**53, so that a JavaScript reader is exact too.
MAX_AMOUNT: Final = 10**15
# Versions count changes of one aggregate; 32 bits are what CloudEvents calls an Integer.
MAX_VERSION: Final = 2**31 - 1
MAX_STOCK: Final = 2**53 - 1

# Postgres cannot store a NUL in text, so such a message could never be handled: refuse it here,
# where it is a malformed message, and not in the database, where it is a puzzle.
_NO_NUL: Final = r"^[^\x00]*$"
_NO_CONTROL_CHARACTERS: Final = r"^[^\x00-\x1f\x7f]+$"

OrderId = Annotated[UUID, Field(description="The order that this is about.")]
Sku = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=_NO_CONTROL_CHARACTERS,
        description="The seller's own key of an item.",
    ),
]
Quantity = Annotated[int, Field(strict=True, ge=1, le=MAX_QUANTITY, description="Units asked for.")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code.")]
Amount = Annotated[
    int, Field(strict=True, ge=0, le=MAX_AMOUNT, description="Money in minor units; may be none.")
]
PositiveAmount = Annotated[
    int, Field(strict=True, ge=1, le=MAX_AMOUNT, description="Money in minor units, at least 1.")
]
Version = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=MAX_VERSION,
        description="Grows by one at each change; an answer with an older or equal one is ignored.",
    ),
]
Opaque = Annotated[str, Field(min_length=1, max_length=255, pattern=_NO_CONTROL_CHARACTERS)]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=_NO_CONTROL_CHARACTERS)]
# A stable code, not a sentence. An open set: readers must expect codes that they do not know,
# which is why it is not an enum (evolution.py tells why an enum never grows).
Reason = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9_]{0,63}$",
        description="A stable code such as out_of_stock. An open set: expect unknown ones.",
    ),
]


class ReservationState(StrEnum):
    """Where a reservation stands. `none` means that inventory was never asked."""

    NONE = "none"
    HELD = "held"
    REFUSED = "refused"
    COMMITTED = "committed"
    RELEASED = "released"
    RESTOCKED = "restocked"


class PaymentState(StrEnum):
    """Where a payment intent stands. `unknown` is a timeout at the provider, never a decline."""

    NONE = "none"
    PROCESSING = "processing"
    UNKNOWN = "unknown"
    CAPTURED = "captured"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    REFUNDING = "refunding"
    REFUNDED = "refunded"
    REFUND_FAILED = "refund_failed"


class Part(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StockLine(Part):
    """So many units of one item."""

    sku: Sku
    quantity: Quantity


class Shortage(Part):
    """Why a reservation was refused: one item of which there was not enough."""

    sku: Sku
    requested: Quantity
    available: Annotated[
        int,
        Field(
            strict=True,
            ge=0,
            le=MAX_STOCK,
            description="Units that could have been reserved at that moment.",
        ),
    ]


class OrderedLine(Part):
    """One line of an order at the price that was frozen when it was placed."""

    sku: Sku
    name: Annotated[Name, Field(description="What the item was called at placement.")]
    quantity: Quantity
    unit_price: Annotated[PositiveAmount, Field(description="Minor units, at placement.")]
    total: Annotated[PositiveAmount, Field(description="quantity * unit_price, minor units.")]


class Message(BaseModel):
    """The data of one message type at one major version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    TYPE: ClassVar[str]
    TOPIC: ClassVar[Topic]

    @property
    def key(self) -> str:
        """The Kafka key and the envelope's subject: what the topic says its messages are about."""
        return str(getattr(self, self.TOPIC.key))


class StockReserve(Message):
    """Hold every line of the order, or none."""

    TYPE: ClassVar[str] = "stock.reserve.v1"
    TOPIC: ClassVar[Topic] = INVENTORY_COMMANDS

    order_id: OrderId
    lines: Annotated[
        tuple[StockLine, ...],
        Field(min_length=1, max_length=MAX_LINES, description="Each SKU at most once."),
    ]


class StockCommit(Message):
    """The order is paid: what is held leaves the stock."""

    TYPE: ClassVar[str] = "stock.commit.v1"
    TOPIC: ClassVar[Topic] = INVENTORY_COMMANDS

    order_id: OrderId


class StockRelease(Message):
    """The order is off: give back what is held, restock what was committed.

    Arriving before the reservation, it leaves a tombstone that refuses the latecomer.
    """

    TYPE: ClassVar[str] = "stock.release.v1"
    TOPIC: ClassVar[Topic] = INVENTORY_COMMANDS

    order_id: OrderId


class PaymentCharge(Message):
    """Charge the order's total, once however often this is asked."""

    TYPE: ClassVar[str] = "payment.charge.v1"
    TOPIC: ClassVar[Topic] = PAYMENT_COMMANDS

    order_id: OrderId
    customer_id: Annotated[Opaque, Field(description="Whose order it is.")]
    currency: Currency
    amount: PositiveAmount
    method: Annotated[
        Opaque, Field(description="The provider's token of a payment method; never a card number.")
    ]


class PaymentCancel(Message):
    """The order is off: never charge it, or refund it in full.

    Carries the amount because it can arrive before the charge and then leaves a whole intent,
    already cancelled, as a tombstone.
    """

    TYPE: ClassVar[str] = "payment.cancel.v1"
    TOPIC: ClassVar[Topic] = PAYMENT_COMMANDS

    order_id: OrderId
    customer_id: Annotated[Opaque, Field(description="Whose order it is.")]
    currency: Currency
    amount: PositiveAmount


class ReservationChanged(Message):
    """A reservation's whole state: published at each change and as the answer to each command."""

    TYPE: ClassVar[str] = "reservation.changed.v1"
    TOPIC: ClassVar[Topic] = INVENTORY_EVENTS

    order_id: OrderId
    state: ReservationState
    version: Version
    lines: Annotated[
        tuple[StockLine, ...],
        Field(max_length=MAX_LINES, description="What was asked for; empty for a tombstone."),
    ] = ()
    shortages: Annotated[
        tuple[Shortage, ...],
        Field(max_length=MAX_LINES, description="What was missing, when refused."),
    ] = ()
    expires_at: Annotated[
        AwareDatetime | None, Field(description="When a held reservation releases itself.")
    ] = None


class PaymentChanged(Message):
    """A payment intent's whole state: published at each change and as the answer to each command."""

    TYPE: ClassVar[str] = "payment.changed.v1"
    TOPIC: ClassVar[Topic] = PAYMENT_EVENTS

    order_id: OrderId
    payment_id: Annotated[
        UUID | None, Field(description="The intent; absent while there is none.")
    ] = None
    state: PaymentState
    version: Version
    currency: Currency
    amount: Annotated[Amount, Field(description="What the order asked for, minor units.")]
    captured: Annotated[Amount, Field(description="What was taken so far, minor units.")]
    refunded: Annotated[Amount, Field(description="What was given back so far, minor units.")]
    decline_code: Annotated[
        Opaque | None, Field(description="The provider's reason, when declined.")
    ] = None


class ItemChanged(Message):
    """An item of the catalogue as it is now."""

    TYPE: ClassVar[str] = "item.changed.v1"
    TOPIC: ClassVar[Topic] = CATALOG

    sku: Sku
    name: Annotated[Name, Field(description="What customers read.")]
    description: Annotated[
        str | None, Field(max_length=10_000, pattern=_NO_NUL, description="Free text.")
    ] = None
    unit_price: PositiveAmount
    currency: Currency
    active: Annotated[bool, Field(strict=True, description="Whether it can be ordered.")]
    version: Annotated[Version, Field(ge=1)]


class OrderPlaced(Message):
    """An order was accepted; nothing is reserved or charged yet."""

    TYPE: ClassVar[str] = "order.placed.v1"
    TOPIC: ClassVar[Topic] = ORDERS_EVENTS

    order_id: OrderId
    checkout_id: Annotated[
        Opaque | None, Field(description="The shop's own key of the checkout, if it gave one.")
    ] = None
    customer_id: Annotated[Opaque, Field(description="Whose order it is.")]
    currency: Currency
    total: PositiveAmount
    lines: Annotated[
        tuple[OrderedLine, ...],
        Field(min_length=1, max_length=MAX_LINES, description="In the order of placement."),
    ]


class OrderConfirmed(Message):
    """The order is paid and its stock is committed."""

    TYPE: ClassVar[str] = "order.confirmed.v1"
    TOPIC: ClassVar[Topic] = ORDERS_EVENTS

    order_id: OrderId
    customer_id: Annotated[Opaque, Field(description="Whose order it is.")]
    currency: Currency
    total: PositiveAmount


class OrderRejected(Message):
    """The order could not be fulfilled; nothing is held and nothing stays charged."""

    TYPE: ClassVar[str] = "order.rejected.v1"
    TOPIC: ClassVar[Topic] = ORDERS_EVENTS

    order_id: OrderId
    customer_id: Annotated[Opaque, Field(description="Whose order it is.")]
    reason: Reason
    currency: Currency
    total: PositiveAmount


class OrderCancelled(Message):
    """The order was called off; nothing is held and nothing stays charged."""

    TYPE: ClassVar[str] = "order.cancelled.v1"
    TOPIC: ClassVar[Topic] = ORDERS_EVENTS

    order_id: OrderId
    customer_id: Annotated[Opaque, Field(description="Whose order it is.")]
    reason: Reason
    currency: Currency
    total: PositiveAmount


MESSAGES: Final[dict[str, type[Message]]] = {
    "stock.reserve.v1": StockReserve,
    "stock.commit.v1": StockCommit,
    "stock.release.v1": StockRelease,
    "payment.charge.v1": PaymentCharge,
    "payment.cancel.v1": PaymentCancel,
    "reservation.changed.v1": ReservationChanged,
    "payment.changed.v1": PaymentChanged,
    "item.changed.v1": ItemChanged,
    "order.placed.v1": OrderPlaced,
    "order.confirmed.v1": OrderConfirmed,
    "order.rejected.v1": OrderRejected,
    "order.cancelled.v1": OrderCancelled,
}
