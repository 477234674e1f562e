"""The commands that people type, on the platform in containers: they follow whatever runs."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from ecom_local.environment import inherited
from ecom_local.paths import REPOSITORY

from tests.support.compose import COMPOSE_FILE, FOR_TESTS, LONG_RUNNING, Project

Run = Callable[..., subprocess.CompletedProcess[str]]
TIMEOUT_S: Final = 600


@pytest.fixture
def run(project: Project) -> Run:
    """Runs a command of the repository, which must succeed, as somebody whose instance the project is."""
    own = {
        "COMPOSE_PROJECT_NAME": project.name,
        "COMPOSE_FILE": f"{COMPOSE_FILE}{os.pathsep}{FOR_TESTS}",
        "ECOM_ENV_FILE": str(project.env_file),
        "ECOM_HOME": str(project.home),
        **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
    }

    def run(command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [REPOSITORY / command, *arguments],
            env={**inherited(), **own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run


def test_the_demo_starts_what_is_missing_and_shows_every_kind_of_order(run: Run) -> None:
    said = run("scripts/demo", "--containers").stdout
    assert "All 5 orders ended as they must." in said


def test_the_status_names_every_container_and_says_that_all_are_well(run: Run) -> None:
    document = json.loads(run("scripts/status", "--json").stdout)
    assert document["runs"] == "containers"
    assert {row["part"] for row in document["parts"]} >= set(LONG_RUNNING)


def test_logs_and_tokens_come_from_what_runs(run: Run) -> None:
    assert '"service":"order_service"' in run("scripts/logs", "order_service", "--raw").stdout
    token = run("scripts/token", "--sub", "alice", "--scope", "orders:read").stdout
    assert token.count(".") == 2
    assert len(token.splitlines()) == 1


def test_without_python_there_is_a_status_and_there_are_logs_all_the_same(run: Run) -> None:
    assert "order_service" in run("infra/containers/plain", "status").stdout
    assert "order_service" in run("infra/containers/plain", "logs", "--tail", "5").stdout
    assert "Next:" in run("infra/containers/explain").stdout


def test_a_backup_is_restored_and_the_services_agree_again(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "monday"
    run("scripts/backup", folder)
    run("scripts/demo", "--containers")

    said = run("scripts/restore", folder, "inventory").stdout
    assert "orders, inventory, payment and provider agree" in said
