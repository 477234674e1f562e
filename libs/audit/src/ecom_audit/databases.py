"""The audited databases: connections that cannot write, and snapshots of them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, TypeAlias

from ecom_common.database import make_engine
from psycopg2.extensions import connection
from sqlalchemy import Connection, Engine, Row, text

DATABASES: Final = ("order", "inventory", "payment", "provider")
"""In the order in which their snapshots are taken: who asks before who is asked. So an order never knows
of an answer that a participant's snapshot, being later, does not have."""

Record: TypeAlias = Row[*tuple[Any, ...]]
"""A row of as many columns as its query has."""

ROWS_AT_ONCE: Final = 5_000

# Longer than the services allow themselves: a look reads whole tables, and while one database is read the
# other snapshots wait. It holds no lock that anybody waits for.
_SERVER_OPTIONS: Final = {
    "default_transaction_read_only": "on",
    "statement_timeout": "5min",
    "idle_in_transaction_session_timeout": "10min",
    "work_mem": "64MB",
    "enable_seqscan": "on",
}


class Snapshot:
    """One database as it was at one moment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, **values: Any) -> Iterator[Record]:
        """The rows, fetched from the server as they are read. Several results may be read side by side."""
        options = {"stream_results": True, "yield_per": ROWS_AT_ONCE}
        yield from self._connection.execute(text(sql), values, execution_options=options)


Snapshots = Mapping[str, Snapshot]


def engines(urls: Mapping[str, str]) -> dict[str, Engine]:
    """An engine for each database; nothing is opened yet. Raises ConfigurationError for a wrong URL."""
    return {
        name: make_engine(
            urls[name],
            application_name="audit",
            pool_size=1,
            server_options=_SERVER_OPTIONS,
            # Snapshots and cursors of the server's are psycopg2's own to begin.
            connection_factory=connection,
        )
        for name in DATABASES
    }


@contextmanager
def snapshots(engines: Mapping[str, Engine]) -> Iterator[Snapshots]:
    """A snapshot of each database, taken as close to one another as can be."""
    with ExitStack() as stack:
        connections = {
            name: stack.enter_context(engines[name].connect()).execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            for name in DATABASES
        }
        for connection in connections.values():
            connection.execute(text("SELECT 1"))  # the first statement fixes what is seen
        yield {name: Snapshot(connection) for name, connection in connections.items()}
