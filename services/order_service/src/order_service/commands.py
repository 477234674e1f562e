"""What HTTP clients and operators ask of the order service, and what each request can come back with."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from ecom_common.errors import Problem
from ecom_common.idempotency import Key

from order_service.models import Order

PLACE: Final = "orders.place"
"""The operation under which idempotency keys of placements are stored."""


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """A customer's wish: SKUs and quantities (each SKU once), never a price."""

    order_id: UUID
    customer_id: str
    idempotency_key: str
    fingerprint: bytes
    currency: str
    quantities: dict[str, int]
    payment_method: str
    checkout_id: str | None
    expected_total: int | None
    traceparent: str | None

    @property
    def key(self) -> Key:
        return Key(self.customer_id, PLACE, self.idempotency_key)

    @property
    def checkout(self) -> tuple[str, str] | None:
        return None if self.checkout_id is None else (self.customer_id, self.checkout_id)


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Somebody wants an order cancelled. `customer_id` is None for operators, who may cancel any."""

    order_id: UUID
    customer_id: str | None
    actor: str
    note: str | None = None


class Verb(StrEnum):
    """What operators can do with an order."""

    RETRY = "retry"
    LIFT = "lift"
    CANCEL = "cancel"
    RESOLVE = "resolve"


@dataclass(frozen=True, slots=True)
class Intervention:
    """An operator wants something done with an order. Who and why goes into its timeline."""

    verb: Verb
    order_id: UUID
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Intervened:
    """What came of it, in words for the operator: done, refused, or nothing (left) to do."""

    order_id: UUID
    said: str
    changed: bool = False
    refused: bool = False


Command = PlaceOrder | CancelOrder


@dataclass(frozen=True, slots=True)
class Placed:
    """The order that a placement led to, and how: made now, replayed by key, or found by checkout."""

    order: Order
    replayed: bool = False
    existed: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The order after a cancellation was accepted; final only when there was nothing left to undo."""

    order: Order


Result = Placed | Cancelled | Problem
