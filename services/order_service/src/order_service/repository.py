"""Every SELECT and every lock of the order service, and the bulk writes.

What is loaded is detached at once: nothing is flushed by surprise, `save` writes what has changed.
Locks are taken in the order of ids, so that two batches never wait for each other in a circle.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, cast
from uuid import UUID

from ecom_common import idempotency, outbox
from ecom_common.bulk import insert_rows, update_rows
from ecom_common.database import lock_rows
from ecom_common.idempotency import Key, Stored
from ecom_common.outbox import Outgoing
from ecom_common.safeguards import is_off
from ecom_common.tables import outbox as outbox_table
from sqlalchemy import Select, Table, Text, and_, exists, func, or_, select, text, tuple_
from sqlalchemy import cast as cast_sql
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, selectinload

from order_service.models import (
    OPEN_STATUSES,
    CatalogueItem,
    Change,
    HistoryEntry,
    Order,
    OrderLine,
)
from order_service.saga import Goal

_ORDERS: Final = cast(Table, Order.__table__)
_LINES: Final = cast(Table, OrderLine.__table__)
_HISTORY: Final = cast(Table, HistoryEntry.__table__)
_CATALOGUE: Final = cast(Table, CatalogueItem.__table__)

# The columns that change after placement; the others are written once.
_MUTABLE: Final = (
    "id", "status", "goal", "reason", "stock", "stock_version", "payment", "payment_version", "version",
    "due_at", "asks", "flagged_at", "resolved_at", "updated_at",
)  # fmt: skip
UNSENT_TOO_LONG: Final = timedelta(seconds=30)
"""A message that waits for longer waits for more than its turn."""
_ALL: Final = tuple(column.name for column in _ORDERS.columns)
_LINE_COLUMNS: Final = tuple(column.name for column in _LINES.columns)
_IS_OPEN: Final = text("orders.status IN ('pending', 'cancelling')")
_IS_UNRESOLVED: Final = text("orders.resolved_at IS NULL")
_NOTHING_UNSENT: Final = text("NOT EXISTS (SELECT FROM outbox WHERE outbox.key = orders.id::text)")


@dataclass
class Changes:
    """What a batch has done, to be written in one go."""

    placed: list[Order] = field(default_factory=list)
    touched: dict[UUID, Order] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[Key, Stored] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)

    def add(self, change: Change) -> None:
        self.touched[change.order.id] = change.order
        self.history.append(change.history_row)

    def merge(self, other: "Changes") -> None:
        self.placed += other.placed
        self.touched |= other.touched
        self.history += other.history
        self.keys |= other.keys
        self.outgoing += other.outgoing


def save(session: Session, changes: Changes) -> None:
    """Write everything; the outbox last, while the locks on the orders are held."""
    idempotency.store(session, changes.keys)
    placed = {order.id for order in changes.placed}
    # Sorted by checkout, so that twins in two processes wait for each other in one order.
    new = sorted(changes.placed, key=lambda o: (o.customer_id, o.checkout_id or "", o.id))
    insert_rows(session, _ORDERS, [_row(order, _ALL) for order in new])
    lines = [line for order in new for line in order.lines]
    insert_rows(session, _LINES, [_row(line, _LINE_COLUMNS) for line in lines])
    changed = [order for order in changes.touched.values() if order.id not in placed]
    update_rows(session, _ORDERS, [_row(order, _MUTABLE) for order in changed], key="id")
    insert_rows(session, _HISTORY, changes.history)
    outbox.publish(session, changes.outgoing)


def _row(entity: object, columns: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(entity, name) for name in columns}


def _detached(session: Session, statement: Select[Order]) -> list[Order]:
    orders = list(session.scalars(statement))
    session.expunge_all()
    return orders


def lock_orders(session: Session, ids: Collection[UUID]) -> dict[UUID, Order]:
    """The orders, with their lines, locked until the end of the transaction."""
    statement = select(Order).where(Order.id.in_(sorted(ids))).order_by(Order.id)
    with_lines = lock_rows(statement).options(selectinload(Order.lines))
    return {order.id: order for order in _detached(session, with_lines)}


def lock_orders_without_lines(session: Session, ids: Collection[UUID]) -> dict[UUID, Order]:
    """The orders, locked; their lines are only needed to reserve, which placement does."""
    statement = select(Order).where(Order.id.in_(sorted(ids))).order_by(Order.id)
    return {order.id: order for order in _detached(session, lock_rows(statement))}


def lock_due_orders(session: Session, *, now: datetime, most: int) -> list[Order]:
    """Open orders that the sweeper has to look at: past their deadline, or due and with nothing unsent.

    Those that another transaction holds are skipped: they are being changed at this moment.
    """
    overdue = and_(Order.goal == Goal.FULFIL.value, Order.deadline_at <= now)
    statement = (
        select(Order)
        .where(_IS_OPEN, Order.due_at <= now, or_(_NOTHING_UNSENT, overdue))
        .order_by(Order.due_at)
        .limit(most)
        .options(selectinload(Order.lines))
    )
    return _detached(session, lock_rows(statement, skip_locked=True))


def load_orders(session: Session, ids: Collection[UUID]) -> dict[UUID, Order]:
    """The orders with their lines, as they are now."""
    if not ids:
        return {}
    statement = select(Order).where(Order.id.in_(ids)).options(selectinload(Order.lines))
    return {order.id: order for order in _detached(session, statement)}


def find_order(session: Session, order_id: UUID, *, customer_id: str | None) -> Order | None:
    """The order, when it exists and belongs to the customer; None as customer is everybody."""
    order = load_orders(session, [order_id]).get(order_id)
    return order if order is not None and customer_id in (None, order.customer_id) else None


def load_by_checkouts(
    session: Session, checkouts: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Order]:
    """The orders that were placed for these (customer, checkout) pairs."""
    if not checkouts or is_off("idempotency"):
        return {}
    statement = (
        select(Order)
        .where(tuple_(Order.customer_id, Order.checkout_id).in_(sorted(checkouts)))
        .options(selectinload(Order.lines))
    )
    return {(o.customer_id, o.checkout_id or ""): o for o in _detached(session, statement)}


def list_orders(
    session: Session,
    *,
    customer_id: str | None,
    status: str | None,
    before: UUID | None,
    most: int,
) -> list[Order]:
    """Orders, newest first, with their lines."""
    statement = select(Order).order_by(Order.id.desc()).limit(most)
    if customer_id is not None:
        statement = statement.where(Order.customer_id == customer_id)
    if status is not None:
        statement = statement.where(Order.status == status)
    if before is not None:
        statement = statement.where(Order.id < before)
    return _detached(session, statement.options(selectinload(Order.lines)))


def history(
    session: Session, order_id: UUID, *, after: int = 0, most: int = 200
) -> Sequence[HistoryEntry]:
    """The order's changes after version `after`, in order."""
    return session.scalars(
        select(HistoryEntry)
        .where(HistoryEntry.order_id == order_id, HistoryEntry.version > after)
        .order_by(HistoryEntry.version)
        .limit(most)
    ).all()


