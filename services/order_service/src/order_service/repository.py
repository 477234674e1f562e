"""Every SELECT and every lock of the order service, and the bulk writes.

What is loaded is detached at once: nothing is flushed by surprise, `save` writes what has changed.
Locks are taken in the order of ids, so that two batches never wait for each other in a circle.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from ecom_common import idempotency, outbox
from ecom_common.bulk import insert_rows, update_rows
from ecom_common.idempotency import Key, Stored
from ecom_common.outbox import Outgoing
from ecom_common.rows import column_list, column_names, load, load_prepared, locking
from ecom_common.safeguards import is_off
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from order_service.models import (
    CATALOGUE,
    HISTORY,
    LINES,
    ORDERS,
    CatalogueItem,
    Change,
    HistoryEntry,
    Order,
    OrderLine,
)
from order_service.saga import Goal

# The columns that change after placement; the others are written once.
_MUTABLE: Final = (
    "id", "status", "goal", "reason", "stock", "stock_version", "payment", "payment_version", "version",
    "due_at", "asks", "flagged_at", "resolved_at", "updated_at",
)  # fmt: skip
UNSENT_TOO_LONG: Final = timedelta(seconds=30)
"""A message that waits for longer waits for more than its turn."""
_ALL: Final = column_names(ORDERS)
_LINE_COLUMNS: Final = column_names(LINES)

_ORDERS: Final = f"SELECT {column_list(ORDERS)} FROM orders"
_LINES: Final = f"SELECT {column_list(LINES)} FROM order_lines WHERE order_id = ANY(%s::uuid[]) ORDER BY order_id, position"
_HISTORY: Final = f"SELECT {column_list(HISTORY)} FROM order_history"
_CATALOGUE: Final = f"SELECT {column_list(CATALOGUE)} FROM catalogue_items WHERE sku = ANY(%s)"
_IS_OPEN: Final = "orders.status IN ('pending', 'cancelling')"
# A confirmed order that is cancelled after its deadline has all the time it needs from then on.
_OVERDUE: Final = "greatest(deadline_at, updated_at) < db_now() - interval '1 minute'"


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
    insert_rows(session, ORDERS, [_row(order, _ALL) for order in new])
    lines = [line for order in new for line in order.lines]
    insert_rows(session, LINES, [_row(line, _LINE_COLUMNS) for line in lines])
    changed = [order for order in changes.touched.values() if order.id not in placed]
    update_rows(session, ORDERS, [_row(order, _MUTABLE) for order in changed], key="id")
    insert_rows(session, HISTORY, changes.history)
    outbox.publish(session, changes.outgoing)


def _row(entity: object, columns: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(entity, name) for name in columns}


def _texts(ids: Iterable[UUID]) -> list[str]:
    return [str(order_id) for order_id in sorted(ids)]


def _with_lines(session: Session, orders: Sequence[Order]) -> Sequence[Order]:
    if orders:
        by_id = {order.id: order for order in orders}
        for line in load_prepared(session, OrderLine, _LINES, _texts(by_id)):
            by_id[line.order_id].lines.append(line)
    return orders


def lock_orders(session: Session, ids: Collection[UUID]) -> dict[UUID, Order]:
    """The orders, with their lines, locked until the end of the transaction."""
    orders = lock_orders_without_lines(session, ids)
    _with_lines(session, list(orders.values()))
    return orders


def lock_orders_without_lines(session: Session, ids: Collection[UUID]) -> dict[UUID, Order]:
    """The orders, locked; their lines are only needed to reserve, which placement does."""
    statement = f"{_ORDERS} WHERE id = ANY(%s::uuid[]) ORDER BY id {locking('FOR UPDATE')}"
    return {order.id: order for order in load_prepared(session, Order, statement, _texts(ids))}


def lock_due_orders(
    session: Session, *, now: datetime, unanswered_since: datetime, most: int
) -> Sequence[Order]:
    """Open orders that the sweeper has to look at: past their deadline, or due, with nothing unsent and without
    any change since `unanswered_since`.

    Those that another transaction holds are skipped: they are being changed at this moment.
    """
    statement = (
        f"{_ORDERS} WHERE {_IS_OPEN} AND due_at <= %s AND (goal = %s AND deadline_at <= %s "
        "OR updated_at <= %s AND NOT EXISTS (SELECT FROM outbox WHERE outbox.key = orders.id::text)) "
        f"ORDER BY due_at LIMIT %s {locking('FOR UPDATE SKIP LOCKED')}"
    )
    parameters = (now, Goal.FULFIL.value, now, unanswered_since, most)
    return _with_lines(session, load(session, Order, statement, *parameters))


def load_orders(session: Session, ids: Collection[UUID]) -> dict[UUID, Order]:
    """The orders with their lines, as they are now."""
    if not ids:
        return {}
    orders = load_prepared(session, Order, f"{_ORDERS} WHERE id = ANY(%s::uuid[])", _texts(ids))
    return {order.id: order for order in _with_lines(session, orders)}


def find_orders(session: Session, ids: Sequence[UUID]) -> list[Order | None]:
    """For each id its order, with its lines; None where there is none."""
    found = load_orders(session, set(ids))
    return [found.get(order_id) for order_id in ids]


def load_by_checkouts(
    session: Session, checkouts: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Order]:
    """The orders that were placed for these (customer, checkout) pairs."""
    if not checkouts or is_off("idempotency"):
        return {}
    wanted = sorted(checkouts)
    statement = (
        f"{_ORDERS} JOIN unnest(%s::text[], %s::text[]) AS wanted (customer_id, checkout_id) "
        "USING (customer_id, checkout_id)"
    )
    orders = load_prepared(
        session, Order, statement, [c for c, _ in wanted], [c for _, c in wanted]
    )
    return {(o.customer_id, o.checkout_id or ""): o for o in _with_lines(session, orders)}


def list_orders(
    session: Session,
    *,
    customer_id: str | None,
    status: str | None,
    before: UUID | None,
    most: int,
) -> Sequence[Order]:
    """Orders, newest first, with their lines."""
    wanted: Mapping[str, object] = {
        "customer_id = %s": customer_id,
        "status = %s": status,
        "id < %s::uuid": before and str(before),
    }
    return _page(session, wanted, "ORDER BY id DESC LIMIT %s", most)


def _page(
    session: Session, wanted: Mapping[str, object], rest: str, *parameters: object
) -> Sequence[Order]:
    """Those conditions count that have a value."""
    given = {condition: value for condition, value in wanted.items() if value is not None}
    where = f"WHERE {' AND '.join(given)}" if given else ""
    orders = load(session, Order, f"{_ORDERS} {where} {rest}", *given.values(), *parameters)
    return _with_lines(session, orders)


def history(
    session: Session, order_id: UUID, *, after: int = 0, most: int = 200
) -> Sequence[HistoryEntry]:
    """The order's changes after version `after`, in order."""
    statement = f"{_HISTORY} WHERE order_id = %s::uuid AND version > %s ORDER BY version LIMIT %s"
    return load_prepared(session, HistoryEntry, statement, str(order_id), after, most)


