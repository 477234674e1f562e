"""Databases with the service's own role: of the chassis, or of one service and fresh for each test."""

from collections.abc import Iterator

import pytest
from ecom_common.database import Sessions

from tests.support.chassis import Database, a_database
from tests.support.databases import Databases


@pytest.fixture(scope="module")
def fresh_database(databases: Databases) -> Iterator[Database]:
    with a_database(databases) as database:
        yield database


@pytest.fixture
def database(fresh_database: Database) -> Database:
    """The chassis' tables and nothing in them: one for each module, emptied for each test."""
    fresh_database.empty()
    return fresh_database


@pytest.fixture
def order_sessions(databases: Databases) -> Iterator[Sessions]:
    yield from _sessions(databases, "order")


@pytest.fixture
def inventory_sessions(databases: Databases) -> Iterator[Sessions]:
    yield from _sessions(databases, "inventory")


@pytest.fixture
def payment_sessions(databases: Databases) -> Iterator[Sessions]:
    yield from _sessions(databases, "payment")


@pytest.fixture
def provider_url(databases: Databases) -> str:
    """The simulator's own database, as the simulator's role."""
    return databases.url(databases.fresh("providerdb"), "provider_service")


def _sessions(databases: Databases, service: str) -> Iterator[Sessions]:
    sessions = databases.sessions(databases.fresh(f"{service}db"), f"{service}_service")
    yield sessions
    sessions.kw["bind"].dispose()
