"""The platform under test: real Postgres, Kafka and Flyway on free ports, started once for a run."""

from collections.abc import Iterator

import pytest
from ecom_local.instance import Instance
from ecom_local.ports import Ports

from tests.support.databases import Databases

# Short enough that a test can see a deadline pass, long enough that no other test meets one.
SETTINGS = {
    "order": {"ORDER_DEADLINE_S": "60", "LOG_LEVEL": "INFO"},
    "inventory": {"RESERVATION_TTL_S": "120", "LOG_LEVEL": "INFO"},
    "payment": {"LOG_LEVEL": "INFO"},
}


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance of its own, with Postgres and Kafka running; beside any other platform."""
    home = tmp_path_factory.mktemp("ecom")
    # Postgres may run as a user of its own, who must be able to get to its data.
    for folder in (home, *home.parents[:3]):
        if folder.owner() == home.owner() and "pytest-" in str(folder):
            folder.chmod(0o755)
    with Instance(home, ports=Ports.free(), environment=SETTINGS, say=print) as running:
        running.start("postgres", "kafka")
        yield running


@pytest.fixture(scope="session")
def databases(instance: Instance) -> Databases:
    """Fresh copies of the services' databases, made from templates that Flyway has migrated."""
    return Databases.from_migrations(instance)