def versions(session: Session, ids: Collection[UUID]) -> dict[UUID, int]:
    """The current versions of the orders; for watching them."""
    statement = "SELECT id, version FROM orders WHERE id = ANY(%s::uuid[])"
    return dict(load_prepared(session, _pair, statement, _texts(ids)))


def _pair(order_id: UUID, value: int) -> tuple[UUID, int]:
    return order_id, value


def _count(session: Session, statement: str, *parameters: object) -> int:
    [count] = load(session, int, statement, *parameters)
    return count


def count_open(session: Session, most: int) -> int:
    """How many orders are on their way, counted up to `most`."""
    some = f"SELECT FROM orders WHERE {_IS_OPEN} AND resolved_at IS NULL LIMIT %s"
    return _count(session, f"SELECT count(*) FROM ({some}) AS counted", most)


def count_flagged(session: Session) -> int:
    """How many open orders wait for an operator."""
    return _count(
        session, f"SELECT count(*) FROM orders WHERE {_IS_OPEN} AND flagged_at IS NOT NULL"
    )


def count_stuck(session: Session) -> int:
    """How many orders are open, and were left alone, although their deadline has passed a minute ago."""
    return _count(
        session,
        f"SELECT count(*) FROM orders WHERE {_IS_OPEN} AND resolved_at IS NULL AND {_OVERDUE}",
    )


