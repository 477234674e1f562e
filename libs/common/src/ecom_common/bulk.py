"""Bulk writes: any number of rows as one JSON document for each table, all of a unit's writes in one statement.

Measured on 2-line orders in batches of 50, client CPU per order: unit of work 0.47 ms, multi-row VALUES
0.14 ms, `unnest` of an array for each column 0.06 ms. Documents cost us less again, and in small batches the server too,
which has one parameter to read instead of one for each column (`python -m tests.load.micro`, docs/speed.md).
Aggregates are therefore loaded as plain objects (`rows`), changed in memory by their verbs, and written here.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import Table, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session, SessionTransaction

from ecom_common import prepared

Row = Mapping[str, Any]
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def insert_rows(session: Session, table: Table, rows: Sequence[Row]) -> None:
    """Insert `rows`, which all have the same keys in one order, with the commit; other columns take their defaults."""
    if rows:
        names = tuple(rows[0])
        _add(session, _Write(table, names), rows)


def update_rows(session: Session, table: Table, rows: Sequence[Row], *, key: str) -> None:
    """Set every given column of the rows with the given `key`, with the commit; the caller holds their locks."""
    if rows:
        names = tuple(rows[0])
        _add(session, _Write(table, names, key), rows)


def send(session: Session) -> None:
    """Write what is waiting now, in one statement, and not with the commit.

    Inside a statement nothing sees what the others of it write. So call it between two writes of one row, and
    before a query that has to see what was written.
    """
    if (waiting := _take(session)) is not None:
        prepared.run(session, *waiting)


def _take(session: Session) -> tuple[Any, ...] | None:
    """One statement for all that is waiting, and its parameters."""
    waiting: list[_Waiting] = session.info.pop(_WAITING, [])
    if not waiting:
        return None
    statement = _one_statement(tuple(write for write, _, _ in waiting))
    counts = [count for _, count, _ in waiting]
    return (statement, *(p for one in waiting for p in _parameters(*one)), *counts)


def insert_new_rows(session: Session, table: Table, rows: Sequence[Row]) -> set[Any]:
    """Insert the rows that violate no unique key, at once; return the first primary key column of those.

    A row whose twin is being inserted by another transaction waits for that one's end.
    """
    if not rows:
        return set()
    names = tuple(rows[0])
    statement = _insert_statement(table, names) + _on_conflict_clause(table)
    return {row[0] for row in prepared.run(session, statement, _document(rows, names))}


class _Write(NamedTuple):
    """The shape of a write: what its SQL depends on."""

    table: Table
    names: tuple[str, ...]
    key: str | None = None
    """Of an update."""


_Waiting = tuple[_Write, int, str]
"""A write, how many rows it has, and their document."""
_WAITING: Final = "ecom.bulk.waiting"


def _add(session: Session, write: _Write, rows: Sequence[Row]) -> None:
    one = (write, len(rows), _document(rows, write.names))
    session.info.setdefault(_WAITING, []).append(one)


def _document(rows: Sequence[Row], names: tuple[str, ...]) -> str:
    """Values have to be of their columns' types: the server would take others as texts."""
    # What is not in a document would be written as NULL.
    assert all(tuple(row) == names for row in rows), "all rows have the same keys, in one order"
    return orjson.dumps(rows, default=_hexadecimal).decode()


def _hexadecimal(value: object) -> str:
    """Bytes as Postgres writes them; JSON has none."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    raise TypeError(f"bulk writes know no {type(value).__name__}")


def _parameters(write: _Write, count: int, document: str) -> tuple[object, ...]:
    return (document,) if write.key is None else (document, count)


@event.listens_for(Session, "before_commit")
def _send_with_commit(session: Session) -> None:
    if (waiting := _take(session)) is not None:
        prepared.run_with_commit(session, *waiting)


@event.listens_for(Session, "after_soft_rollback")
def _forget_at_rollback(session: Session, _: SessionTransaction) -> None:
    session.info.pop(_WAITING, None)


@lru_cache
def _one_statement(writes: tuple[_Write, ...]) -> str:
    parts = ", ".join(
        f"write_{number} AS ({_statement(write)} RETURNING 1)"
        for number, write in enumerate(writes)
    )
    checks = ", ".join(_check(number, write) for number, write in enumerate(writes))
    return f"WITH {parts} SELECT {checks}"


def _check(number: int, write: _Write) -> str:
    """Fails unless as many rows were written as there are; the last parameters say how many.

    By the server, because nobody looks at what a statement returns that goes with its COMMIT. Postgres has no
    RAISE outside of functions; but what is no number says so, and repeats itself.
    """
    wrote = f"(SELECT count(*) FROM write_{number})"
    return (
        f"CASE WHEN {wrote} = %s::bigint THEN 0 "
        f"ELSE ('{write.table.name}: wrote ' || {wrote} || ' rows, not all')::int END"
    )


def _statement(write: _Write) -> str:
    if write.key is None:
        return _insert_statement(write.table, write.names)
    return _update_statement(write.table, write.names, write.key)


@lru_cache
def _insert_statement(table: Table, names: tuple[str, ...]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(names)}) SELECT * FROM {_records(table, names)}"


@lru_cache
def _on_conflict_clause(table: Table) -> str:
    first_key = next(iter(table.primary_key.columns))
    return f" ON CONFLICT DO NOTHING RETURNING {first_key.name}"


@lru_cache
def _update_statement(table: Table, names: tuple[str, ...], key: str) -> str:
    changes = ", ".join(f"{name} = new.{name}" for name in names if name != key)
    # The limit is their number. Postgres expects a hundred rows of a function, for which it would read a table that is
    # still small from one end to the other, as long as the plan lives; behind a limit it expects a tenth of them.
    return (
        f"UPDATE {table.name} SET {changes} FROM (SELECT * FROM {_records(table, names)} LIMIT %s) AS new "
        f"WHERE {table.name}.{key} = new.{key}"
    )


def _records(table: Table, names: tuple[str, ...]) -> str:
    columns = (f"{name} {table.c[name].type.compile(dialect=_DIALECT)}" for name in names)
    return f"json_to_recordset(%s::json) AS record ({', '.join(columns)})"
