"""The desk where people's commands are dealt with, one after the other, in memory.

No session and no I/O: `service` loads and locks what the batch needs, and writes what has come of it. A
refusal is a value, decided before anything changes.
"""

from dataclasses import dataclass, field
from datetime import datetime

from ecom_common import idempotency
from ecom_common.errors import Problem
from ecom_common.idempotency import Key, Stored
from ecom_common.outbox import Outgoing

from inventory_service.commands import (
    Command,
    ItemPut,
    MovementRecorded,
    PutItem,
    RecordMovement,
    Result,
)
from inventory_service.models import (
    MAX_ON_HAND,
    Item,
    Movement,
    MovementKind,
    Origin,
    Stock,
    StockLevel,
)
from inventory_service.publishing import item_changed


@dataclass
class Desk:
    """Where a batch of people's commands is dealt with."""

    now: datetime
    used: dict[Key, Stored]
    items: dict[str, Item]
    stock: Stock
    recorded: dict[tuple[str, str], Movement]
    created: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    used_now: dict[Key, Stored] = field(default_factory=dict)
    messages: list[Outgoing] = field(default_factory=list)

    def apply(self, command: Command) -> Result:
        if isinstance(command, PutItem):
            return self._put(command)
        return self._record(command)

    def _put(self, command: PutItem) -> ItemPut | Problem:
        before = self.items.get(command.sku)
        if problem := _precondition(command, before):
            return problem
        if before is None:
            item = Item.list_new(command.sku, command.content, self.now)
            self.created.add(item.sku)
            self.stock.add(StockLevel.empty(item.sku))
        else:
            item = before.revise(command.content, self.now)
        if item is not before:
            self.items[item.sku] = item
            self.changed.add(item.sku)
            self.messages.append(item_changed(item, self.now, traceparent=command.traceparent))
        return ItemPut(item, created=before is None)

    def _record(self, command: RecordMovement) -> MovementRecorded | Problem:
        key, stored = command.idempotency_key, self.used.get(command.idempotency_key)
        if stored and (problem := idempotency.reused(stored, command.fingerprint)):
            return problem
        # Keys are forgotten after some days, the ledger never is.
        if earlier := self.recorded.get((command.sku, command.cause)):
            if command.is_same_as(earlier):
                return MovementRecorded(earlier, replayed=True)
            return _key_reused()
        level = self.stock.levels.get(command.sku)
        if level is None:
            return no_such_item()
        if problem := _refusal(command, level):
            return problem
        movement = level.move(command.kind, _difference(command, level), self._origin(command))
        self.stock.movements.append(movement)
        self.recorded[command.sku, command.cause] = movement
        self.used[key] = self.used_now[key] = Stored(command.fingerprint, str(movement.id))
        return MovementRecorded(movement, replayed=False)

    def _origin(self, command: RecordMovement) -> Origin:
        return Origin(
            cause=command.cause, actor=command.subject, at=self.now, reason=command.reason
        )


def _precondition(command: PutItem, item: Item | None) -> Problem | None:
    missing = item is None and (command.only_existing or command.only_version is not None)
    stale = item is not None and command.only_version not in (None, item.version)
    if missing or stale:
        return Problem("precondition_failed", "Read the item again and use its ETag.")
    return None


def _difference(command: RecordMovement, level: StockLevel) -> int:
    """What the command adds to on_hand."""
    counted = command.kind is MovementKind.COUNTED
    return command.quantity - level.on_hand if counted else command.quantity


def _refusal(command: RecordMovement, level: StockLevel) -> Problem | None:
    on_hand = level.on_hand + _difference(command, level)
    if on_hand < level.reserved:
        return Problem("stock_in_use", "on_hand cannot fall below what orders have reserved.")
    if on_hand > MAX_ON_HAND:
        return Problem("validation_failed", f"on_hand cannot exceed {MAX_ON_HAND}.")
    return None


def _key_reused() -> Problem:
    return Problem("idempotency_key_reused", "Use a fresh key for a request that differs.")


def no_such_item() -> Problem:
    return Problem("not_found", "There is no item with this SKU.")
