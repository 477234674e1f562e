"""What people ask of the inventory, and what each request comes back with."""

from dataclasses import dataclass
from typing import Final

from ecom_common import idempotency
from ecom_common.errors import Problem
from ecom_common.idempotency import Key

from inventory_service.models import Item, ItemContent, Movement, MovementKind, key_cause

RECORD: Final = "movements.record"
"""The operation under which idempotency keys of movements are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutItem:
    """List a new item, or give an existing one this content."""

    sku: str
    content: ItemContent
    only_existing: bool = False
    only_version: int | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class ItemPut:
    item: Item
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordMovement:
    """Units came (received), were found wrong (adjusted by), or were counted (are now)."""

    sku: str
    kind: MovementKind
    quantity: int
    """Signed for adjusted; the new on_hand for counted."""
    reason: str | None
    subject: str
    key: str

    @property
    def idempotency_key(self) -> Key:
        return Key(self.subject, RECORD, self.key)

    @property
    def cause(self) -> str:
        return key_cause(subject=self.subject, key=self.key)

    @property
    def fingerprint(self) -> bytes:
        return idempotency.fingerprint([self.sku, self.kind.value, self.quantity, self.reason])

    def is_same_as(self, movement: Movement) -> bool:
        """Whether this asks for what has been recorded; the key itself may have been forgotten."""
        counted = self.kind is MovementKind.COUNTED
        recorded = movement.on_hand_after if counted else movement.quantity
        return (self.kind, self.quantity, self.reason) == (
            movement.kind,
            recorded,
            movement.reason,
        )


@dataclass(frozen=True, slots=True)
class MovementRecorded:
    movement: Movement
    replayed: bool


Command = PutItem | RecordMovement
Result = ItemPut | MovementRecorded | Problem
