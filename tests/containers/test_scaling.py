"""More workers of one service."""

import re
from collections.abc import Iterator
from typing import Final

import pytest
from confluent_kafka.admin import AdminClient
from docker.models.containers import Container
from ecom_contracts.topics import ALL_TOPICS

from tests.containers import trading
from tests.support.compose import Project, execute
from tests.support.waiting import eventually

WORKERS: Final = 3
METRICS: Final = (
    "import urllib.request as r; print(r.urlopen('http://127.0.0.1/metrics').read().decode())"
)
Partition = tuple[str, int]


@pytest.fixture
def three_workers(project: Project) -> Iterator[list[Container]]:
    scale = ["up", "--detach", "--wait", "--no-deps", "--no-recreate", "--scale"]
    project.compose(*scale, f"order_worker={WORKERS}", "order_worker")
    yield project.containers("order_worker")
    project.compose(*scale, "order_worker=1", "order_worker")


def test_three_workers_share_the_work_and_do_nothing_twice(
    project: Project, three_workers: list[Container]
) -> None:
    assert len(three_workers) == WORKERS
    wanted = {
        (topic.name, partition)
        for topic in ALL_TOPICS
        if "order_service" in topic.readers
        for partition in range(topic.partitions)
    }
    admin = AdminClient({"bootstrap.servers": project.kafka_bootstrap, "log_level": 0})

    def shared() -> bool:
        members = _assigned(admin)
        every = [partition for partitions in members for partition in partitions]
        return len(members) == WORKERS and all(members) and sorted(every) == sorted(wanted)

    eventually(shared, within_s=30)
    with trading.customers(project, seed=3) as load:
        load.until_more(40)
    # Before the books are checked: each has had something to do.
    handled = [_handled(worker) for worker in three_workers]
    assert all(count > 0 for count in handled), handled
    leaders = [_metric(worker, "ecom_relay_leader") for worker in three_workers]
    assert sum(leaders) == 1
    trading.check(project, load)


def _assigned(admin: AdminClient) -> list[list[Partition]]:
    """What each member of the order service's group reads."""
    group = admin.describe_consumer_groups(["order_service"])["order_service"].result(10)
    return [
        [(at.topic, at.partition) for at in member.assignment.topic_partitions]
        for member in group.members
    ]


def _handled(worker: Container) -> float:
    text = execute(worker, "python", "-c", METRICS)
    found = re.findall(
        r'^ecom_messages_received_total\{outcome="handled",.*\} (\S+)$', text, re.MULTILINE
    )
    return sum(map(float, found))


def _metric(worker: Container, name: str) -> float:
    text = execute(worker, "python", "-c", METRICS)
    return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])
