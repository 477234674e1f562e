"""What operators have in the images, and the scripts that find the containers by themselves."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from confluent_kafka import Producer

from tests.support.compose import APIS, AUDITOR, WORKERS, Project
from tests.support.shop import Shop, until

REASON = ("--reason", "a test of ours", "--actor", "olga")


@pytest.mark.parametrize("name", [*APIS, *WORKERS])
def test_every_image_has_the_operators_command_of_its_service(name: str, project: Project) -> None:
    glance = json.loads(project.execute(name, "ecom-ops", "glance", "--json"))
    service = name.partition("_")[0]
    assert glance["relay"]["application"] == f"{service}_service-relay"
    assert glance["lag"]["consumers"] == 1
    assert "usage: ecom-ops" in project.execute(name, "ecom-ops", "--help")


def test_who_is_nobody_in_a_container_has_to_say_who_they_are(project: Project) -> None:
    container = project.container("order_worker")
    code, output = container.exec_run(["ecom-ops", "lift", "--all", "--reason", "x"])
    assert (code, b"--actor" in output) == (2, True)


def test_the_scripts_look_after_the_containers(project: Project, shop: Shop) -> None:
    order = shop.place({shop.item(stock=3): 1})["id"]
    shop.until_final(order)
    cancelled = project.script("ops", "cancel", order, *REASON)
    assert (cancelled.returncode, cancelled.stdout) == (0, f"✓ {order}  it is cancelling\n")
    shop.until(order, lambda o: o["status"] == "cancelled")
    assert [e["note"] for e in shop.timeline(order) if e["actor"] == "olga"] == ["a test of ours"]
    assert list(_json(project, "ops", "glance")) == ["order", "inventory", "payment"]


def test_a_dead_letter_is_found_and_discarded(project: Project) -> None:
    key = str(uuid4())
    producer = Producer({"bootstrap.servers": project.kafka_bootstrap})
    producer.produce("payment.commands", b"\0 no message", key)
    assert producer.flush(10) == 0

    def found() -> list[dict[str, Any]]:
        letters: list[dict[str, Any]] = _json(project, "ops", "dead-letters", "list", "--key", key)
        return letters

    until(lambda: len(found()) == 1, timeout_s=60, every_s=1)
    (letter,) = found()
    done = project.script("ops", "dead-letters", "discard", letter["letter"], *REASON)
    assert done.returncode == 0, done
    assert found() == []


def test_the_auditor_looks_at_the_containers(project: Project) -> None:
    said = project.script("audit", "--json")
    assert (said.returncode, json.loads(said.stdout)["violations"]) == (0, [])


def test_the_auditor_keeps_looking_and_serves_what_it_sees(project: Project) -> None:
    project.compose("--profile", "audit", "up", "--detach", "--wait", "--no-deps", AUDITOR)
    try:
        metrics = f"http://127.0.0.1:{project.ports['AUDIT_PORT']}/metrics"
        until(lambda: "ecom_audit_up 1.0" in httpx.get(metrics).text, timeout_s=60)
        project.compose("stop", AUDITOR)
        assert project.container(AUDITOR).attrs["State"]["ExitCode"] == 0
    finally:
        project.compose("rm", "--force", "--stop", AUDITOR)


def _json(project: Project, script: str, *arguments: str) -> Any:
    done = project.script(script, *arguments, "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)
