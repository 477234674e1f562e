"""The platform in containers, started once for the folder; skipped where no engine answers."""

from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from tests.support.compose import Project, a_project, keep_logs, why_no_engine
from tests.support.shop import Shop

FOLDER: Final = Path(__file__).parent
KEPT_LOGS: Final = FOLDER.parents[1] / ".local" / "test-logs" / "containers"

# The first test waits for the images to be built.
TIMEOUT_S: Final = 1500

# Those that only look come first, while nothing has happened yet, and those that break things last.
ORDER: Final = (
    "test_compose_file",
    "test_running",
    "test_images",
    "test_flyway",
    "test_orders",
    "test_commands",
    "test_operations",
    "test_upgrades",
    "test_scaling",
    "test_lifecycle",
    "test_faults",
)

Measured = dict[str, str]
_MEASURED: Final = pytest.StashKey[Measured]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if FOLDER in item.path.parents]
    for item in ours:
        item.add_marker("containers")
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))
    ours.sort(key=lambda item: ORDER.index(item.path.stem))
    ordered = iter(ours)
    items[:] = [next(ordered) if FOLDER in item.path.parents else item for item in items]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    measured = config.stash.get(_MEASURED, {})
    if measured:
        terminalreporter.section("measured in containers")
        for what, value in measured.items():
            terminalreporter.line(f"{what:<48} {value}")


@pytest.fixture(scope="session")
def measured(pytestconfig: pytest.Config) -> Measured:
    """What tests put here is shown at the end of the run."""
    return pytestconfig.stash.setdefault(_MEASURED, {})


@pytest.fixture(scope="package")
def built(request: pytest.FixtureRequest, measured: Measured) -> Iterator[Project]:
    """The project with its images, nothing started."""
    if reason := why_no_engine():
        pytest.skip(reason)
    begin = monotonic()
    with a_project(KEPT_LOGS) as project:
        measured["images built"] = f"{monotonic() - begin:.1f} s"
        yield project
        if request.session.testsfailed:
            keep_logs(project, KEPT_LOGS)


@pytest.fixture(scope="package")
def project(built: Project, measured: Measured) -> Project:
    """The whole platform, healthy. Tests leave it so."""
    begin = monotonic()
    built.up()
    measured["up, until all are healthy"] = f"{monotonic() - begin:.1f} s"
    return built


@pytest.fixture(scope="package")
def shop(project: Project) -> Iterator[Shop]:
    shop = Shop(project)
    yield shop
    shop.http.close()
