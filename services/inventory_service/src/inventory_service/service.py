"""The use cases: what people do with items and stock, what orders do with reservations.

Session first. Nothing here commits, or knows of HTTP or Kafka. A whole batch is one call: lock everything
that it touches, have it dealt with in memory (`desk`, `floor`), write what has changed, and publish as the
last statement.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from ecom_common import idempotency
from ecom_common.clock import database_time
from ecom_common.errors import Problem
from ecom_common.logs import Line, say_when_durable
from ecom_common.messages import Received
from ecom_common.outbox import publish
from sqlalchemy.orm import Session

from inventory_service import repository
from inventory_service.commands import Command, PutItem, RecordMovement, Result
from inventory_service.desk import Desk, no_such_item
from inventory_service.floor import Floor, skus_at_stake
from inventory_service.models import Item, Movement, Reservation, Stock, StockLevel

log = logging.getLogger(__name__)


def handle_commands(session: Session, commands: Sequence[Command]) -> list[Result]:
    """Apply people's commands in order; each one's result, or why it was refused."""
    recordings = [c for c in commands if isinstance(c, RecordMovement)]
    used = idempotency.find(session, {c.idempotency_key for c in recordings})
    desk = Desk(
        now=database_time(session),
        used=used,
        items=repository.lock_items(session, {c.sku for c in commands if isinstance(c, PutItem)}),
        stock=Stock(repository.lock_stock_levels(session, {c.sku for c in recordings})),
        recorded=repository.find_movements(session, {(c.sku, c.cause) for c in recordings}),
    )
    results = [desk.apply(command) for command in commands]
    repository.insert_items(session, [desk.items[sku] for sku in desk.created])
    repository.update_items(session, [desk.items[sku] for sku in desk.changed - desk.created])
    repository.write_stock(session, desk.stock)
    idempotency.store(session, desk.used_now)
    publish(session, desk.messages)
    return results


def apply_stock_commands(session: Session, messages: Sequence[Received], *, ttl: timedelta) -> None:
    """Apply the order service's commands in order, and answer each with the reservation's whole state.

    `ttl` is how long what they hold is held.
    """
    order_ids = {message.envelope.data.order_id for message in messages}
    known = repository.lock_reservations(session, order_ids)
    reservations = {i: known.get(i) or Reservation.never_asked(i) for i in order_ids}
    skus = skus_at_stake(reservations, [message.envelope.data for message in messages])
    stock = Stock(repository.lock_stock_levels(session, skus))
    floor = Floor(database_time(session), ttl, reservations, stock)
    answers = [floor.answer(message) for message in messages]
    traces = {m.envelope.data.order_id: m.envelope.traceparent for m in messages}
    _write(session, floor, traces)
    publish(session, answers)


def expire_reservations(session: Session, most: int) -> int:
    """Release held reservations whose time has passed, at most `most`; how many."""
    due = repository.lock_due_reservations(session, most)
    if not due:
        return 0
    stock = Stock(repository.lock_stock_levels(session, skus_at_stake(due, [])))
    floor = Floor(database_time(session), timedelta(0), due, stock)
    news = [floor.expire(reservation) for reservation in due.values()]
    _write(session, floor, {})
    publish(session, news)
    return len(due)


def _write(session: Session, floor: Floor, traces: Mapping[UUID, str | None]) -> None:
    new, changed = floor.changed()
    repository.insert_reservations(session, new)
    repository.update_reservations(session, changed)
    repository.write_stock(session, floor.stock)
    lines = [
        Line(f"reservation {r.state}", r.order_id, r.version, traces.get(r.order_id))
        for r in (*new, *changed)
    ]
    say_when_durable(session, log, lines)


def show_item(session: Session, sku: str) -> Item:
    item = repository.find_item(session, sku)
    if item is None:
        raise no_such_item()
    return item


def show_stock_level(session: Session, sku: str) -> StockLevel:
    level = repository.find_stock_level(session, sku)
    if level is None:
        raise no_such_item()
    return level


def show_reservation(session: Session, order_id: UUID) -> Reservation:
    reservation = repository.find_reservation(session, order_id)
    if reservation is None:
        raise Problem("not_found", "Nothing was ever asked for this order.")
    return reservation


def browse_movements(
    session: Session, sku: str, *, before: int | None, most: int
) -> Sequence[Movement]:
    """The SKU's movements, newest first; refused for an item that does not exist."""
    movements = repository.list_movements(session, sku, before=before, most=most)
    if not movements:
        show_stock_level(session, sku)
    return movements


browse_items = repository.list_items
