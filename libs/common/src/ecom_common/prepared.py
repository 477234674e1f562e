"""The statements of the hot paths: prepared once on each connection, then only executed.

Below saturation a transaction is about one order, and then half of what the server does for a statement is reading
and planning it. They go to the driver directly, because SQLAlchemy's own work for a statement (compiling, result
metadata, events) costs more than the driver's; sessions, transactions and the pool stay SQLAlchemy's.

A prepared statement belongs to a session of the server: whoever puts a pooler in between lets it pool sessions.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple

import psycopg2.extensions
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ecom_common.arrays import array
from ecom_common.driver import UnitConnection

_NAMES: Final = "ecom.prepared.names"
# A migration has changed the type of what a statement returns, or somebody has discarded it: another connection
# prepares it anew.
_UNUSABLE: Final = frozenset({"0A000", "26000"})
# A parameter, and the type that it is cast to.
_PARAMETER: Final = re.compile(
    r"%s(::\w+(?: with(?:out)? time zone)?(?:\(\d+\))?(?:\[\])?)?", re.IGNORECASE
)


def run(session: Session, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """The rows of the statement, in which each `%s` stands for the next parameter, in the session's transaction.

    A list, of texts or of numbers, becomes an array. Raises the driver's errors.
    """
    return run_on(session.connection(), statement, parameters)


def run_on(
    connection: Connection, statement: str, parameters: Sequence[object]
) -> list[tuple[Any, ...]]:
    """The same on a connection that has no session."""
    execute = _prepare(connection, statement)
    with _driver_of(connection) as driver, driver.cursor() as cursor:
        cursor.execute(execute, _written(parameters))
        return cursor.fetchall() if cursor.description else []


def run_with_commit(session: Session, statement: str, *parameters: object) -> None:
    """Run the statement when the session commits, in the same message; its errors are the commit's."""
    connection = session.connection()
    execute = _prepare(connection, statement)
    with _driver_of(connection) as driver:
        assert isinstance(driver, UnitConnection)
        driver.commit_with(execute, _written(parameters))


def _written(parameters: Sequence[object]) -> list[object]:
    return [array(p) if isinstance(p, list) else p for p in parameters]


def _prepare(connection: Connection, statement: str) -> str:
    """What executes the statement, which is prepared on this connection now."""
    names: dict[str, str] = connection.connection.info.setdefault(_NAMES, {})
    forms = _forms(statement)
    name = names.get(statement)
    if name is None:
        name = f"ecom_{len(names)}"
        with _driver_of(connection) as driver, driver.cursor() as cursor:
            cursor.execute(f"PREPARE {name} AS {forms.numbered}")
        names[statement] = name
    return f"EXECUTE {name}{forms.arguments}"


@contextmanager
def _driver_of(connection: Connection) -> Iterator[psycopg2.extensions.connection]:
    """The driver's connection; when it is lost, the pool must not give it to anybody again."""
    driver: Any = connection.connection.dbapi_connection
    try:
        yield driver
    except psycopg2.Error as error:
        if driver.closed:
            # By SQLAlchemy's own way, which has the pool give up all that it opened before: where one is lost, most are.
            with suppress(DBAPIError):
                connection.exec_driver_sql("SELECT 1")
        elif error.pgcode in _UNUSABLE:
            connection.invalidate(error)
        raise


class _Forms(NamedTuple):
    """A statement as it is prepared, and the arguments as they are given each time."""

    numbered: str
    arguments: str


@lru_cache
def _forms(statement: str) -> _Forms:
    casts = [match[1] or "" for match in _PARAMETER.finditer(statement)]
    numbered = statement % tuple(f"${number}" for number in range(1, len(casts) + 1))
    arguments = ", ".join(f"%s{cast}" for cast in casts)
    return _Forms(numbered, f" ({arguments})" if casts else "")
