"""What HTTP clients send and get."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from ecom_common.cards import NoCardNumber
from ecom_common.money import Currency, Price, Quantity
from pydantic import BaseModel, ConfigDict, Field

from order_service.models import SUMMARIES, HistoryEntry, Order
from order_service.saga import Payment, Reason, Status, Stock

MAX_LINES = 100

# No control characters: Postgres cannot store a NUL, and nobody can read the others.
_TEXT = r"^[^\x00-\x1f\x7f]+$"
Sku = Annotated[str, Field(min_length=1, max_length=64, pattern=_TEXT, examples=["TEA-GREEN-100"])]

# The field first: after a validator of ours its pattern would not reach the OpenAPI document.
CheckoutId = Annotated[str, Field(min_length=1, max_length=128, pattern=_TEXT), NoCardNumber]


class LineIn(BaseModel):
    """One SKU and how many of it. The price is ours to say."""

    model_config = ConfigDict(extra="forbid")

    sku: Sku
    quantity: Quantity


class PlaceOrderIn(BaseModel):
    """An order as a customer sends it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "checkout_id": "basket-2024-117",
                "currency": "EUR",
                "lines": [{"sku": "TEA-GREEN-100", "quantity": 2}],
                "payment_method": "pm_card_visa",
                "expected_total": 1180,
            }
        },
    )

    checkout_id: Annotated[
        CheckoutId | None,
        Field(description="The shop's own id of the basket: placed twice, it is still one order."),
    ] = None
    currency: Currency
    lines: Annotated[list[LineIn], Field(min_length=1, max_length=MAX_LINES)]
    payment_method: Annotated[
        str,
        Field(
            min_length=1,
            max_length=255,
            pattern=_TEXT,
            description="A token of the payment provider; never a card number.",
            examples=["pm_card_visa"],
        ),
        NoCardNumber,
    ]
    expected_total: Annotated[
        Price | None,
        Field(description="What the customer was shown; refused with 409 when it has changed."),
    ] = None

    def quantities(self) -> dict[str, int]:
        """Quantity by SKU, in the order of first mention: the same SKU on two lines is summed."""
        summed: dict[str, int] = {}
        for line in self.lines:
            summed[line.sku] = summed.get(line.sku, 0) + line.quantity
        return summed

    def content(self) -> dict[str, Any]:
        """What makes this request the same as another, for its fingerprint."""
        return {
            "checkout_id": self.checkout_id,
            "currency": self.currency,
            "quantities": self.quantities(),
            "payment_method": self.payment_method,
            "expected_total": self.expected_total,
        }


class LineOut(BaseModel):
    """A line at the price that was frozen when the order was placed; money in minor units."""

    sku: str
    name: str
    quantity: int
    unit_price: int
    total: int


class OrderOut(BaseModel):
    """An order. Money in minor units of `currency`."""

    id: UUID
    checkout_id: str | None
    customer_id: str
    status: Status
    reason: Reason | None = Field(description="Why it is or will be rejected or cancelled.")
    currency: str
    total: int
    lines: list[LineOut]
    stock: Stock
    payment: Payment
    version: int
    resolved_at: datetime | None = Field(
        description="When somebody settled outside of the system a refund that could not be made in it."
    )
    created_at: datetime
    updated_at: datetime


class OrderList(BaseModel):
    """A page of orders, newest first."""

    items: list[OrderOut]
    next_cursor: str | None


class CauseOut(BaseModel):
    """The message that led to a change."""

    message_id: UUID
    topic: str
    partition: int
    offset: int


class TimelineEntry(BaseModel):
    """One change of an order."""

    version: int
    at: datetime
    kind: str = Field(examples=["stock_held"])
    summary: str
    actor: str = Field(description="A customer, an operator, or `system`.")
    note: str | None
    status: Status
    reason: Reason | None
    stock: Stock
    payment: Payment
    cause: CauseOut | None
    trace_id: str | None


class Timeline(BaseModel):
    """A page of an order's changes, oldest first."""

    items: list[TimelineEntry]
    next_cursor: str | None


StatusFilter = Literal["pending", "confirmed", "cancelling", "cancelled", "rejected"]


def order_document(order: Order) -> dict[str, Any]:
    """`OrderOut`, as what orjson writes: validating our own rows again would double the cost of a GET."""
    return {
        "id": order.id,
        "checkout_id": order.checkout_id,
        "customer_id": order.customer_id,
        "status": order.status,
        "reason": order.reason,
        "currency": order.currency,
        "total": order.total,
        "lines": [
            {
                "sku": line.sku,
                "name": line.name,
                "quantity": line.quantity,
                "unit_price": line.unit_price,
                "total": line.total,
            }
            for line in order.lines
        ],
        "stock": order.stock,
        "payment": order.payment,
        "version": order.version,
        "resolved_at": order.resolved_at,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    }


def timeline_document(entry: HistoryEntry) -> dict[str, Any]:
    """`TimelineEntry`, as what orjson writes."""
    cause = None
    if entry.message_id is not None:
        cause = {
            "message_id": entry.message_id,
            "topic": entry.message_topic,
            "partition": entry.message_partition,
            "offset": entry.message_offset,
        }
    return {
        "version": entry.version,
        "at": entry.at,
        "kind": entry.kind,
        "summary": SUMMARIES[entry.kind],
        "actor": entry.actor,
        "note": entry.note,
        "status": entry.status,
        "reason": entry.reason,
        "stock": entry.stock,
        "payment": entry.payment,
        "cause": cause,
        "trace_id": entry.trace_id,
    }
