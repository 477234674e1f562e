"""The platform in containers, through `docker compose`: what runs, where it listens, how it is.

Starting it is infra/containers/up, which needs no Python. What docker compose knows – project, ports, .env – is
asked of it and not read here a second time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from ecom_local import tokens
from ecom_local.errors import LocalError, PartError
from ecom_local.parts import SERVICES, Database
from ecom_local.paths import REPOSITORY, default_home
from ecom_local.platform import Command
from ecom_local.ports import HOST

UP = REPOSITORY / "infra" / "containers" / "up"

AUDITOR = "auditor"
"""Its service of docker-compose.yml, which only its profile starts."""
AUDIT_PROFILE = "audit"
# The image's own superuser has its password in the container, so that none stands on a command line here.
_AS_SUPERUSER = 'PGPASSWORD=$POSTGRES_PASSWORD exec "$0" --host=127.0.0.1 --username=postgres "$@"'
_ON_HOST: Mapping[str, str] = {"provider": "payment"}
"""Databases that live in the cluster of another service."""


@dataclass(frozen=True)
class Container:
    """One container, from `docker inspect`."""

    id: str
    service: str
    number: int
    state: str
    health: str | None
    exit_code: int
    pid: int | None
    started_at: datetime
    port: int | None
    last_probe: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Container:
        labels, state = document["Config"]["Labels"], document["State"]
        health = state.get("Health") or {}
        probes = health.get("Log") or []
        return cls(
            id=document["Id"],
            service=labels["com.docker.compose.service"],
            number=int(labels.get("com.docker.compose.container-number", 1)),
            state=state["Status"],
            health=health.get("Status"),
            exit_code=int(state["ExitCode"]),
            pid=state["Pid"] or None,
            started_at=_time(state["StartedAt"]),
            port=_published(document["NetworkSettings"].get("Ports") or {}),
            last_probe=str(probes[-1].get("Output", "")).strip() if probes else "",
        )

    @property
    def name(self) -> str:
        return self.service if self.number == 1 else f"{self.service}-{self.number}"

    @property
    def is_running(self) -> bool:
        return self.state == "running"

    @property
    def problem(self) -> str | None:
        """Why it is not as it must be, or None. A job that has ended well is as it must be."""
        if self.is_running and self.health in (None, "healthy"):
            return None
        if self.is_running:
            return f"{self.health}: {self.last_probe or 'no health check has answered yet'}"
        if self.state == "exited" and self.exit_code == 0 and self.health is None:
            return None
        return f"{self.state}, exit code {self.exit_code}; see scripts/logs {self.service}"


def _time(text: str) -> datetime:
    """As docker writes it, in UTC and to the nanosecond."""
    return datetime.fromisoformat(f"{text[:19]}+00:00")


def _published(ports: Mapping[str, Sequence[Mapping[str, str]] | None]) -> int | None:
    numbers = [
        int(binding["HostPort"]) for bindings in ports.values() for binding in bindings or ()
    ]
    return min(numbers, default=None)


class Containers:
    """The containers of this checkout's compose project; they need not exist."""

    def __init__(self) -> None:
        self.home = default_home()

    # ---- doing

    def start_all(self) -> None:
        self._call("up", "--detach", "--wait")

    def start_databases(self) -> None:
        # Servers of one's own have no container.
        clusters = {_cluster(name) for name in SERVICES} & set(self.services())
        if clusters:
            self._call("up", "--detach", "--wait", *sorted(clusters))

    def stop_services(self) -> None:
        self._call(
            "stop", *(f"{s}_{process}" for s in SERVICES for process in ("service", "worker"))
        )

    def stop(self, *, wipe: bool) -> None:
        # With its profile, or an auditor that was started would be left, and the network with it.
        down = ("--profile", AUDIT_PROFILE, "down", "--remove-orphans")
        self._call(*down, *(["--volumes"] if wipe else []))

    def migrate(self) -> None:
        for name in (*SERVICES, "provider"):
            self._call("run", "--rm", "-T", f"{name}_migrate")

    def provision(self, database: Database) -> None:
        cluster = _cluster(database.prefix)
        self._output(
            "exec",
            "-T",
            "--env=POSTGRES_USER=postgres",
            f"--env=SERVICES={database.name}:{database.prefix}",
            cluster,
            "/docker-entrypoint-initdb.d/provision.sh",
        )

    # ---- asking

    def find(self) -> list[Container]:
        """The containers that there are, running or not; none where no engine answers."""
        if os.environ.get("ECOM_HOME") and not os.environ.get("COMPOSE_PROJECT_NAME"):
            # Another instance than the checkout's own: the checkout's containers are not its.
            return []
        try:
            ids = self._output("ps", "--all", "--quiet").split()
        except (OSError, LocalError):
            return []
        if not ids:
            return []
        text = Command(["docker", "inspect", *ids]).run("docker inspect failed")
        found = [Container.of(document) for document in json.loads(text)]
        return sorted(found, key=lambda container: (container.service, container.number))

    def is_running(self) -> bool:
        return any(container.is_running for container in self.find())

    def services(self) -> list[str]:
        """The names of all services of docker-compose.yml that are to have a container."""
        wanted = self.configuration["services"]
        return [name for name, service in wanted.items() if service.get("scale", 1) != 0]

    def memory_mib(self) -> dict[str, float]:
        """What each running container uses, by the start of its id; docker needs two seconds for it."""
        lines = self._output("stats", "--no-stream", "--format", "json").splitlines()
        return {row["ID"]: mib(row["MemUsage"].split("/")[0]) for row in map(json.loads, lines)}

    def url(self, service: str) -> str:
        for container in self.find():
            if container.service == f"{service}_service" and container.port:
                return f"http://{HOST}:{container.port}"
        raise LocalError(f"The {service} service has no container that runs; see scripts/status.")

    def token(self, *, sub: str, scope: str, lifetime_s: int = 3600) -> str:
        settings = self.configuration["services"]["order_service"]["environment"]
        claims = {"iss": settings["JWT_ISSUER"], "aud": settings["JWT_AUDIENCE"]}
        return tokens.mint(
            sub=sub, scope=scope, lifetime_s=lifetime_s, home=self.home, claims=claims
        )

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """docker-compose.yml with everything that .env and the environment say."""
        document: dict[str, Any] = json.loads(self._output("config", "--format", "json"))
        return document

    def postgres_command(self, database: Database, program: str, *arguments: str) -> Command:
        cluster = _cluster(database.prefix)
        if cluster not in self.services():
            raise LocalError(
                f"{cluster} has no container here; a server of your own has its own tools."
            )
        shell = ["exec", "-T", cluster, "sh", "-c", _AS_SUPERUSER]
        return self._command(*shell, program, *arguments)

    def service_command(self, service: str, *arguments: str) -> Command:
        return self._command(
            "run", "--rm", "--no-deps", "-T", f"{service}_worker", "python", *arguments
        )

    def auditor_command(self, *arguments: str) -> Command:
        """The auditor, in a container of its own beside the databases."""
        return self._command(
            "run",
            "--rm",
            "--no-deps",
            "-T",
            AUDITOR,
            "ecom-audit",
            "--called",
            "scripts/audit",
            *arguments,
        )

    def logs_command(self, services: Sequence[str], *, lines: int, follow: bool) -> Command:
        options = [f"--tail={lines}", *(["--follow"] if follow else [])]
        return self._command("--ansi=never", "logs", *options, *services)

    # ---- docker compose

    def _command(self, *arguments: str) -> Command:
        file = os.environ.get("ECOM_ENV_FILE")
        options = ["--env-file", file] if file else []
        keys = {"JWKS_FILE": str(self.home / "keys" / "jwks.json")}
        own = keys if os.environ.get("ECOM_HOME") else {}
        return Command(["docker", "compose", *options, *arguments], own)

    def _output(self, *arguments: str) -> str:
        return self._command(*arguments).run(f"docker compose {arguments[0]} failed")

    def _call(self, *arguments: str) -> None:
        """Run it with its output to be seen, on standard error."""
        command = self._command(*arguments)
        code = subprocess.run(
            command.arguments,
            env=command.whole_environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            check=False,
        ).returncode
        if code != 0:
            raise PartError(
                f"`docker compose {' '.join(arguments)}` ended with {code}; the lines above say why.\n"
                "Look at scripts/status and scripts/logs."
            )


def _cluster(prefix: str) -> str:
    return f"{_ON_HOST.get(prefix, prefix)}_postgres"


_UNITS = {"B": 1 / 1024**2, "KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}


def mib(text: str) -> float:
    """As docker writes it: 38.75MiB."""
    number = text.strip().rstrip("KMGiB")
    return float(number) * _UNITS[text.strip()[len(number) :]]


def service_names(part: str, known: Sequence[str]) -> list[str]:
    """The compose services that a part is, by its own name or by that of the native runtime.

    order-api is order_service, order-worker is order_worker, postgres all three clusters.
    """
    name = part.replace("-", "_")
    if name.endswith("_api"):
        name = f"{name.removesuffix('_api')}_service"
    names = [f"{service}_postgres" for service in SERVICES] if name == "postgres" else [name]
    if unknown := [name for name in names if name not in known]:
        raise LocalError(
            f"There is no part {unknown[0]!r}; choose from {', '.join(sorted(known))}."
        )
    return names
