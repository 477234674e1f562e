"""docker-compose.yml as it is written: what compose makes of it, and that it agrees with the native runtime."""

import re
from pathlib import Path
from typing import Any, Final

import inventory_service.settings
import order_service.settings
import payment_service.settings
import pytest
from ecom_common.settings import KafkaSettings
from ecom_local import environment
from ecom_local.parts import DATABASES, PARTS, Part
from ecom_local.passwords import load_or_create
from ecom_local.paths import KAFKA_SETTINGS, POSTGRES_ROLES, POSTGRES_SETTINGS, REPOSITORY, Layout
from ecom_local.ports import Ports
from pydantic_settings import BaseSettings

from tests.support.compose import (
    APIS,
    AUDITOR,
    COMPOSE_FILE,
    JOBS,
    LONG_RUNNING,
    MIGRATIONS,
    POSTGRES,
    PUBLISHED,
    SHORT_WAITS,
    WORKERS,
    Project,
)

EXAMPLE: Final = REPOSITORY / ".env.example"
SETTINGS: Final[dict[str, type[BaseSettings]]] = {
    "order": order_service.settings.Settings,
    "inventory": inventory_service.settings.Settings,
    "payment": payment_service.settings.Settings,
}
SET_BY_SCRIPTS: Final = {"REVISION"}
NATIVE_ONLY: Final = {
    "FLYWAY_COMMAND"
}  # In the image it is on the PATH, where it is looked for anyway.
IMAGE_ONLY: Final = {"PYTHONDONTWRITEBYTECODE"}  # The file system is read-only.


@pytest.fixture(scope="module")
def services(built: Project) -> dict[str, Any]:
    services: dict[str, Any] = built.config()["services"]
    return services


def test_the_file_is_valid_and_every_service_in_it_is_one_that_these_tests_cover(
    services: dict[str, Any],
) -> None:
    assert set(services) == {*LONG_RUNNING, *JOBS}


def test_the_auditor_is_started_by_its_profile_only_and_sees_what_the_services_see(
    built: Project,
) -> None:
    services = built.config("--profile", "audit")["services"]
    assert set(services) == {*LONG_RUNNING, *JOBS, AUDITOR}
    auditor = services[AUDITOR]
    environments = {name: services[f"{name}_worker"]["environment"] for name in SETTINGS}
    wanted = {name: own["DATABASE_URL"] for name, own in environments.items()}
    wanted["provider"] = environments["payment"]["PROVIDER_DATABASE_URL"]
    assert auditor["environment"] == {"HTTP_PORT": "9108"} | {
        f"AUDIT_{name.upper()}_DATABASE_URL": url for name, url in wanted.items()
    }
    (port,) = auditor["ports"]
    assert (port["host_ip"], int(port["published"])) == ("127.0.0.1", built.ports["AUDIT_PORT"])
    assert (auditor["read_only"], auditor["cap_drop"]) == (True, ["ALL"])


def test_whoever_stops_everything_stops_the_auditor_too(built: Project) -> None:
    built.compose("--profile", "audit", "up", "--detach", "--no-deps", AUDITOR, "order_postgres")
    assert len(built.containers()) == 2
    done = built.script("down")
    assert done.returncode == 0, done
    assert built.containers() == []


def test_images_of_others_have_an_exact_version_and_ours_are_built_here(
    services: dict[str, Any],
) -> None:
    ours = {"order", "inventory", "payment"}
    assert {services[name]["image"] for name in {*APIS, *WORKERS, *JOBS}} == {
        f"ecom/{name}_service:latest" for name in ours
    }
    assert {name for name in services if "build" in services[name]} == {*APIS, *WORKERS}
    foreign = {services[name]["image"] for name in {*POSTGRES, "kafka"}}
    assert all(re.fullmatch(r"[a-z/]+:\d[\d.]*", image) for image in foreign), foreign


def test_every_variable_is_explained_and_every_explained_variable_is_used() -> None:
    used = COMPOSE_FILE.read_text()
    interpolated = set(re.findall(r"\$\{(\w+)", used)) - SET_BY_SCRIPTS
    passed_on = set(re.findall(r"^ +(\w+):$", used, re.MULTILINE))
    explained = set(re.findall(r"\b([A-Z][A-Z_]+)=", EXAMPLE.read_text()))
    assert interpolated <= explained
    assert explained <= interpolated | passed_on


@pytest.mark.parametrize("name", [*APIS, *WORKERS])
def test_whatever_a_service_can_be_told_can_be_told_in_the_env_file(
    name: str, services: dict[str, Any]
) -> None:
    settings: list[type[BaseSettings]] = [KafkaSettings, SETTINGS[_part(name).service]]
    known = {
        f"{kind.model_config['env_prefix']}{field}".upper()
        for kind in settings
        for field in kind.model_fields
    }
    # Where it listens is the image's choice; which port that is outside, is one of the settings.
    assert set(services[name]["environment"]) == known - {"HTTP_HOST", "HTTP_PORT"}


