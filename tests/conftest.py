"""The platform under test: real Postgres, Kafka and Flyway on free ports, started once for a run."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from ecom_local.instance import Instance
from ecom_local.ports import Ports

from tests.support.databases import Databases
from tests.support.homes import a_home

# How long an example takes says something of the machine, and nothing of us.
hypothesis.settings.register_profile(
    "ecom", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ecom")

KEPT_LOGS = Path(__file__).parents[1] / ".local" / "test-logs"

# Short enough that a test can see a deadline pass, long enough that no other test meets one.
SETTINGS = {
    "order": {"ORDER_DEADLINE_S": "60", "LOG_LEVEL": "INFO"},
    "inventory": {"RESERVATION_TTL_S": "120", "LOG_LEVEL": "INFO"},
    "payment": {"LOG_LEVEL": "INFO"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The platform first, then the parts alone: tests of a part leave messages in its topics that no order is
    behind, and a platform that runs would act on them."""
    items.sort(key=lambda item: "integration" in item.path.parts)


@pytest.fixture(scope="session")
def instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An instance of its own, with Postgres and Kafka running; beside any other platform.

    Its logs are kept in `.local/test-logs` when a test has failed.
    """
    with a_home() as home:
        with Instance(home, ports=Ports.free(), environment=SETTINGS, say=print) as running:
            running.start("postgres", "kafka")
            yield running
        if request.session.testsfailed:
            shutil.rmtree(KEPT_LOGS, ignore_errors=True)
            shutil.copytree(home / "logs", KEPT_LOGS)


@pytest.fixture(scope="session")
def databases(instance: Instance) -> Databases:
    """Fresh copies of the services' databases, made from templates that Flyway has migrated."""
    return Databases.from_migrations(instance)