def versions(session: Session, ids: Collection[UUID]) -> dict[UUID, int]:
    """The current versions of the orders; for watching them."""
    rows = session.execute(select(Order.id, Order.version).where(Order.id.in_(ids)))
    return {row.id: row.version for row in rows}


def count_open(session: Session, most: int) -> int:
    """How many orders are on their way, counted up to `most`."""
    some = select(Order.id).where(_IS_OPEN, _IS_UNRESOLVED).limit(most).subquery()
    return session.scalar(select(func.count()).select_from(some)) or 0


def count_flagged(session: Session) -> int:
    """How many open orders wait for an operator."""
    statement = (
        select(func.count())
        .select_from(Order)
        .where(Order.status.in_(OPEN_STATUSES), Order.flagged_at.is_not(None))
    )
    return session.scalar(statement) or 0


def count_stuck(session: Session) -> int:
    """How many orders are open, and were left alone, although their deadline has passed a minute ago."""
    statement = select(func.count()).select_from(Order).where(_IS_OPEN, _IS_UNRESOLVED, _OVERDUE)
    return session.scalar(statement) or 0


def count_resolved(session: Session) -> int:
    """How many open orders were settled outside of the system."""
    statement = (
        select(func.count()).select_from(Order).where(_IS_OPEN, Order.resolved_at.is_not(None))
    )
    return session.scalar(statement) or 0


# A confirmed order that is cancelled after its deadline has all the time it needs from then on.
_OVERDUE: Final = func.greatest(Order.deadline_at, Order.updated_at) < func.db_now() - text(
    "interval '1 minute'"
)


def list_troubled(session: Session, *, asked_often: int, most: int) -> list[Order]:
    """Open orders that somebody should look at, flagged ones first, then the oldest."""
    old = func.db_now() - UNSENT_TOO_LONG
    unsent_long = exists().where(
        outbox_table.c.key == cast_sql(Order.id, Text), outbox_table.c.created_at < old
    )
    trouble = or_(Order.flagged_at.is_not(None), Order.asks >= asked_often, _OVERDUE, unsent_long)
    statement = (
        select(Order)
        .where(_IS_OPEN, _IS_UNRESOLVED, trouble)
        .order_by(Order.flagged_at.nulls_last(), Order.id)
        .limit(most)
    )
    return _detached(session, statement)


def count_unsent(session: Session, ids: Collection[UUID]) -> dict[UUID, int]:
    """How many messages of each order still wait in the outbox; orders without any are left out."""
    statement = (
        select(outbox_table.c.key, func.count())
        .where(outbox_table.c.key.in_([str(order_id) for order_id in ids]))
        .group_by(outbox_table.c.key)
    )
    return {UUID(key): count for key, count in session.execute(statement)}


def histories(session: Session, ids: Collection[UUID]) -> dict[UUID, list[HistoryEntry]]:
    """All changes of these orders, in order."""
    found: dict[UUID, list[HistoryEntry]] = {order_id: [] for order_id in ids}
    statement = select(HistoryEntry).where(HistoryEntry.order_id.in_(found))
    for entry in session.scalars(statement.order_by(HistoryEntry.order_id, HistoryEntry.version)):
        found[entry.order_id].append(entry)
    return found


def page_of_ids(
    session: Session,
    *,
    after: UUID,
    most: int,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Sequence[UUID]:
    """At most `most` ids beyond `after`, the oldest first, of orders placed in the period."""
    statement = select(Order.id).where(Order.id > after).order_by(Order.id).limit(most)
    if since is not None:
        statement = statement.where(Order.created_at >= since)
    if until is not None:
        statement = statement.where(Order.created_at < until)
    return session.scalars(statement).all()


def load_catalogue(session: Session, skus: Collection[str]) -> dict[str, CatalogueItem]:
    """What is known of the SKUs."""
    items = session.scalars(select(CatalogueItem).where(CatalogueItem.sku.in_(sorted(skus)))).all()
    session.expunge_all()
    return {item.sku: item for item in items}


def save_catalogue(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Take in items, each once; one that is not newer than what is known changes nothing."""
    if not rows:
        return
    statement = insert(_CATALOGUE).values(sorted(rows, key=lambda row: str(row["sku"])))
    newer = {name: statement.excluded[name] for name in rows[0] if name != "sku"}
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["sku"],
            set_=newer,
            where=_CATALOGUE.c.version < statement.excluded.version,
        )
    )
