"""The databases of the simulation: made by the real migrations, told the time, emptied for each run.

Two things differ from the services' own databases. `db_now()` tells the simulated time. And what the server does
by itself in the background is off, or a row's place in its table, and so a replay, would depend on it.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from random import Random
from typing import Any, Final

import psycopg2
from ecom_audit.databases import engines as audit_engines
from ecom_common.database import make_engine
from ecom_common.relay import make_relay_engine
from payment_service.simulator_book import Book
from sqlalchemy import Engine, event

from tests.simulation.clock import START, Clock
from tests.simulation.wire import Wire
from tests.support.databases import OWNERS, Databases

SERVICES: Final = ("order", "inventory", "payment")
_NEVER_S: Final = 24 * 3600.0
_CONNECTIONS: Final = 4

_SIMULATED_TIME: Final = f"""
    CREATE OR REPLACE FUNCTION db_now() RETURNS timestamptz LANGUAGE sql STABLE AS
    $$ SELECT coalesce(nullif(current_setting('ecom.simulated_now', true), ''), '{START}')::timestamptz $$"""
_TABLES: Final = """
    SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    AND relname <> 'flyway_schema_history' ORDER BY relname"""
# What stands behind the keys in the code.
_UNIQUE_KEYS: Final = {
    "order": (
        "ALTER TABLE idempotency_keys DROP CONSTRAINT pk_idempotency_keys",
        "ALTER TABLE orders DROP CONSTRAINT uq_orders_customer_id",
    ),
    "inventory": ("ALTER TABLE idempotency_keys DROP CONSTRAINT pk_idempotency_keys",),
}
# A traceback names addresses of objects.
_ROWS: Final = {"dead_letters": "to_jsonb(t) - 'stack'"}


class Laboratory:
    """One set of databases, used by one run after the other."""

    def __init__(self, databases: Databases, *, without: frozenset[str] = frozenset()) -> None:
        self._databases = databases
        self.without = without
        self.names = {
            service: databases.fresh(f"{service}db") for service in (*SERVICES, "provider")
        }
        self._tables = {service: self._prepare(service) for service in self.names}
        self._plugs: dict[str, Plug] = {}
        self.provider = ProviderPlug(self._url("provider"))
        self._wire = Wire(Clock(), Random(0), lambda _: None)
        self._auditing = audit_engines({s: self._url(s) for s in self.names})
        for engine in self._auditing.values():
            self._wire.attach(engine)

    def close(self) -> None:
        for plug in self._plugs.values():
            plug.drop()
        self.provider.drop()
        for engine in self._auditing.values():
            engine.dispose()

    def plug(self, service: str, process: str) -> "Plug":
        """The engines of one process; the same for a process of this name in every run."""
        if process not in self._plugs:
            self._plugs[process] = Plug(self._url(service), process)
        return self._plugs[process]

    def auditing(self, clock: Clock) -> Mapping[str, Engine]:
        self._wire.clock = clock
        return self._auditing

    def empty(self) -> None:
        for service, tables in self._tables.items():
            self._execute(service, f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")

    def rows(self) -> Iterator[str]:
        """Everything that is in the databases, in an order of its own."""
        for service, tables in self._tables.items():
            with closing(self._connect(service)) as connection, connection.cursor() as cursor:
                for table in tables:
                    row = _ROWS.get(table, "t")
                    cursor.execute(f"SELECT ({row})::text FROM {table} t ORDER BY 1")
                    for (text,) in cursor:
                        yield f"{service} {table} {text}\n"

    def _prepare(self, service: str) -> list[str]:
        name = self.names[service]
        self._execute(service, f"ALTER DATABASE {name} SET synchronous_commit = off", "postgres")
        self._execute(service, _SIMULATED_TIME)
        with closing(self._connect(service)) as connection, connection.cursor() as cursor:
            cursor.execute(_TABLES)
            tables = [row[0] for row in cursor]
        for table in tables:
            self._execute(service, f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        if "idempotency" in self.without:
            for statement in _UNIQUE_KEYS.get(service, ()):
                self._execute(service, statement)
        return tables

    def _url(self, service: str) -> str:
        return self._databases.url(self.names[service], f"{service}_service")

    def _connect(self, service: str, role: str | None = None) -> psycopg2.extensions.connection:
        owner = OWNERS[f"{service}db"]
        return psycopg2.connect(self._databases.url(self.names[service], role or owner))

    def _execute(self, service: str, statement: str, role: str | None = None) -> None:
        with closing(self._connect(service, role)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)


class Plug:
    """The engines of one process, all on one wire."""

    def __init__(self, url: str, process: str) -> None:
        self.wire = Wire(Clock(), Random(0), lambda _: None)
        self.engine = self.wire.attach(
            make_engine(url, application_name=process, pool_size=_CONNECTIONS)
        )
        # The server's own clock would end a session that waits for a slow machine.
        self.relay_engine = self.wire.attach(
            make_relay_engine(
                url, application_name=f"{process}-relay", idle_session_timeout_s=_NEVER_S
            )
        )

    def drop(self) -> None:
        """As when the process dies."""
        self.wire.cut()
        self.engine.dispose()
        self.relay_engine.dispose()


class ProviderPlug:
    """The book of the simulated provider, who is somebody else: no crash of ours touches it."""

    def __init__(self, url: str) -> None:
        self.wire = Wire(Clock(), Random(0), lambda _: None)
        self._engines = [
            self.wire.attach(make_engine(url, application_name="provider", pool_size=_CONNECTIONS))
            for _ in range(2)
        ]
        transactions, statements = self._engines
        event.listen(statements, "connect", _commit_each_statement)
        self.book = Book(transactions, statements, patience_s=1)

    def drop(self) -> None:
        self.wire.cut()
        for engine in self._engines:
            engine.dispose()


def _commit_each_statement(connection: Any, _: object) -> None:
    connection.autocommit = True
