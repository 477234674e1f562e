"""Engines and sessions for Postgres, and what its errors mean for a unit of work.

Owns every connection option. Decides nothing about business, and never retries by itself: a unit of work
is retried whole, by `batch`.
"""

import enum
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import psycopg2
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from ecom_common.driver import UnitConnection
from ecom_common.errors import ConfigurationError

Sessions = sessionmaker[Session]

POOL_TIMEOUT_S: Final = 2
CONNECT_TIMEOUT_S: Final = 3
TCP_USER_TIMEOUT_MS: Final = 10_000

# A statement that waits longer than this will not get better by waiting; a lock that is held longer
# belongs to somebody who is stuck. Both end as an error that the unit of work is retried on.
_SERVER_OPTIONS: Final = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
    # Only `prepared` prepares, and only what is worth planning once; left to itself the server would plan
    # arrays anew each time, because it thinks that it gains by knowing their lengths.
    "plan_cache_mode": "force_generic_plan",
    # Such a plan may be made while a table is still empty, and has to hold when it is not: an index that is there
    # is used. Without this, reading whole what has no index would look so dear to Postgres 17 that it compiled it.
    "enable_seqscan": "off",
    "jit": "off",
}


def sqlalchemy_url(url: str) -> URL:
    """Turn a plain `postgresql://` URL, query and all, into one for psycopg2.

    SQLAlchemy 2.1 loads psycopg 3 for the plain form. Raises ConfigurationError for anything that is
    not a Postgres URL, without repeating it: it holds a password.
    """
    parsed = None
    # Raised in an except block, our error would carry the library's, which can repeat a part of the URL.
    with suppress(Exception):
        parsed = make_url(url)
    if parsed is None:
        raise ConfigurationError("the database URL is malformed")
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigurationError("the database URL must start with postgresql://")
    return parsed.set(drivername="postgresql+psycopg2")


def make_engine(
    url: str,
    *,
    application_name: str,
    pool_size: int,
    server_options: dict[str, str] | None = None,
    connection_factory: type[psycopg2.extensions.connection] = UnitConnection,
) -> Engine:
    """An engine with `pool_size` connections at most and every time-out set.

    No overflow and a short wait: under overload a request is refused quickly instead of queueing for
    connections. No pre-ping: it costs a round trip and proves nothing about the next statement.
    """
    options = _SERVER_OPTIONS | (server_options or {})
    return create_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_use_lifo=True,
        executemany_mode="values_plus_batch",
        connect_args={
            "application_name": application_name,
            "connection_factory": connection_factory,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 2,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        },
    )


def make_sessions(engine: Engine) -> Sessions:
    """Sessions whose objects stay readable after commit, and which never flush by surprise."""
    return sessionmaker(engine, autoflush=False, expire_on_commit=False)


DATABASE_ERRORS: Final = (SQLAlchemyError, psycopg2.Error)
"""What comes of a statement that fails: `prepared` ones raise the driver's own."""


class Trouble(enum.Enum):
    """What an error inside a unit of work means for it."""

    CONTENTION = "contention"
    """Another transaction was in the way: run the unit again."""
    DOWN = "down"
    """The database does not answer or has no room: back off; nothing is wrong with the unit."""
    UNEXPECTED = "unexpected"
    """The unit itself fails: run its messages one by one to find the guilty one."""


# 40001 serialization failure, 40P01 deadlock, 55P03 lock not available, 57014 statement timeout. A unique
# violation (23505) is contention too: a twin committed between our look and our insert, and the next run
# finds it.
_CONTENTION: Final = frozenset({"40001", "40P01", "55P03", "57014", "23505"})
LOCK_NOT_AVAILABLE: Final = "55P03"
UNIQUE_VIOLATION: Final = "23505"
# 57P01–03 shutdown and start-up, 57P05 and 25P03 idle too long, 25006 read-only (a failover), classes 08
# connection and 53 resources (disk full, too many connections), 58 system error (I/O).
_DOWN: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25006"})
_DOWN_CLASSES: Final = frozenset({"08", "53", "58"})


def sql_state(error: BaseException) -> str | None:
    """The five characters of the SQLSTATE, when Postgres gave one."""
    state = getattr(getattr(error, "orig", error), "pgcode", None)
    return state if isinstance(state, str) else None


def classify(error: BaseException) -> Trouble:
    """Tell contention and a database that is down from a unit that is wrong."""
    if isinstance(error, PoolTimeout):
        return Trouble.DOWN
    if not isinstance(error, DBAPIError | psycopg2.Error):
        return Trouble.UNEXPECTED
    state = sql_state(error)
    if state is None:
        lost = not isinstance(error, IntegrityError) and _is_connection_loss(error)
        return Trouble.DOWN if lost else Trouble.UNEXPECTED
    if state in _CONTENTION:
        return Trouble.CONTENTION
    if state in _DOWN or state[:2] in _DOWN_CLASSES:
        return Trouble.DOWN
    return Trouble.UNEXPECTED


def _is_connection_loss(error: DBAPIError | psycopg2.Error) -> bool:
    # libpq reports a lost connection without an SQLSTATE, as OperationalError or InterfaceError, and
    # "server closed the connection" in the middle of a result as plain DatabaseError.
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    original: Any = getattr(error, "orig", error)
    return isinstance(original, psycopg2.OperationalError | psycopg2.InterfaceError) or (
        type(original) is psycopg2.DatabaseError
    )


def backoff_s(
    attempt: int,
    *,
    first_s: float = 0.02,
    most_s: float = 1.0,
    rand: Callable[[], float] = random.random,
) -> float:
    """Full jitter: anything up to `first_s` doubled `attempt` times, at most `most_s`.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return rand() * min(most_s, first_s * 2.0 ** min(attempt, 30))
