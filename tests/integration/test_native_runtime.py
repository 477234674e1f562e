"""Instances start, report and end as promised, whatever happened to them before."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import psycopg2
import pytest
from ecom_local import java, leftovers, status
from ecom_local.errors import LocalError, PartError, PortInUseError
from ecom_local.instance import Instance
from ecom_local.ports import HOST, Ports

from tests.support.homes import a_home


@pytest.fixture
def own() -> Iterator[Instance]:
    """An instance to be mistreated."""
    with a_home() as home, Instance(home, ports=Ports.free()) as instance:
        yield instance


def test_what_a_killed_supervisor_left_behind_is_ended(own: Instance) -> None:
    own.start("postgres")
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        os.kill(own.supervisor.pid(), signal.SIGKILL)
        states = {row.part: row.state for row in status.collect(own)}
        assert (states["postgres"], states["kafka"]) == ("LEFT BEHIND", "STOPPED")
        own.stop()
        assert leftovers.find(own.layout.home) == {}
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_starting_again_after_a_killed_supervisor_works(own: Instance) -> None:
    own.start("postgres")
    before = own.pid("postgres")
    os.kill(own.supervisor.pid(), signal.SIGKILL)

    own.start("postgres")

    assert own.problem("postgres") is None
    assert own.pid("postgres") != before


def test_data_survives_a_stop_and_not_a_wipe(own: Instance) -> None:
    own.start("postgres")
    _execute(own.postgres_url("orderdb", "order_owner"), "CREATE TABLE kept (x int)")
    own.stop()
    own.start("postgres")
    _execute(own.postgres_url("orderdb", "order_owner"), "SELECT * FROM kept")

    own.stop(wipe=True)

    assert [path.name for path in own.layout.home.iterdir()] == []


def test_starting_what_runs_changes_nothing(own: Instance) -> None:
    own.start("postgres")
    before = own.pid("postgres")
    own.start("postgres")
    assert own.pid("postgres") == before


def test_a_port_in_use_is_named_with_who_has_it(own: Instance) -> None:
    taken = socket.create_server((HOST, own.ports.kafka_controller))
    with taken, pytest.raises(PortInUseError) as raised:
        own.start("kafka")
    for word in (
        str(own.ports.kafka_controller),
        "kafka",
        str(os.getpid()),
        "ECOM_KAFKA_CONTROLLER_PORT",
    ):
        assert word in str(raised.value)


def test_other_ports_are_refused_while_it_runs(own: Instance) -> None:
    own.start("postgres")
    with pytest.raises(LocalError, match="scripts/down"):
        Instance(own.layout.home, ports=Ports.free()).start("postgres")


def test_a_part_that_does_not_start_is_reported_with_its_log(own: Instance) -> None:
    own.start("postgres")
    (own.layout.postgres / "data" / "PG_VERSION").write_text("9\n")
    own.stop("postgres")
    with pytest.raises(PartError) as raised:
        own.start("postgres")
    assert "incompatible with server" in str(raised.value)
    assert "scripts/logs postgres" in str(raised.value)


def test_status_tells_what_runs(own: Instance) -> None:
    own.start("postgres")
    rows = {row.part: row for row in status.collect(own)}

    assert rows["postgres"].healthy
    assert (rows["postgres"].memory_mib or 0) > 1
    assert not rows["kafka"].healthy
    assert not status.healthy(list(rows.values()))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
    ],
)
def test_a_service_role_has_no_ddl(instance: Instance, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        _execute(instance.postgres_url("orderdb", "order_service"), statement)


@pytest.mark.parametrize("role", ["order_service", "order_owner"])
def test_a_role_of_one_service_cannot_connect_to_another_services_database(
    instance: Instance, role: str
) -> None:
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(instance.postgres_url("paymentdb", role))


def test_passwords_are_not_on_command_lines_nor_readable_by_others(instance: Instance) -> None:
    password = instance.postgres_url("orderdb", "order_service").split(":")[2].split("@")[0]
    for process in leftovers.find(instance.layout.home):
        assert password not in " ".join(process.cmdline())
    for path in instance.layout.home.rglob("*"):
        if (
            path.is_file()
            and path.parent.name in ("run", "secrets", "keys")
            and path.stat().st_size
        ):
            public = path.stat().st_mode & 0o077
            assert not (public and password.encode() in path.read_bytes()), path


def _execute(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def test_a_class_cache_with_which_java_does_not_start_is_not_used() -> None:
    sound, broken = (java.JavaProgram("flyway", flags) for flags in (("-Xmx99m",), ("-XX:NoFlag",)))
    try:
        for program in (sound, broken):
            with java.training_folder() as folder:
                (folder / "cache").write_bytes(b"what a training run has left")
                program.keep(folder / "cache")
        assert sound.cache.read_bytes() == b"what a training run has left"
        assert broken.cache.read_bytes() == b""
        assert not [option for option in broken.options() if "AOTCache" in option]
    finally:
        for program in (sound, broken):
            program.cache.unlink(missing_ok=True)
