"""What is running after `up`: how much of it, how well locked in, and with which settings."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its documentation's way
    AdminClient,
    ConfigResource,
    ResourceType,
)
from docker.models.containers import Container
from ecom_contracts.topics import ALL_TOPICS
from ecom_local.paths import KAFKA_SETTINGS, POSTGRES_SETTINGS

from tests.containers.conftest import Measured
from tests.support.compose import APIS, JOBS, LONG_RUNNING, POSTGRES, WORKERS, Project

MIB = 1024 * 1024
MOST_IDLE_MIB = 1536
HEALTHY_WITHIN_S = 60


def test_idle_the_platform_fits_in_1_5_gib(project: Project, measured: Measured) -> None:
    containers = [project.container(name) for name in LONG_RUNNING]
    with ThreadPoolExecutor(len(containers)) as pool:
        used = dict(zip(LONG_RUNNING, pool.map(_memory_mib, containers), strict=True))
    total = sum(used.values())
    measured["memory, idle"] = f"{total:.0f} MiB: " + ", ".join(
        f"{name} {mib:.0f}" for name, mib in used.items()
    )
    assert total <= MOST_IDLE_MIB


def test_everything_is_healthy_within_a_minute_of_being_made(
    project: Project, measured: Measured
) -> None:
    """Counted from the first container's start: pulling and building are not meant."""
    states = [c.attrs["State"] for name in LONG_RUNNING for c in project.containers(name)]
    begin = min(_time(state["StartedAt"]) for state in states)
    # The log holds the last five checks only; each is from before we looked.
    end = max(_time(state["Health"]["Log"][0]["End"]) for state in states)
    took_s = (end - begin).total_seconds()
    measured["first container started, last one healthy"] = f"{took_s:.1f} s"
    assert took_s <= HEALTHY_WITHIN_S


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_a_long_running_container_is_healthy_limited_and_locked_in(
    name: str, project: Project
) -> None:
    attributes = project.container(name).attrs
    host = attributes["HostConfig"]
    assert attributes["State"]["Health"]["Status"] == "healthy"
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert attributes["Config"]["StopTimeout"] >= 25
    _check_locked_in(attributes)
    # What the kernel says of its first process, whatever the settings mean.
    status = _status(project, name)
    assert status["Uid"].split()[1] != "0"
    assert int(status["CapEff"], 16) == 0
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_ended_well_and_was_locked_in(name: str, project: Project) -> None:
    attributes = project.container(name).attrs
    assert (attributes["State"]["Status"], attributes["State"]["ExitCode"]) == ("exited", 0)
    # The broker is waited for; a migration that fails does not get better by itself.
    policy = attributes["HostConfig"]["RestartPolicy"]["Name"]
    assert policy == ("on-failure" if name == "kafka_topics" else "no")
    assert attributes["Config"]["User"] == "ecom"
    _check_locked_in(attributes)


def test_only_apis_are_on_the_edge_network(project: Project) -> None:
    edge, data = f"{project.name}_edge", f"{project.name}_data"
    wanted = {name: {data} for name in (*LONG_RUNNING, *JOBS)} | {
        name: {edge, data} for name in APIS
    }
    found = {
        name: set(project.container(name).attrs["NetworkSettings"]["Networks"]) for name in wanted
    }
    assert found == wanted


def test_published_ports_listen_on_the_loopback_address_only(project: Project) -> None:
    addresses = {
        binding["HostIp"]
        for container in project.containers()
        for bindings in container.attrs["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    }
    assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize("name", POSTGRES)
def test_postgres_runs_with_every_setting_of_the_shared_file(name: str, project: Project) -> None:
    wanted = set(_properties(POSTGRES_SETTINGS.read_text()))
    query = "SELECT name FROM pg_settings WHERE sourcefile = '/etc/ecom/postgresql.conf'"
    assert {n.lower() for n in project.sql(name, "postgres", query)} == wanted


def test_the_broker_runs_with_every_setting_of_the_shared_file(project: Project) -> None:
    wanted = _properties(KAFKA_SETTINGS.read_text())
    assert wanted.pop("inter.broker.listener.name") == "PLAINTEXT"  # INSIDE in containers
    resource = ConfigResource(ResourceType.BROKER, "1")
    admin = _admin(project)  # kept: without it there is no answer
    found = admin.describe_configs([resource])[resource].result(10)
    assert {name: found[name].value for name in wanted} == wanted


def test_the_topics_are_those_of_the_contracts(project: Project) -> None:
    found = _admin(project).list_topics(timeout=10).topics
    ours = {name: len(t.partitions) for name, t in found.items() if not name.startswith("__")}
    assert ours == {topic.name: topic.partitions for topic in ALL_TOPICS}


def test_the_services_can_write_nowhere_but_in_tmp(project: Project) -> None:
    attempt = "import sys; open(sys.argv[1] + '/x', 'w').close()"
    for name in (*APIS, *WORKERS):
        container = project.container(name)
        for folder, code in (("/app", 1), ("/var", 1), ("/tmp", 0)):
            assert container.exec_run(["python", "-c", attempt, folder]).exit_code == code


def _check_locked_in(attributes: dict[str, Any]) -> None:
    host = attributes["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert (host["CapDrop"], host["CapAdd"] or []) == (["ALL"], [])
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Privileged"] is False
    assert 0 < host["Memory"] <= 768 * MIB
    assert set(host["LogConfig"]["Config"]) == {"max-size", "max-file"}
    assert host["PidMode"] == ""
    assert not [mount for mount in attributes["Mounts"] if mount["Type"] == "bind" and mount["RW"]]


def _status(project: Project, name: str) -> dict[str, str]:
    lines = project.execute(name, "cat", "/proc/1/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _memory_mib(container: Container) -> float:
    """As `docker stats` counts: without the pages of files that could be dropped at once."""
    memory = container.stats(stream=False, one_shot=True)["memory_stats"]
    details = memory["stats"]
    droppable = details.get("total_inactive_file", details.get("inactive_file", 0))
    return float(memory["usage"] - droppable) / MIB


def _properties(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    pairs = [line.partition("=") for line in lines]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _time(text: str) -> datetime:
    """The engine writes nanoseconds, and checks with the zone of its machine."""
    head, _, tail = text.partition(".")
    zone = tail.lstrip("0123456789").replace("Z", "+00:00")
    return datetime.fromisoformat(head + zone).astimezone(UTC)


def _admin(project: Project) -> AdminClient:
    return AdminClient({"bootstrap.servers": project.kafka_bootstrap, "log_level": 0})
