"""The driver's connection, with fewer round trips: BEGIN travels with the first statement of a transaction, and
COMMIT with the last.

Below saturation a transaction has a handful of statements, and each round trip wakes two processes up: that costs
as much as what is asked.
"""

from collections.abc import Sequence
from typing import Any

from psycopg2 import Error, NotSupportedError
from psycopg2.extensions import (
    ISOLATION_LEVEL_AUTOCOMMIT,
    ISOLATION_LEVEL_READ_COMMITTED,
    TRANSACTION_STATUS_IDLE,
    connection,
    cursor,
)


class UnitConnection(connection):
    """For psycopg2 it is in autocommit mode; what it says to the server of transactions is said here."""

    autocommit = False
    """Whether each statement is a transaction by itself. It stands before psycopg2's own attribute of that name."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_session(autocommit=True)
        self.cursor_factory = _UnitCursor
        self._last: tuple[str, Sequence[object]] | None = None

    def set_isolation_level(self, level: int | None) -> None:
        """SQLAlchemy's way to choose autocommit. Of real levels there is the server's usual one."""
        if level not in (ISOLATION_LEVEL_AUTOCOMMIT, ISOLATION_LEVEL_READ_COMMITTED):
            raise NotSupportedError("begin such a transaction with SET TRANSACTION")
        self.autocommit = level == ISOLATION_LEVEL_AUTOCOMMIT

    @property
    def has_something_to_commit(self) -> bool:
        return self._last is not None or self._is_in_transaction

    def commit_with(self, statement: str, parameters: Sequence[object]) -> None:
        """Have the statement sent with the COMMIT that comes next; its errors are that one's."""
        self._last = (statement, parameters)

    def commit(self) -> None:
        """Afterwards no transaction is open: what could not be committed is rolled back."""
        last, self._last = self._last, None
        try:
            if last is not None:
                statement, parameters = last
                self._say(f"{statement}; COMMIT", parameters)
            elif self._is_in_transaction:
                self._say("COMMIT")
        except Error:
            if self._is_in_transaction and not self.closed:
                self._say("ROLLBACK")
            raise

    def rollback(self) -> None:
        self._last = None
        if self._is_in_transaction or self.closed:
            self._say("ROLLBACK")

    @property
    def _is_in_transaction(self) -> bool:
        return self.get_transaction_status() != TRANSACTION_STATUS_IDLE

    def _say(self, statement: str, parameters: Sequence[object] | None = None) -> None:
        with self.cursor() as speaking:
            speaking.execute(statement, parameters)


class _UnitCursor(cursor):
    connection: UnitConnection

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's name
        begins = self.connection.get_transaction_status() == TRANSACTION_STATUS_IDLE
        if begins and not self.connection.autocommit:
            query = b"BEGIN; " + query if isinstance(query, bytes) else f"BEGIN; {query}"
        super().execute(query, vars)
