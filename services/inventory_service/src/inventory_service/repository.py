"""Every query, lock and write of the inventory's tables.

Locks are taken by one statement each, sorted by key, in the order items → reservations → stock levels.
They are FOR NO KEY UPDATE: keys never change, and so a foreign key's check does not wait for them.
What is loaded leaves the session at once: the unit of work flushes nothing, all writes are here.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import cast as typed
from uuid import UUID

from ecom_common.bulk import insert_rows, send, update_rows
from ecom_common.database import lock_rows
from ecom_contracts.messages import ReservationState
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Table,
    Text,
    Uuid,
    any_,
    cast,
    func,
    or_,
    select,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, contains_eager, with_expression

from inventory_service.models import (
    Item,
    Movement,
    Reservation,
    ReservationLine,
    Stock,
    StockLevel,
)


def _table(model: type[object]) -> Table:
    return typed(Table, model.__table__)  # type: ignore[attr-defined]


_ITEMS = _table(Item)
_STOCK_LEVELS = _table(StockLevel)
_RESERVATIONS = _table(Reservation)
_RESERVATION_LINES = _table(ReservationLine)
_MOVEMENTS = _table(Movement)


# ---- locks


def lock_items(session: Session, skus: Collection[str]) -> dict[str, Item]:
    """The items that exist, locked, by SKU."""
    if not skus:
        return {}
    query = select(Item).where(_is_any_of(Item.sku, skus)).order_by(Item.sku)
    items = session.scalars(lock_rows(query, key_share=True)).all()
    session.expunge_all()
    return {item.sku: item for item in items}


def lock_reservations(session: Session, order_ids: Collection[UUID]) -> dict[UUID, Reservation]:
    """The reservations that exist, locked, with their lines, by order."""
    if not order_ids:
        return {}
    query = (
        _reservations_with_lines()
        .where(Reservation.order_id == any_(cast(sorted(order_ids), ARRAY(Uuid))))
        .order_by(Reservation.order_id)
    )
    locked = lock_rows(query, of=Reservation, key_share=True)
    reservations = session.scalars(locked).unique().all()
    session.expunge_all()
    return {reservation.order_id: reservation for reservation in reservations}


def lock_due_reservations(session: Session, most: int) -> dict[UUID, Reservation]:
    """At most `most` held reservations whose time has passed, locked; not those that others work on."""
    query = (
        select(Reservation.order_id)
        .where(Reservation.state == ReservationState.HELD)
        .where(Reservation.expires_at <= func.db_now())
        .order_by(Reservation.expires_at)
        .limit(most)
    )
    due = session.scalars(lock_rows(query, key_share=True, skip_locked=True)).all()
    return lock_reservations(session, due)


def lock_stock_levels(session: Session, skus: Collection[str]) -> dict[str, StockLevel]:
    """The stock levels that exist, locked, with whether their items are for sale, by SKU."""
    if not skus:
        return {}
    query = (
        select(StockLevel)
        .join(Item, Item.sku == StockLevel.sku)
        .where(_is_any_of(StockLevel.sku, skus))
        .order_by(StockLevel.sku)
        .options(with_expression(StockLevel.for_sale, Item.active))
    )
    levels = session.scalars(lock_rows(query, of=StockLevel, key_share=True)).all()
    session.expunge_all()
    return {level.sku: level for level in levels}


# ---- queries


def find_item(session: Session, sku: str) -> Item | None:
    return session.get(Item, sku)


def find_stock_level(session: Session, sku: str) -> StockLevel | None:
    return session.get(StockLevel, sku)


def find_reservation(session: Session, order_id: UUID) -> Reservation | None:
    query = _reservations_with_lines().where(Reservation.order_id == order_id)
    return session.scalars(query).unique().one_or_none()


def find_movements(
    session: Session, causes: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Movement]:
    """Those of the (SKU, cause) that have made their movement."""
    if not causes:
        return {}
    # A superset by two arrays, then the exact pairs: a pair of a key and another SKU is rare.
    query = select(Movement).where(
        _is_any_of(Movement.sku, {sku for sku, _ in causes}),
        _is_any_of(Movement.cause, {cause for _, cause in causes}),
    )
    movements = session.scalars(query).all()
    session.expunge_all()
    return {(m.sku, m.cause): m for m in movements if (m.sku, m.cause) in causes}


def list_items(
    session: Session, *, containing: str | None, after: str | None, most: int
) -> Sequence[Item]:
    """Items by SKU whose SKU or name contains the text, whatever its case."""
    query = select(Item).order_by(Item.sku).limit(most)
    if containing:
        query = query.where(
            or_(
                Item.sku.icontains(containing, autoescape=True),
                Item.name.icontains(containing, autoescape=True),
            )
        )
    if after is not None:
        query = query.where(Item.sku > after)
    return session.scalars(query).all()


def count_held(session: Session) -> tuple[int, int]:
    """How many reservations are held, and how many of them a minute longer than they may."""
    late = Reservation.expires_at < func.db_now() - timedelta(minutes=1)
    held, overdue = session.execute(
        select(func.count(), func.count().filter(late)).where(
            Reservation.state == ReservationState.HELD
        )
    ).one()
    return held, overdue


def list_movements(
    session: Session, sku: str, *, before: int | None, most: int
) -> Sequence[Movement]:
    """The SKU's movements, newest first, older than the sequence `before`."""
    query = select(Movement).where(Movement.sku == sku)
    if before is not None:
        query = query.where(Movement.sequence < before)
    return session.scalars(query.order_by(Movement.sequence.desc()).limit(most)).all()


