"""A database of its own for each test, with the service's own role."""

from collections.abc import Iterator

import pytest
from ecom_common.database import Sessions

from tests.support.databases import Databases


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
