"""The platform in containers, as tests use it: a compose project of its own on free ports.

Compose's command line starts and stops things, as people do; what is running is asked of the engine.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

import docker
from docker.errors import ImageNotFound
from docker.models.containers import Container
from ecom_local import tokens
from ecom_local.environment import inherited
from ecom_local.paths import REPOSITORY
from ecom_local.ports import HOST, Ports

COMPOSE_FILE: Final = REPOSITORY / "docker-compose.yml"
FOR_TESTS: Final = REPOSITORY / "tests" / "containers" / "compose.yml"
BASE_IMAGE: Final = "custom-python-flyway:latest"

APIS: Final = ("order_service", "inventory_service", "payment_service")
WORKERS: Final = ("order_worker", "inventory_worker", "payment_worker")
POSTGRES: Final = ("order_postgres", "inventory_postgres", "payment_postgres")
LONG_RUNNING: Final = (*APIS, *WORKERS, *POSTGRES, "kafka")
MIGRATIONS: Final = ("order_migrate", "inventory_migrate", "payment_migrate", "provider_migrate")
JOBS: Final = (*MIGRATIONS, "kafka_topics")
AUDITOR: Final = "auditor"
"""Started only with the profile `audit`."""

PUBLISHED: Final = {
    "order_service": "ORDER_PORT",
    "inventory_service": "INVENTORY_PORT",
    "payment_service": "PAYMENT_PORT",
    "kafka": "KAFKA_PORT",
    "order_postgres": "ORDER_POSTGRES_PORT",
    "inventory_postgres": "INVENTORY_POSTGRES_PORT",
    "payment_postgres": "PAYMENT_POSTGRES_PORT",
}
"""Which variable says on which port of 127.0.0.1 a service is reached."""

# Short enough to be seen through: the job of a worker that was killed is another's after the lease.
SHORT_WAITS: Final = {
    "ASK_AGAIN_AT_MOST_S": "10",
    "PROVIDER_TIMEOUT_S": "1",
    "PROVIDER_LEASE_S": "3",
    "PROVIDER_RETRY_MOST_S": "5",
    "SIMULATOR_SLOW_S": "0.9",
}
COMMAND_TIMEOUT_S: Final = 300
# The first build on a machine downloads and compiles.
BUILD_TIMEOUT_S: Final = 1200


def why_no_engine() -> str | None:
    """Why containers cannot be tested here, or None when they can."""
    for command, problem in {
        ("docker", "version"): "no Docker engine answers",
        ("docker", "compose", "version"): "docker has no compose",
    }.items():
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except OSError as error:
            return f"{problem}: {error}"
        except subprocess.CalledProcessError as error:
            return f"{problem}: {error.stderr.strip()}"
    return None


@contextmanager
def connected() -> Iterator[docker.DockerClient]:
    engine = docker.from_env(timeout=120)
    try:
        yield engine
    finally:
        engine.close()


@dataclass
class Project:
    """One compose project. It is a platform that a `Shop` can stand in front of."""

    engine: docker.DockerClient
    home: Path
    name: str = field(default_factory=lambda: f"ecom-test-{uuid4().hex[:8]}")
    ports: Mapping[str, int] = field(
        default_factory=lambda: dict(
            zip([*PUBLISHED.values(), "AUDIT_PORT"], Ports.free().to_dict().values(), strict=False)
        )
    )

    # ---- as a platform

    def url(self, service: str) -> str:
        return f"http://{HOST}:{self.ports[PUBLISHED[f'{service}_service']]}"

    def token(self, *, sub: str, scope: str, lifetime_s: int = 3600) -> str:
        return tokens.mint(sub=sub, scope=scope, lifetime_s=lifetime_s, home=self.home)

    @property
    def kafka_bootstrap(self) -> str:
        return f"{HOST}:{self.ports['KAFKA_PORT']}"

    # ---- doing

    @property
    def env_file(self) -> Path:
        return self.home / "env"

    def settings(self) -> dict[str, str]:
        """What stands in the project's own .env."""
        return read_env(self.env_file)

    def prepare(self) -> None:
        """The base image, the key and the settings, in the way that the README tells; then our images."""
        own = {
            **self.ports,
            **SHORT_WAITS,
            "JWKS_FILE": self.home / "keys" / "jwks.json",
            "TEST_IMAGES": self.name,
        }
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in own.items()))
        _run(
            [str(REPOSITORY / "scripts" / "build-base.sh")],
            environment={"ECOM_ENV_FILE": str(self.env_file), "ECOM_HOME": str(self.home)},
            timeout_s=BUILD_TIMEOUT_S,
        )
        self.compose("build", timeout_s=BUILD_TIMEOUT_S)

    def up(self, *options: str, files: Sequence[Path] = ()) -> None:
        """Start what does not run, and wait until all is healthy."""
        self.compose("up", "--detach", "--wait", *options, files=files)

    def compose(
        self,
        *arguments: str,
        files: Sequence[Path] = (),
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", "--project-name", self.name, "--progress", "quiet"]
        command += ["--env-file", str(self.env_file), "--project-directory", str(REPOSITORY)]
        for file in (COMPOSE_FILE, FOR_TESTS, *files):
            command += ["--file", str(file)]
        return _run([*command, *arguments], check=check, timeout_s=timeout_s)

    def remove(self) -> None:
        """Containers, networks, volumes and the images made for this project."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
        for service in APIS:
            with suppress(ImageNotFound):
                self.engine.images.remove(self.image(service))

    # ---- asking

    def image(self, service: str) -> str:
        """The name of an api's image, which its worker and its migrations have too."""
        return f"{self.name}/{service}:latest"

    def container(self, service: str) -> Container:
        [container] = self.containers(service)
        return container

    def containers(self, service: str | None = None) -> list[Container]:
        """Of one service, or all; also those that do not run, but none of `compose run`."""
        labels = [
            f"com.docker.compose.project={self.name}",
            "com.docker.compose.oneoff=False",
            *([f"com.docker.compose.service={service}"] if service else []),
        ]
        found: list[Container] = self.engine.containers.list(all=True, filters={"label": labels})
        return found

    def logs(self, service: str) -> list[str]:
        """The lines that its containers have written so far."""
        return [
            line
            for container in self.containers(service)
            for line in container.logs().decode(errors="replace").splitlines()
        ]

    def config(self, *options: str) -> dict[str, Any]:
        """docker-compose.yml as compose understands it, without what tests add."""
        files = ["--env-file", str(self.env_file), "--file", str(COMPOSE_FILE)]
        done = _run(["docker", "compose", *files, *options, "config", "--format", "json"])
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A script of the repository, on this project's containers."""
        environment = {
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_FILE": f"{COMPOSE_FILE}:{FOR_TESTS}",
            "ECOM_ENV_FILE": str(self.env_file),
            "ECOM_HOME": str(self.home),
        }
        command = [str(REPOSITORY / "scripts" / name), *arguments]
        return _run(command, environment=environment, check=False)

    def execute(self, service: str, *command: str) -> str:
        """Run a command in the service's container, whose output it returns; it must succeed."""
        return execute(self.container(service), *command)

    def sql(self, service: str, database: str, query: str) -> list[str]:
        """The rows of a query by the superuser, columns parted by `|`."""
        psql = ["psql", "-X", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-Atc"]
        return self.execute(service, *psql, query).splitlines()


def execute(container: Container, *command: str) -> str:
    code, output = container.exec_run(list(command))
    text: str = output.decode(errors="replace")
    assert code == 0, f"{command} in {container.name}: exit {code}\n{text}"
    return text


@contextmanager
def a_project(keep_logs_in: Path) -> Iterator[Project]:
    """Built, not yet started; gone afterwards with all it has made. When it does not come to its end, its
    logs are kept."""
    # Not below pytest's own folder, which only its owner may enter.
    with TemporaryDirectory(prefix="ecom-test-") as folder, connected() as engine:
        Path(folder).chmod(0o755)
        project = Project(engine, Path(folder))
        try:
            project.prepare()
            yield project
        except BaseException:
            keep_logs(project, keep_logs_in)
            raise
        finally:
            project.remove()


def keep_logs(project: Project, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for container in project.containers():
        (folder / f"{container.name.removeprefix(project.name)[1:]}.log").write_bytes(
            container.logs(timestamps=True)
        )


def read_env(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def _run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    # Variables of the caller would win over the env file.
    engine = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    done = subprocess.run(
        command,
        env={**inherited(), **engine, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert not check or done.returncode == 0, (
        f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done
