"""Placing orders: a batch of wishes against what is already known of their keys, checkouts and SKUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ecom_common import idempotency
from ecom_common.cards import mask_card_numbers
from ecom_common.errors import Problem
from ecom_common.idempotency import Key, Stored
from ecom_common.money import MAX_QUANTITY, MAX_TOTAL
from sqlalchemy.orm import Session

from order_service import models, repository, saga
from order_service.commands import Placed, PlaceOrder, Result
from order_service.models import CatalogueItem, Order, OrderLine
from order_service.publishing import announce_placed, commands
from order_service.repository import Changes


@dataclass
class Placement:
    """One batch of placements: what is known, and what has been decided so far."""

    changes: Changes
    now: datetime
    deadline_at: datetime
    used_keys: dict[Key, Stored]
    orders: dict[UUID, Order]
    by_checkout: dict[tuple[str, str], Order]
    catalogue: dict[str, CatalogueItem]

    @classmethod
    def prepare(
        cls,
        session: Session,
        commands: Sequence[PlaceOrder],
        used_keys: dict[Key, Stored],
        changes: Changes,
        *,
        now: datetime,
        deadline_at: datetime,
    ) -> "Placement":
        replayed = {UUID(stored.resource_id) for stored in used_keys.values()}
        return cls(
            changes=changes,
            now=now,
            deadline_at=deadline_at,
            used_keys=used_keys,
            orders=repository.load_orders(session, replayed),
            by_checkout=repository.load_by_checkouts(
                session, {c.checkout for c in commands if c.checkout is not None}
            ),
            catalogue=repository.load_catalogue(
                session, {sku for c in commands for sku in c.quantities}
            ),
        )

    def decide(self, command: PlaceOrder) -> Result:
        """Replay, find, refuse or place: in this order."""
        if (stored := self.used_keys.get(command.key)) is not None:
            refusal = idempotency.reused(stored, command.fingerprint)
            known = self.orders[UUID(stored.resource_id)]
            return refusal or Placed(known, replayed=True, existed=not stored.created)
        if command.checkout is not None and (order := self.by_checkout.get(command.checkout)):
            return self._same_checkout(command, order)
        refusal = self._refusal(command)
        return refusal or self._place(command)

    def _same_checkout(self, command: PlaceOrder, order: Order) -> Result:
        placed = {line.sku: line.quantity for line in order.lines}
        known = (placed, order.currency, order.payment_method)
        if known != (command.quantities, command.currency, command.payment_method):
            detail = "Start a new checkout for another basket, or to pay in another way."
            return Problem("checkout_reused", detail)
        self._remember(command, order, created=False)
        return Placed(order, existed=True)

    def _refusal(self, command: PlaceOrder) -> Problem | None:
        items = {sku: self.catalogue.get(sku) for sku in command.quantities}
        missing = [sku for sku, item in items.items() if item is None]
        if missing:
            return _about_skus("unknown_sku", "Choose among the items of GET /v1/items.", missing)
        known = [item for item in items.values() if item is not None]
        if inactive := [item.sku for item in known if not item.active]:
            return _about_skus("item_inactive", "Take it out of the basket.", inactive)
        if foreign := [item.sku for item in known if item.currency != command.currency]:
            return _about_skus("currency_mismatch", "Order in the items' own currency.", foreign)
        if too_many := [sku for sku, count in command.quantities.items() if count > MAX_QUANTITY]:
            return _about_skus("validation_failed", "At most 1,000,000 of one SKU.", too_many)
        total = sum(item.unit_price * command.quantities[item.sku] for item in known)
        if total > MAX_TOTAL:
            return Problem("validation_failed", "The total is beyond 10^15 minor units.")
        if command.expected_total not in (None, total):
            detail = "Show the customer the new total and send it as expected_total."
            return Problem("price_changed", detail, members={"total": total})
        return None

    def _place(self, command: PlaceOrder) -> Placed:
        change = models.place(
            order_id=command.order_id,
            customer_id=command.customer_id,
            checkout_id=command.checkout_id,
            currency=command.currency,
            payment_method=command.payment_method,
            lines=[
                _line(command.order_id, position, self.catalogue[sku], quantity)
                for position, (sku, quantity) in enumerate(command.quantities.items(), start=1)
            ],
            now=self.now,
            deadline_at=self.deadline_at,
            traceparent=command.traceparent,
        )
        order = change.order
        self.changes.placed.append(order)
        self.changes.history.append(change.history_row)
        self.changes.outgoing.append(announce_placed(order, now=self.now))
        self.changes.outgoing += commands(order, saga.asks(order.saga), now=self.now)
        self._remember(command, order, created=True)
        return Placed(order)

    def _remember(self, command: PlaceOrder, order: Order, *, created: bool) -> None:
        stored = Stored(command.fingerprint, str(order.id), created)
        # For the database, and for a twin further on in this very batch.
        self.changes.keys[command.key] = self.used_keys[command.key] = stored
        self.orders[order.id] = order
        if command.checkout is not None:
            self.by_checkout[command.checkout] = order


def _about_skus(code: str, detail: str, skus: Sequence[str]) -> Problem:
    # An unknown SKU can be anything, a card number in the wrong field too.
    return Problem(code, detail, members={"skus": [mask_card_numbers(sku) for sku in skus]})


def _line(order_id: UUID, position: int, item: CatalogueItem, quantity: int) -> OrderLine:
    return OrderLine(
        order_id=order_id,
        position=position,
        sku=item.sku,
        name=item.name,
        quantity=quantity,
        unit_price=item.unit_price,
        total=item.unit_price * quantity,
    )
