"""Statements as superuser, on the databases of any platform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2


class Superuser(ABC):
    """A platform's databases, for whoever may do everything with them."""

    @abstractmethod
    def postgres_url(self, database: str, role: str) -> str:
        """A database's address on this machine, for a role."""

    @contextmanager
    def postgres(self, database: str, role: str = "postgres") -> Iterator[Any]:
        """A connection that commits each statement; by default as superuser."""
        connection = psycopg2.connect(self.postgres_url(database, role))
        try:
            connection.autocommit = True
            yield connection
        finally:
            connection.close()

    def sql(self, database: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement as superuser; its rows."""
        with self.postgres(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []
