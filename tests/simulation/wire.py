"""A process' connections to Postgres: they know the simulated time, and they can be lost.

Every connection of the simulation is opened here. A loss is made so that the server has settled everything
by the time the client notices, because a replay must not depend on how fast a server cleans up.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Final
from weakref import WeakSet

import psycopg2
from ecom_common.driver import UnitConnection
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import connection as psycopg_connection
from sqlalchemy import Engine, event

from tests.simulation.clock import Clock
from tests.simulation.weather import CALM

LOST: Final = "server closed the connection unexpectedly"


class Wire:
    """All connections of one process."""

    def __init__(self, clock: Clock, random: Random, tell: Callable[[str], None]) -> None:
        """`tell` hears of every commit that was lost."""
        self.clock = clock
        self.random = random
        self.tell = tell
        self.weather = CALM
        self._connections: WeakSet[Fragile] = WeakSet()

    def attach(self, engine: Engine) -> Engine:
        """Have the engine open its connections here."""
        event.listen(engine, "do_connect", self._do_connect)
        event.listen(engine, "checkout", self._on_checkout)
        return engine

    def cut(self) -> None:
        """All connections are lost; whoever uses one finds out."""
        for connection in list(self._connections):
            connection.close()
        self._connections.clear()

    def _do_connect(self, _: Any, __: Any, ___: Any, parameters: dict[str, Any]) -> None:
        is_auditors = parameters["connection_factory"] is not UnitConnection
        kind = FragileSnapshot if is_auditors else FragileUnit
        parameters["connection_factory"] = partial(self._open, kind)

    def _open(self, kind: type["Fragile"], dsn: str, *_: Any, **__: Any) -> "Fragile":
        connection = kind(dsn)
        connection.wire = self
        self._connections.add(connection)
        return connection

    def _on_checkout(self, connection: Any, _: Any, __: Any) -> None:
        connection.tell_time(self.clock)


class Fragile(psycopg_connection):
    """A connection that may be lost right before or right after a COMMIT has reached the server."""

    wire: Wire
    _told: float = -1.0

    def commit(self) -> None:
        wire = self.wire
        if self.is_open:
            chance = wire.random.random()
            if chance < wire.weather.commit_lost_before:
                self._lose("before")
            if chance >= 1 - wire.weather.commit_lost_after:
                super().commit()
                self._lose("after")
        super().commit()

    @property
    def is_open(self) -> bool:
        """Whether there is something to commit."""
        return self.get_transaction_status() != TRANSACTION_STATUS_IDLE

    def close(self) -> None:
        """Ends the session's transaction and locks first: a server does that a moment after its client."""
        if not self.closed:
            with suppress(psycopg2.Error):
                self.rollback()
                with self.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock_all()")
                self.rollback()
        super().close()

    def tell_time(self, clock: Clock) -> None:
        """Outside of any transaction, so that no rollback takes it back."""
        if self._told == clock.passed_s or self.closed:
            return
        before = self.autocommit
        self.autocommit = True
        with self.cursor() as cursor:
            cursor.execute("SELECT set_config('ecom.simulated_now', %s, false)", [str(clock.now())])
        self.autocommit = before
        self._told = clock.passed_s

    def _lose(self, when: str) -> None:
        self.close()
        self.wire.tell(when)
        raise psycopg2.OperationalError(LOST)


class FragileUnit(Fragile, UnitConnection):
    """A service's."""

    @property
    def is_open(self) -> bool:
        return self.has_something_to_commit


class FragileSnapshot(Fragile):
    """The auditor's."""