def test_what_stands_in_the_env_file_reaches_the_processes(built: Project) -> None:
    before = built.env_file.read_text()
    own = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "me"}
    try:
        built.env_file.write_text(before + "".join(f"{k}={v}\n" for k, v in own.items()))
        changed = built.config()["services"]
    finally:
        built.env_file.write_text(before)
    for name in (*WORKERS, "kafka_topics"):
        assert own.items() <= changed[name]["environment"].items(), name
    assert SHORT_WAITS.keys() <= {
        *changed["order_worker"]["environment"],
        *changed["payment_worker"]["environment"],
    }


def test_no_password_has_a_default(services: dict[str, Any], built: Project) -> None:
    passwords = {v for k, v in built.settings().items() if k.endswith("_PASSWORD")}
    text = COMPOSE_FILE.read_text() + EXAMPLE.read_text()
    assert len(passwords) == 11
    assert not [password for password in passwords if password in text]
    assert not re.findall(r"_PASSWORD:-", text)
    assert not re.findall(r"^\w+_PASSWORD=.+$", text, re.MULTILINE)
    assert services["order_postgres"]["environment"]["POSTGRES_PASSWORD"] in passwords


@pytest.mark.parametrize("name", [*APIS, *WORKERS])
def test_a_process_gets_the_same_variables_as_in_the_native_runtime(
    name: str, services: dict[str, Any], built: Project, tmp_path: Path
) -> None:
    part = _part(name)
    natively = environment.for_service(
        part, layout=Layout(tmp_path), ports=Ports(), passwords=_passwords(tmp_path), extra={}
    )
    given = {
        k
        for k, v in services[name]["environment"].items()
        if v is not None and k not in SHORT_WAITS
    }
    image = _set_by_our_dockerfiles(built, f"{part.service}_service")
    assert set(natively) - NATIVE_ONLY == (given | image) - IMAGE_ONLY
    shared = {"ENVIRONMENT", "LOG_LEVEL", "JWT_ISSUER", "JWT_AUDIENCE"}
    assert {natively[k] for k in shared} == {services[name]["environment"][k] for k in shared}


@pytest.mark.parametrize("name", MIGRATIONS)
def test_a_migration_gets_the_same_variables_as_in_the_native_runtime(
    name: str, services: dict[str, Any], tmp_path: Path
) -> None:
    database = DATABASES[name.removesuffix("_migrate")]
    natively = environment.for_migration(database, ports=Ports(), passwords=_passwords(tmp_path))
    assert set(natively) - set(environment.inherited()) - NATIVE_ONLY == set(
        services[name]["environment"]
    )
    url = services[name]["environment"]["MIGRATION_DATABASE_URL"]
    assert re.fullmatch(rf"postgresql://{database.owner}:\w+@\w+:5432/{database.name}", url)


def test_the_servers_read_the_same_files_as_in_the_native_runtime(services: dict[str, Any]) -> None:
    for name in POSTGRES:
        assert {str(POSTGRES_SETTINGS), str(POSTGRES_ROLES)} <= _mounted(services[name])
    assert str(KAFKA_SETTINGS) in _mounted(services["kafka"])


def test_ports_are_those_of_the_settings_and_on_the_loopback_address_only(
    services: dict[str, Any], built: Project
) -> None:
    published = {
        name: [
            (port["host_ip"], int(port["published"])) for port in services[name].get("ports", [])
        ]
        for name in services
    }
    assert {name: found for name, found in published.items() if found} == {
        name: [("127.0.0.1", built.ports[variable])] for name, variable in PUBLISHED.items()
    }


def _part(name: str) -> Part:
    service, kind = name.split("_")
    return PARTS[f"{service}-{'api' if kind == 'service' else kind}"]


def _passwords(home: Path) -> dict[str, str]:
    layout = Layout(home)
    layout.create()
    return load_or_create(layout)


def _set_by_our_dockerfiles(project: Project, service: str) -> set[str]:
    def names(image: str) -> set[str]:
        found = project.engine.images.get(image).attrs["Config"]["Env"]
        return {entry.partition("=")[0] for entry in found}

    return names(project.image(service)) - names("python:3.13-slim")


def _mounted(service: dict[str, Any]) -> set[str]:
    assert all(volume["read_only"] for volume in service["volumes"] if volume["type"] == "bind")
    return {volume["source"] for volume in service["volumes"]}
