"""A database with the chassis' tables and one more, where handlers of tests leave their effects."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg2
from ecom_common import outbox
from ecom_common.database import Sessions, make_engine, make_sessions
from ecom_common.ids import new_id
from ecom_common.messages import Received
from ecom_common.outbox import Outgoing
from ecom_contracts.envelope import encode
from ecom_contracts.messages import StockCommit
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.support.databases import Databases
from tests.support.envelopes import an_envelope

ROLE, OWNER = "order_service", "order_owner"


@dataclass
class Database:
    """A fresh database, as the service's role sees it; `as_superuser` does what others do to it."""

    databases: Databases
    name: str
    sessions: Sessions

    @property
    def url(self) -> str:
        return self.databases.url(self.name, ROLE)

    @property
    def owner_url(self) -> str:
        return self.databases.url(self.name, OWNER)

    def as_owner(self, statement: str) -> None:
        _execute(self.owner_url, statement)

    def as_superuser(self, statement: str) -> None:
        _execute(self.databases.url("postgres", "postgres"), statement)

    @contextmanager
    def holding(self, statement: str) -> Iterator[None]:
        """The owner has run `statement`, and keeps its locks."""
        connection = psycopg2.connect(self.owner_url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
            yield
        finally:
            connection.close()

    def rows(self, query: str, **parameters: Any) -> list[Any]:
        """The first column of the query's rows."""
        with self.sessions() as session:
            return list(session.scalars(text(query), parameters))

    def one(self, query: str, **parameters: Any) -> Any:
        [value] = self.rows(query, **parameters)
        return value

    def shut(self) -> None:
        """End all connections and let no new one in."""
        self.as_superuser(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
        self.cut()

    def reopen(self) -> None:
        self.as_superuser(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")

    def empty(self) -> None:
        """Forget what an earlier test has left."""
        self.reconnect()
        tables = ("effects", "outbox", "inbox", "idempotency_keys", "dead_letters")
        self.as_owner("; ".join(f"DELETE FROM {table}" for table in tables))

    def cut(self, application: str = "%") -> None:
        """End the connections of an application, as a failover would."""
        self.as_superuser(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = '{self.name}' AND application_name LIKE '{application}'"
        )

    def publish(self, *messages: Outgoing) -> None:
        with self.sessions.begin() as session:
            outbox.publish(session, messages)

    def reconnect(self) -> None:
        """Forget the connections that were cut."""
        self.sessions.kw["bind"].dispose()

    def letters(self) -> list[Any]:
        with self.sessions() as session:
            return list(session.execute(text("SELECT * FROM dead_letters ORDER BY id")))

    def outgoing(self) -> list[tuple[str, str, bytes]]:
        """Topic, key and payload of what is in the outbox, in order."""
        with self.sessions() as session:
            rows = session.execute(text("SELECT topic, key, payload FROM outbox ORDER BY id"))
            return [(row.topic, row.key, bytes(row.payload)) for row in rows]

    def waiting(self) -> list[str]:
        """The payloads in the outbox, in order, as text."""
        return [bytes(p).decode() for p in self.rows("SELECT payload FROM outbox ORDER BY id")]


@contextmanager
def a_database(databases: Databases) -> Iterator[Database]:
    name = databases.fresh("orderdb")
    engine = make_engine(databases.url(name, ROLE), application_name="tests", pool_size=8)
    database = Database(databases, name, make_sessions(engine))
    database.as_owner(
        "CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, message_id uuid, "
        f"key text, note text UNIQUE); GRANT ALL ON effects TO {ROLE}"
    )
    try:
        yield database
    finally:
        engine.dispose()


def leave_effects(session: Session, messages: Sequence[Received]) -> None:
    """A handler: one row in `effects` for each message."""
    for message in messages:
        session.execute(
            text("INSERT INTO effects (message_id, key) VALUES (:id, :key)"),
            {"id": message.envelope.id, "key": message.envelope.subject},
        )


def a_message(order_id: UUID | None = None, *, message_id: UUID | None = None) -> bytes:
    """The bytes of a good message, `stock.commit.v1`."""
    return encode(
        an_envelope(StockCommit(order_id=order_id or new_id()), id=message_id or new_id())
    )


def numbered(topic: str, key: str, numbers: Sequence[int]) -> list[Outgoing]:
    """Messages whose payloads are `key:number`."""
    return [Outgoing(topic, key, f"{key}:{number}".encode()) for number in numbers]


def _execute(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()
