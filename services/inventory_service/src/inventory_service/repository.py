"""Every query, lock and write of the inventory's tables.

Locks are taken by one statement each, sorted by key, in the order items → reservations → stock levels.
They are FOR NO KEY UPDATE: keys never change, and so a foreign key's check does not wait for them.
What is loaded leaves the session at once: the unit of work flushes nothing, all writes are here.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from ecom_common.bulk import insert_rows, send, update_rows
from ecom_common.rows import column_list, column_names, load, load_prepared, locking
from sqlalchemy.orm import Session

from inventory_service.models import (
    ITEMS,
    MOVEMENTS,
    RESERVATION_LINES,
    RESERVATIONS,
    STOCK_LEVELS,
    Item,
    Movement,
    Reservation,
    ReservationLine,
    Stock,
    StockLevel,
)

_ITEMS: Final = f"SELECT {column_list(ITEMS)} FROM items"
# Whatever is looked for stands for itself, also what LIKE takes for a pattern.
_LIKE_PATTERN: Final = re.compile("[%_/]")
_ESCAPED: Final = r"/\g<0>"
_RESERVATIONS: Final = f"SELECT {column_list(RESERVATIONS)} FROM reservations"
# Lines are written with their reservation and never again, so the lock on the one guards both.
_LINES: Final = (
    f"SELECT {column_list(RESERVATION_LINES)} FROM reservation_lines "
    "WHERE order_id = ANY(%s::uuid[]) ORDER BY order_id, sku"
)
_STOCK_LEVELS: Final = (
    f"SELECT {column_list(STOCK_LEVELS)}, items.active FROM stock_levels JOIN items USING (sku) "
    "WHERE stock_levels.sku = ANY(%s)"
)
_MOVEMENTS: Final = f"SELECT {column_list(MOVEMENTS)} FROM movements"


# ---- locks


def lock_items(session: Session, skus: Collection[str]) -> dict[str, Item]:
    """The items that exist, locked, by SKU."""
    if not skus:
        return {}
    lock = locking("FOR NO KEY UPDATE")
    statement = f"{_ITEMS} WHERE sku = ANY(%s) ORDER BY sku {lock}"
    return {item.sku: item for item in load_prepared(session, Item, statement, sorted(skus))}


def lock_reservations(session: Session, order_ids: Collection[UUID]) -> dict[UUID, Reservation]:
    """The reservations that exist, locked, with their lines, by order."""
    lock = locking("FOR NO KEY UPDATE")
    statement = f"{_RESERVATIONS} WHERE order_id = ANY(%s::uuid[]) ORDER BY order_id {lock}"
    return _with_lines(session, load_prepared(session, Reservation, statement, _texts(order_ids)))


def lock_due_reservations(session: Session, most: int) -> dict[UUID, Reservation]:
    """At most `most` held reservations whose time has passed, locked; not those that others work on."""
    statement = (
        f"{_RESERVATIONS} WHERE state = 'held' AND expires_at <= db_now() "
        f"ORDER BY expires_at LIMIT %s {locking('FOR NO KEY UPDATE SKIP LOCKED')}"
    )
    return _with_lines(session, load(session, Reservation, statement, most))


def lock_stock_levels(session: Session, skus: Collection[str]) -> dict[str, StockLevel]:
    """The stock levels that exist, locked, with whether their items are for sale, by SKU."""
    if not skus:
        return {}
    lock = locking("FOR NO KEY UPDATE OF stock_levels")
    statement = f"{_STOCK_LEVELS} ORDER BY stock_levels.sku {lock}"
    return {
        level.sku: level for level in load_prepared(session, StockLevel, statement, sorted(skus))
    }


# ---- queries


def find_item(session: Session, sku: str) -> Item | None:
    return next(iter(load(session, Item, f"{_ITEMS} WHERE sku = %s", sku)), None)


def find_stock_level(session: Session, sku: str) -> StockLevel | None:
    return next(iter(load(session, StockLevel, _STOCK_LEVELS, [sku])), None)


def find_reservation(session: Session, order_id: UUID) -> Reservation | None:
    found = load(session, Reservation, f"{_RESERVATIONS} WHERE order_id = %s::uuid", str(order_id))
    return _with_lines(session, found).get(order_id)


def find_movements(
    session: Session, causes: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Movement]:
    """Those of the (SKU, cause) that have made their movement."""
    if not causes:
        return {}
    statement = f"{_MOVEMENTS} JOIN unnest(%s::text[], %s::text[]) AS wanted (sku, cause) USING (sku, cause)"
    wanted = sorted(causes)
    found = load_prepared(
        session, Movement, statement, [sku for sku, _ in wanted], [c for _, c in wanted]
    )
    return {(m.sku, m.cause): m for m in found}


def list_items(
    session: Session, *, containing: str | None, after: str | None, most: int
) -> Sequence[Item]:
    """Items by SKU whose SKU or name contains the text, whatever its case."""
    pattern = None if not containing else f"%{_LIKE_PATTERN.sub(_ESCAPED, containing)}%"
    statement = (
        f"{_ITEMS} WHERE (%s::text IS NULL OR sku ILIKE %s ESCAPE '/' OR name ILIKE %s ESCAPE '/') "
        "AND (%s::text IS NULL OR sku > %s) ORDER BY sku LIMIT %s"
    )
    return load(session, Item, statement, pattern, pattern, pattern, after, after, most)


def count_held(session: Session) -> tuple[int, int]:
    """How many reservations are held, and how many of them a minute longer than they may."""
    statement = (
        "SELECT count(*), count(*) FILTER (WHERE expires_at < db_now() - interval '1 minute') "
        "FROM reservations WHERE state = 'held'"
    )
    [counts] = load(session, _pair, statement)
    return counts


def _pair(held: int, overdue: int) -> tuple[int, int]:
    return held, overdue


def hold_until(session: Session, expires_at: datetime) -> None:
    """Give whatever is held its time until then."""
    session.connection().exec_driver_sql(
        "UPDATE reservations SET expires_at = %s WHERE state = 'held'", (expires_at,)
    )


def list_movements(
    session: Session, sku: str, *, before: int | None, most: int
) -> Sequence[Movement]:
    """The SKU's movements, newest first, older than the sequence `before`."""
    statement = (
        f"{_MOVEMENTS} WHERE sku = %s AND sequence < coalesce(%s::bigint, {2**63 - 1}) "
        "ORDER BY sequence DESC LIMIT %s"
    )
    return load(session, Movement, statement, sku, before, most)


