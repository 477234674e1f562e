"""Loads rows as plain objects: one constructor call for each, and nothing that watches their attributes.

Aggregates are changed in memory by their verbs and written in bulk (`bulk`), so nobody needs a unit of work to
notice what has changed.
"""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Table
from sqlalchemy.orm import Session

from ecom_common import prepared
from ecom_common.safeguards import is_off

T = TypeVar("T")


def column_names(table: Table) -> tuple[str, ...]:
    """Its columns' names; SQLAlchemy's own are of a class of texts that orjson does not take for keys."""
    return tuple(str(column.name) for column in table.columns)


def column_list(table: Table) -> str:
    """The columns in the table's order, for a SELECT whose rows become constructor arguments."""
    return ", ".join(f"{table.name}.{column.name}" for column in table.columns)


def load(session: Session, make: Callable[..., T], statement: str, *parameters: object) -> list[T]:
    """`make(*row)` for each row; each `%s` in the statement stands for the next parameter.

    It is planned anew for these parameters, as suits what is asked seldom or looks for ranges.
    """
    rows = session.connection().exec_driver_sql(statement, parameters)
    return [make(*row) for row in rows]


def load_prepared(
    session: Session, make: Callable[..., T], statement: str, *parameters: object
) -> list[T]:
    """The same by a statement that is planned once: for what each order needs, by its keys."""
    return [make(*row) for row in prepared.run(session, statement, *parameters)]


def locking(how: str) -> str:
    """The end of a statement that locks its rows until the end of the transaction, as FOR UPDATE."""
    return "" if is_off("row-locks") else how
