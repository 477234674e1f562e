"""Bulk writes: one statement for any number of rows, by `unnest` of one array per column.

Measured on 2-line orders in batches of 50, client CPU per order: unit of work 0.47 ms, multi-row VALUES
0.14 ms, unnest 0.06 ms; and unlike VALUES it prepares no new statement text for each number of rows.
Aggregates are therefore loaded as mapped objects, changed in memory by their verbs, and written here.
"""

import datetime
import enum
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import JSON, Column, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

Row = Mapping[str, Any]
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def insert_rows(session: Session, table: Table, rows: Sequence[Row]) -> None:
    """Insert `rows`, which all have the same keys; other columns take their defaults."""
    if rows:
        names = tuple(rows[0])
        _execute(session, table, _insert_statement(table, names), names, rows)


def insert_new_rows(session: Session, table: Table, rows: Sequence[Row]) -> set[Any]:
    """Insert the rows that violate no unique key; return the first primary key column of those.

    A row whose twin is being inserted by another transaction waits for that one's end.
    """
    if not rows:
        return set()
    names = tuple(rows[0])
    statement = _insert_statement(table, names) + _on_conflict_clause(table)
    result = _execute(session, table, statement, names, rows)
    return {row[0] for row in result}


def update_rows(session: Session, table: Table, rows: Sequence[Row], *, key: str) -> None:
    """Set every given column of the rows with the given `key`; the caller holds their locks."""
    if not rows:
        return
    names = tuple(rows[0])
    result = _execute(session, table, _update_statement(table, names, key), names, rows)
    assert result.rowcount == len(rows), f"{table.name}: updated {result.rowcount} of {len(rows)}"


def _execute(
    session: Session, table: Table, statement: str, names: Sequence[str], rows: Sequence[Row]
) -> Any:
    assert all(len(row) == len(names) for row in rows), "all rows have the same keys"
    arrays = tuple(_array(table.c[name], rows) for name in names)
    return session.connection().exec_driver_sql(statement, arrays)


@lru_cache
def _insert_statement(table: Table, names: tuple[str, ...]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(names)}) SELECT * FROM {_unnest(table, names)}"


@lru_cache
def _on_conflict_clause(table: Table) -> str:
    first_key = next(iter(table.primary_key.columns))
    return f" ON CONFLICT DO NOTHING RETURNING {first_key.name}"


@lru_cache
def _update_statement(table: Table, names: tuple[str, ...], key: str) -> str:
    changes = ", ".join(f"{name} = new.{name}" for name in names if name != key)
    return (
        f"UPDATE {table.name} SET {changes} FROM {_unnest(table, names)} AS new({', '.join(names)}) "
        f"WHERE {table.name}.{key} = new.{key}"
    )


def _unnest(table: Table, names: tuple[str, ...]) -> str:
    types = (table.c[name].type.compile(dialect=_DIALECT) for name in names)
    return f"unnest({', '.join(f'%s::{kind}[]' for kind in types)})"


def _array(column: Column[Any], rows: Sequence[Row]) -> list[Any]:
    plain = _json if isinstance(column.type, JSON) else _plain
    return [plain(row[column.name]) for row in rows]


def _plain(value: Any) -> Any:
    """What psycopg2 can put into an array: text for UUIDs and enumerations."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return f"{value.total_seconds()} seconds"
    return value


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
