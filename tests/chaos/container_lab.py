"""The laboratory in containers: the platform of docker-compose.yml, and an engine that is asked to do harm.

Containers are made by compose, with a file of the lab's own on top: short deadlines, crash points, and ports for
the workers' metrics. What happens to them goes through the engine's API. A crash does not: what the API kills the
engine takes for stopped, and does not start again. So signals are sent from a container that shares the
engine's process ids, which are not those of this machine when the engine runs in a virtual one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from docker.errors import APIError
from docker.models.containers import Container
from ecom_local.parts import DATABASES, PARTS
from ecom_local.ports import HOST, Ports

from tests.chaos.fault import Place
from tests.chaos.lab import (
    GONE_WITHIN_S,
    MIGRATED_WITHIN_S,
    READY_WITHIN_S,
    SESSION_TIMEOUT_S,
    WORKERS,
    WRONG_CLOCK,
    Lab,
    Migrator,
    Settings,
    of_part,
    spare_name,
)
from tests.chaos.sessions import shorten_sessions
from tests.chaos.wires import Wire, server_of
from tests.support import compose
from tests.support.compose import BASE_IMAGE, LONG_RUNNING, Project, execute
from tests.support.shop import until

OURS: Final = tuple(part.name for part in PARTS.values() if part.service)
CRASH_FOLDERS: Final = "/run/crash"
"""In a container; those of all parts, so that one more worker has its own there, too."""
MIGRATIONS: Final = "/app/migrations"
KAFKA_DATA: Final = "/var/lib/kafka/data"
BESIDE: Final = 9095
"""Inside of the broker's container, where a wire ends."""
KILLED: Final = 137

# In its container a part's programs are children of an init, which passes a stop on, and nothing else.
_CONTINUE_ALL: Final = ("sh", "-c", "kill -CONT -1")


