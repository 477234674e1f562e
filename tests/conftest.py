"""The platform under test: real Postgres, Kafka and Flyway on free ports, started once for a run."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest
from ecom_local.instance import Instance
from ecom_local.ports import Ports

from tests.support.databases import Databases

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


@pytest.fixture(scope="session")
def instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An instance of its own, with Postgres and Kafka running; beside any other platform.

    Its logs are kept in `.local/test-logs` when a test has failed.
    """
    # Not below pytest's own folder, which only its owner may enter: started by root, Postgres runs as a
    # user of its own.
    with TemporaryDirectory(prefix="ecom-test-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)
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