def count_resolved(session: Session) -> int:
    """How many open orders were settled outside of the system."""
    return _count(
        session, f"SELECT count(*) FROM orders WHERE {_IS_OPEN} AND resolved_at IS NOT NULL"
    )


def list_troubled(session: Session, *, asked_often: int, most: int) -> Sequence[Order]:
    """Open orders that somebody should look at, flagged ones first, then the oldest."""
    statement = (
        f"{_ORDERS} WHERE {_IS_OPEN} AND resolved_at IS NULL AND (flagged_at IS NOT NULL "
        f"OR asks >= %s OR {_OVERDUE} OR EXISTS (SELECT FROM outbox "
        "WHERE outbox.key = orders.id::text AND outbox.created_at < db_now() - %s)) "
        "ORDER BY flagged_at NULLS LAST, id LIMIT %s"
    )
    return load(session, Order, statement, asked_often, UNSENT_TOO_LONG, most)


def count_unsent(session: Session, ids: Collection[UUID]) -> dict[UUID, int]:
    """How many messages of each order still wait in the outbox; orders without any are left out."""
    statement = "SELECT key::uuid, count(*) FROM outbox WHERE key = ANY(%s::text[]) GROUP BY key"
    return dict(load(session, _pair, statement, _texts(ids)))


def histories(session: Session, ids: Collection[UUID]) -> dict[UUID, list[HistoryEntry]]:
    """All changes of these orders, in order."""
    found: dict[UUID, list[HistoryEntry]] = {order_id: [] for order_id in ids}
    statement = f"{_HISTORY} WHERE order_id = ANY(%s::uuid[]) ORDER BY order_id, version"
    for entry in load(session, HistoryEntry, statement, _texts(ids)):
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
    statement = (
        "SELECT id FROM orders WHERE id > %s::uuid AND created_at >= coalesce(%s::timestamptz, '-infinity') "
        "AND created_at < coalesce(%s::timestamptz, 'infinity') ORDER BY id LIMIT %s"
    )
    return load(session, _same, statement, str(after), since, until, most)


def _same(order_id: UUID) -> UUID:
    return order_id


def renew_deadlines(session: Session, ids: Collection[UUID], deadline_at: datetime) -> None:
    """Give those of the orders that are open at least until then."""
    session.connection().exec_driver_sql(
        "UPDATE orders SET deadline_at = greatest(deadline_at, %s) "
        f"WHERE id = ANY(%s::uuid[]) AND {_IS_OPEN}",
        (deadline_at, _texts(ids)),
    )


def load_catalogue(session: Session, skus: Collection[str]) -> dict[str, CatalogueItem]:
    """What is known of the SKUs."""
    return {i.sku: i for i in load_prepared(session, CatalogueItem, _CATALOGUE, sorted(skus))}


def save_catalogue(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Take in items, each once; one that is not newer than what is known changes nothing."""
    if not rows:
        return
    statement = insert(CATALOGUE).values(sorted(rows, key=lambda row: str(row["sku"])))
    newer = {name: statement.excluded[name] for name in rows[0] if name != "sku"}
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["sku"],
            set_=newer,
            where=CATALOGUE.c.version < statement.excluded.version,
        )
    )