class ContainerLab(Lab):
    """One compose project whose images are built; it is started, or changed, on entering."""

    place: Place = "in containers"
    databases = ("order-postgres", "inventory-postgres", "payment-postgres")

    def __init__(
        self,
        project: Project,
        *,
        seed: int,
        say: Callable[[str], None],
        settings: Settings | None = None,
    ) -> None:
        super().__init__(project.home, seed=seed, say=say, settings=settings)
        self.project = project
        ports = _spare_ports(project)
        self._ports = dict(zip(WORKERS, ports, strict=False))
        self._beside = next(ports)
        self._override = project.home / "lab.json"
        self._extras: dict[str, _Extra] = {}
        self._hand: Container | None = None
        self._migrators = count()

    def __enter__(self) -> Self:
        engine = self.project.engine
        self._hand = engine.containers.run(
            BASE_IMAGE,
            ["sleep", "infinity"],
            name=f"{self.project.name}-hand",
            detach=True,
            init=True,
            pid_mode="host",
            network_mode="none",
            user="0",
        )
        try:
            self._write_override()
            # The broker first: whoever joins a group later gets the shorter session.
            self._compose("up", "--detach", "--wait", "--no-deps", "kafka")
            shorten_sessions(self.kafka_bootstrap, SESSION_TIMEOUT_S)
            self._compose("up", "--detach", "--wait")
        except BaseException:
            self._hand.remove(force=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._let_all_go()
        finally:
            assert self._hand is not None
            self._hand.remove(force=True)

    def url(self, part: str) -> str:
        if part in self._extras:
            return f"http://{HOST}:{self._extras[part].port}"
        if part in self._ports:
            return f"http://{HOST}:{self._ports[part]}"
        return self.project.url(part.removesuffix("-api"))

    # ---- what happens

    def signal(self, pid: int, sign: str) -> None:
        assert self._hand is not None
        execute(self._hand, "sh", "-c", f"kill -{sign} {pid}")

    def wake(self, part: str) -> None:
        execute(self._container(part), *_CONTINUE_ALL)

    def terminate(self, part: str) -> float:
        """As `docker stop` does it."""
        container, begin = self._container(part), time.monotonic()
        container.stop()
        took_s = time.monotonic() - begin
        container.reload()
        code = container.attrs["State"]["ExitCode"]
        assert code != KILLED, f"{part} had to be killed after {took_s:.1f} s"
        self.fired(f"{part} terminated")
        container.start()
        return took_s

    @contextmanager
    def stopped(self, part: str) -> Iterator[None]:
        container = self._container(part)
        container.pause()
        self.fired(f"{part} paused")
        try:
            yield
        finally:
            container.unpause()

    @contextmanager
    def down(self, part: str, sign: str = "KILL") -> Iterator[None]:
        container, pid = self._container(part), self.pid(part)
        if sign == "KILL":
            container.kill()
        else:
            container.stop()
        self.until_gone(part, pid)
        self.fired(f"{part} down")
        try:
            yield
        finally:
            container.start()
            self.until_ready(part)

    @contextmanager
    def cut_off(self, part: str) -> Iterator[None]:
        """Without any network, as behind a broken switch: it runs, and nobody hears of it, nor it of anybody.

        Afterwards it has its names again; whether its address is the same is the engine's choice.
        """
        container = self._container(part)
        networks: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
        for name in networks:
            self.project.engine.networks.get(name).disconnect(container)
        self.fired(f"{part} cut off")
        try:
            yield
        finally:
            for name, place in networks.items():
                network = self.project.engine.networks.get(name)
                network.connect(container, aliases=place["Aliases"])

    def lose_data(self, part: str) -> None:
        assert part == "kafka", "nobody may lose a database"
        mounts = {mount["Destination"]: mount for mount in self._container(part).attrs["Mounts"]}
        self.project.engine.containers.run(
            BASE_IMAGE,
            ["find", "/data", "-mindepth", "1", "-delete"],
            volumes={mounts[KAFKA_DATA]["Name"]: {"bind": "/data", "mode": "rw"}},
            network_mode="none",
            user="0",
            remove=True,
        )

    def wire(self, url: str) -> Wire:
        return Wire(server_of(url), host=self._gateway())

    @contextmanager
    def wire_to_broker(self) -> Iterator[Wire]:
        """By a listener of its own, whose address is the wire's; see the native laboratory."""
        with Wire((HOST, self._beside), host=self._gateway()) as wire:
            over = f"{wire.address[0]}:{wire.address[1]}"
            environment = self._container("kafka").attrs["Config"]["Env"]
            own = dict(entry.split("=", 1) for entry in environment)
            kafka = {
                "KAFKA_LISTENERS": f"{own['KAFKA_LISTENERS']},BESIDE://0.0.0.0:{BESIDE}",
                "KAFKA_ADVERTISED_LISTENERS": f"{own['KAFKA_ADVERTISED_LISTENERS']},BESIDE://{over}",
                "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": ",".join(
                    f"{name}:PLAINTEXT" for name in ("CONTROLLER", "INSIDE", "OUTSIDE", "BESIDE")
                ),
            }
            workers = {worker: {"KAFKA_BOOTSTRAP_SERVERS": over} for worker in WORKERS}
            with self.settings({"kafka": kafka, **workers}):
                yield wire

    def extra_worker(self, service: str) -> str:
        """Alike, but nobody starts it again."""
        name = spare_name(service, self._extras)
        port = next(_spare_ports(self.project))
        self.crash_folder(name)
        container = self._run(
            f"{service}_worker",
            name,
            "--publish", f"{HOST}:{port}:80",
            "--env", f"CRASH_FOLDER={CRASH_FOLDERS}/{name}",
        )  # fmt: skip
        self._extras[name] = _Extra(container, port)
        self.until_ready(name)
        return name

    def end_extra(self, name: str, sign: str = "TERM") -> None:
        container = self._extras.pop(name).container
        if sign == "TERM":
            container.stop()
        container.remove(force=True)

    def migrate(self, migrations: Path) -> Migrator:
        """By the job of the compose file, with another folder in place of the image's."""
        name = f"migrator-{next(self._migrators)}"
        mount = ("--volume", f"{migrations}:{MIGRATIONS}:ro")
        return _Migrator(self._run("order_migrate", name, *mount))

    # ---- asking

    def pid(self, part: str) -> int:
        """Of the container's first process, as the engine's machine counts."""
        until(
            lambda: self._state(part)["Pid"] != 0,
            timeout_s=READY_WITHIN_S,
            about=lambda: f"{part} has no process",
        )
        return int(self._state(part)["Pid"])

    def until_gone(self, part: str, pid: int) -> None:
        until(
            lambda: self._state(part)["Pid"] != pid,
            timeout_s=GONE_WITHIN_S,
            about=lambda: f"{part} does not end: {self._state(part)}",
        )

    def threads(self, part: str) -> int:
        """Of the whole container."""
        stats = self._container(part).stats(stream=False, one_shot=True)
        return int(stats["pids_stats"]["current"])

    def problem(self, part: str) -> str | None:
        container = self._container(part)
        if (status := container.attrs["State"]["Status"]) != "running":
            return f"it is {status}"
        if part in OURS or part in self._extras:
            return self._http_problem(part)
        _, *check = container.attrs["Config"]["Healthcheck"]["Test"]
        try:
            code, said = container.exec_run(check)
        except APIError as error:  # it has just ended
            return str(error)
        return None if code == 0 else f"its health check fails: {said.decode(errors='replace')}"

    @property
    def kafka_bootstrap(self) -> str:
        return self.project.kafka_bootstrap

    def postgres_url(self, database: str, role: str) -> str:
        owners = {own.name: own.prefix for own in DATABASES.values()} | {"postgres": "order"}
        server = {"provider": "payment"}.get(owners[database], owners[database]).upper()
        name = f"{server}_POSTGRES" if role == "postgres" else role.upper()
        password = self.project.settings()[f"{name}_PASSWORD"]
        port = self.project.ports[f"{server}_POSTGRES_PORT"]
        return f"postgresql://{role}:{password}@{HOST}:{port}/{database}"

    def log(self, part: str) -> str:
        text: str = self._container(part).logs().decode(errors="replace")
        return text

    def keep_logs(self, folder: Path) -> None:
        compose.keep_logs(self.project, folder)

    # ---- making whole

    def heal(self) -> None:
        self._let_all_go()
        if self._settings != self._basic:
            self._use(self._basic)
        self._compose("up", "--detach", "--wait", "--no-deps", *LONG_RUNNING)

    def _let_all_go(self) -> None:
        self._disarm()
        for name in list(self._extras):
            self.end_extra(name, "KILL")
        for part in OURS:
            for container in self.project.containers(compose_service(part)):
                if container.status == "paused":
                    container.unpause()
                with suppress(APIError):  # it does not run
                    container.exec_run(_CONTINUE_ALL)

    def _use(self, settings: Settings) -> None:
        changed = self._changed(settings)
        self._settings = settings
        if changed:
            self._write_override()
            names = [compose_service(part) for part in changed]
            self._compose("up", "--detach", "--no-deps", *names)
            for part in changed:
                self.until_ready(part)

    # ---- the engine

    def _container(self, part: str) -> Container:
        """As it is now."""
        if part not in self._extras:
            return self.project.container(compose_service(part))
        container = self._extras[part].container
        container.reload()
        return container

    def _state(self, part: str) -> dict[str, Any]:
        state: dict[str, Any] = self._container(part).attrs["State"]
        return state

    def _gateway(self) -> str:
        """This machine's address in the network of the databases."""
        network = self.project.engine.networks.get(f"{self.project.name}_data")
        gateway: str = network.attrs["IPAM"]["Config"][0]["Gateway"]
        return gateway

    def _run(self, service: str, name: str, *options: str) -> Container:
        """A container like the service's, beside it."""
        own = f"{self.project.name}-{name}"
        self._compose("run", "--detach", "--no-deps", "--name", own, *options, service)
        return self.project.engine.containers.get(own)

    def _compose(self, *arguments: str) -> None:
        self.project.compose(*arguments, files=[self._override])

    def services(self) -> dict[str, Any]:
        """What stands on top of docker-compose.yml."""
        services: dict[str, Any] = {part: self._of_ours(part) for part in OURS}
        if listeners := of_part("kafka", self._settings):
            port = f"{HOST}:{self._beside}:{BESIDE}"
            services["kafka"] = {"environment": listeners, "ports": [port]}
        return {compose_service(part): added for part, added in services.items()}

    def _write_override(self) -> None:
        # JSON is YAML.
        self._override.write_text(json.dumps({"services": self.services()}, indent=1))

    def _of_ours(self, part: str) -> dict[str, Any]:
        folder = self.crash_folder(part)
        crash = {"CRASH_FOLDER": f"{CRASH_FOLDERS}/{folder.name}"}
        mounts = [f"{folder.parent}:{CRASH_FOLDERS}", f"{WRONG_CLOCK}:{WRONG_CLOCK}:ro"]
        ports = [f"{HOST}:{self._ports[part]}:80"] if part in self._ports else []
        environment = crash | of_part(part, self._settings)
        return {"environment": environment, "volumes": mounts, "ports": ports}


@dataclass(frozen=True)
class _Extra:
    container: Container
    port: int


@dataclass(frozen=True)
class _Migrator:
    container: Container

    def finished(self) -> tuple[int, str]:
        code = self.container.wait(timeout=MIGRATED_WITHIN_S)["StatusCode"]
        output = self.container.logs().decode(errors="replace")
        self.container.remove()
        return code, output

    def kill(self) -> None:
        self.container.kill()


def _spare_ports(project: Project) -> Iterator[int]:
    """Free ones that are not the project's, whether it listens on them by now or not."""
    return (port for port in Ports.free().to_dict().values() if port not in project.ports.values())


def compose_service(part: str) -> str:
    """What docker-compose.yml calls a part of the native runtime: order-api is order_service."""
    name = part.replace("-", "_")
    return f"{name.removesuffix('_api')}_service" if name.endswith("_api") else name


def in_container(lab: Lab) -> ContainerLab:
    """The lab as what it is, for faults that exist only in containers."""
    assert isinstance(lab, ContainerLab), "this fault is for the laboratory in containers"
    return lab