# ---- writes


def insert_items(session: Session, items: Iterable[Item]) -> None:
    """New items, each with its empty stock level."""
    rows = [_item_row(item) for item in sorted(items, key=lambda item: item.sku)]
    insert_rows(session, ITEMS, rows)
    insert_rows(session, STOCK_LEVELS, [{"sku": row["sku"]} for row in rows])


def update_items(session: Session, items: Iterable[Item]) -> None:
    update_rows(session, ITEMS, [_item_row(item) for item in items], key="sku")


def insert_reservations(session: Session, reservations: Iterable[Reservation]) -> None:
    """New reservations with their lines; a twin in another transaction makes this wait, then fail."""
    new = sorted(reservations, key=lambda reservation: reservation.order_id)
    insert_rows(
        session,
        RESERVATIONS,
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
        RESERVATION_LINES,
        [
            {"order_id": line.order_id, "sku": line.sku, "quantity": line.quantity}
            for reservation in new
            for line in reservation.lines
        ],
    )


def update_reservations(session: Session, reservations: Iterable[Reservation]) -> None:
    rows = [_reservation_row(reservation) for reservation in reservations]
    update_rows(session, RESERVATIONS, rows, key="order_id")


def write_stock(session: Session, stock: Stock) -> None:
    """The changed levels, and the movements that changed them.

    The movements' trigger changes on_hand at the end of their statement. Promises that fall are written with
    it, all others after it, because reserved <= on_hand has to hold all the time.
    """
    fewer, others = stock.changed()
    update_rows(session, STOCK_LEVELS, [_level_row(level) for level in fewer], key="sku")
    insert_rows(session, MOVEMENTS, [_movement_row(movement) for movement in stock.movements])
    if stock.movements and others:
        send(session)
    update_rows(session, STOCK_LEVELS, [_level_row(level) for level in others], key="sku")


# ---- pieces


def _with_lines(session: Session, found: Iterable[Reservation]) -> dict[UUID, Reservation]:
    reservations = {reservation.order_id: reservation for reservation in found}
    if reservations:
        for line in load_prepared(session, ReservationLine, _LINES, _texts(reservations)):
            reservations[line.order_id].lines.append(line)
    return reservations


def _texts(order_ids: Iterable[UUID]) -> list[str]:
    return [str(order_id) for order_id in sorted(order_ids)]


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


_ITEM_COLUMNS = column_names(ITEMS)
_MOVEMENT_COLUMNS = column_names(MOVEMENTS)