# ---- writes


def insert_items(session: Session, items: Iterable[Item]) -> None:
    """New items, each with its empty stock level."""
    rows = [_item_row(item) for item in sorted(items, key=lambda item: item.sku)]
    insert_rows(session, _ITEMS, rows)
    insert_rows(session, _STOCK_LEVELS, [{"sku": row["sku"]} for row in rows])


def update_items(session: Session, items: Iterable[Item]) -> None:
    update_rows(session, _ITEMS, [_item_row(item) for item in items], key="sku")


def insert_reservations(session: Session, reservations: Iterable[Reservation]) -> None:
    """New reservations with their lines; a twin in another transaction makes this wait, then fail."""
    new = sorted(reservations, key=lambda reservation: reservation.order_id)
    insert_rows(
        session,
        _RESERVATIONS,
        [
            {
                **_reservation_row(reservation),
                "shortages": reservation.shortages,
                "created_at": reservation.created_at,
            }
            for reservation in new
        ],
    )
    insert_rows(
        session,
        _RESERVATION_LINES,
        [
            {"order_id": line.order_id, "sku": line.sku, "quantity": line.quantity}
            for reservation in new
            for line in reservation.lines
        ],
    )


def update_reservations(session: Session, reservations: Iterable[Reservation]) -> None:
    rows = [_reservation_row(reservation) for reservation in reservations]
    update_rows(session, _RESERVATIONS, rows, key="order_id")


def write_stock(session: Session, stock: Stock) -> None:
    """The changed levels, and the movements that changed them.

    The movements' trigger changes on_hand at the end of their statement. Promises that fall are written with
    it, all others after it, because reserved <= on_hand has to hold all the time.
    """
    fewer, others = stock.changed()
    update_rows(session, _STOCK_LEVELS, [_level_row(level) for level in fewer], key="sku")
    insert_rows(session, _MOVEMENTS, [_movement_row(movement) for movement in stock.movements])
    if stock.movements and others:
        send(session)
    update_rows(session, _STOCK_LEVELS, [_level_row(level) for level in others], key="sku")


# ---- pieces


def _reservations_with_lines() -> Select[Reservation]:
    # Lines are written with their reservation and never again, so the lock on the one guards both.
    return (
        select(Reservation)
        .outerjoin(Reservation.lines)
        .options(contains_eager(Reservation.lines))
        .order_by(Reservation.order_id, ReservationLine.sku)
    )


def _is_any_of(column: InstrumentedAttribute[str], values: Collection[str]) -> ColumnElement[bool]:
    # One array parameter: the statement's text does not depend on how many there are.
    return column == any_(cast(sorted(values), ARRAY(Text)))


def _item_row(item: Item) -> dict[str, object]:
    return {column: getattr(item, column) for column in _ITEM_COLUMNS}


def _level_row(level: StockLevel) -> dict[str, object]:
    return {"sku": level.sku, "reserved": level.reserved, "version": level.version}


def _movement_row(movement: Movement) -> dict[str, object]:
    return {column: getattr(movement, column) for column in _MOVEMENT_COLUMNS}


def _reservation_row(reservation: Reservation) -> dict[str, object]:
    return {
        "order_id": reservation.order_id,
        "state": reservation.state,
        "version": reservation.version,
        "expires_at": reservation.expires_at,
        "updated_at": reservation.updated_at,
    }


_ITEM_COLUMNS = tuple(_ITEMS.columns.keys())
_MOVEMENT_COLUMNS = tuple(_MOVEMENTS.columns.keys())
