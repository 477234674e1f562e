"""What the laboratory in containers says to compose; no engine is asked anything."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from ecom_local.parts import PARTS, SERVICES
from sqlalchemy import make_url

from tests.chaos.container_lab import CRASH_FOLDERS, ContainerLab, compose_service
from tests.chaos.lab import SETTINGS, Settings
from tests.support.compose import LONG_RUNNING, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(Mock(), tmp_path)
    roles = ("OWNER", "SERVICE", "POSTGRES")
    passwords = [f"{s}_{role}" for s in (*SERVICES, "provider") for role in roles]
    lines = [f"{name.upper()}_PASSWORD=secret-of-{name.lower()}\n" for name in passwords]
    project.env_file.write_text("".join(lines))
    return project


def a_lab(project: Project, settings: Settings | None = None) -> ContainerLab:
    return ContainerLab(project, seed=1, say=print, settings=settings)


def test_every_part_has_its_container() -> None:
    native = [name for name in PARTS if name != "postgres"]
    assert {compose_service(name) for name in (*native, *ContainerLab.databases)} == {*LONG_RUNNING}


def test_our_containers_get_the_lab_s_settings_and_crash_points(project: Project) -> None:
    services = a_lab(project).services()
    assert set(services) == {compose_service(p.name) for p in PARTS.values() if p.service}
    for name, service in services.items():
        folder = Path(service["environment"].pop("CRASH_FOLDER"))
        assert service["environment"] == SETTINGS[name.partition("_")[0]]
        assert f"{project.home / 'crash'}:{CRASH_FOLDERS}" in service["volumes"]
        assert (project.home / "crash" / folder.name).is_dir()
        assert folder.parent == Path(CRASH_FOLDERS)
    ports = [service["ports"] for name, service in services.items() if name.endswith("_worker")]
    assert all(port.startswith("127.0.0.1:") for [port] in ports)


def test_settings_of_a_part_reach_its_container_only(project: Project) -> None:
    settings = {"order-api": {"X": "1"}, "kafka": {"KAFKA_Y": "2"}}
    services = a_lab(project, settings).services()
    assert [n for n, s in services.items() if "X" in s["environment"]] == ["order_service"]
    assert services["kafka"]["environment"] == {"KAFKA_Y": "2"}


@pytest.mark.parametrize(
    ("database", "role", "server", "password"),
    [
        ("orderdb", "order_service", "ORDER", "order_service"),
        ("paymentdb", "postgres", "PAYMENT", "payment_postgres"),
        ("providerdb", "provider_service", "PAYMENT", "provider_service"),
        ("postgres", "postgres", "ORDER", "order_postgres"),
    ],
)
def test_databases_are_reached_by_their_published_ports(
    database: str, role: str, server: str, password: str, project: Project
) -> None:
    url = make_url(a_lab(project).postgres_url(database, role))
    assert (url.host, url.database, url.username) == ("127.0.0.1", database, role)
    assert url.password == f"secret-of-{password}"
    assert url.port == project.ports[f"{server}_POSTGRES_PORT"]
