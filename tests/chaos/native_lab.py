"""The laboratory on this machine: real Postgres, Kafka and Flyway, and processes to kill.

Only processes of this platform are ever signalled: the supervised parts, by the pid that our own supervisor
names, and workers that were started beside them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from ecom_local.instance import Instance
from ecom_local.leftovers import is_alive
from ecom_local.parts import PARTS, Part
from ecom_local.paths import FLYWAY_COMMAND
from ecom_local.ports import Ports

from tests.chaos.fault import Place
from tests.chaos.lab import (
    GONE_WITHIN_S,
    MIGRATED_WITHIN_S,
    READY_WITHIN_S,
    SESSION_TIMEOUT_S,
    WORKERS,
    Lab,
    Migrator,
    Settings,
    merged,
    spare_name,
)
from tests.chaos.sessions import shorten_sessions
from tests.chaos.wires import HOST, Wire, server_of
from tests.support.extra_processes import ExtraProcess
from tests.support.shop import until


class NativeLab(Lab):
    """One platform of processes."""

    place: Place = "natively"
    databases = ("postgres",)

    def __init__(
        self,
        home: Path,
        *,
        seed: int,
        say: Callable[[str], None],
        settings: Settings | None = None,
    ) -> None:
        super().__init__(home, seed=seed, say=say, settings=settings)
        self._basic = merged(self._basic, self._crash_folders(PARTS))
        self._settings = self._basic
        self.instance = Instance(home, ports=Ports.free(), environment=self._basic)
        self._extras: dict[str, ExtraProcess] = {}

    def __enter__(self) -> Self:
        try:
            self.instance.start("postgres", "kafka")
            shorten_sessions(self.kafka_bootstrap, SESSION_TIMEOUT_S)
            self.instance.start_all()
        except BaseException:
            self.instance.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._let_all_go()
        self.instance.stop()

    def url(self, part: str) -> str:
        if part in self._extras:
            return self._extras[part].url
        return self.instance.url(part)

    # ---- what happens

    def signal(self, pid: int, sign: str) -> None:
        os.kill(pid, signal.Signals[f"SIG{sign}"])

    def wake(self, part: str) -> None:
        self.signal(self.pid(part), "CONT")

    def terminate(self, part: str) -> float:
        begin = time.monotonic()
        self.end(part, "TERM")
        took_s = time.monotonic() - begin
        self.fired(f"{part} terminated")
        return took_s

    @contextmanager
    def stopped(self, part: str) -> Iterator[None]:
        pid = self.pid(part)
        self.signal(pid, "STOP")
        self.fired(f"{part} stopped")
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                self.signal(pid, "CONT")

    @contextmanager
    def down(self, part: str, sign: str = "KILL") -> Iterator[None]:
        """Its supervisor is told first: one that stops what it is just starting again loses the signal now and
        then, and waits for nothing.
        """
        pid = self.pid(part)
        if sign == "KILL":
            self.signal(pid, "STOP")  # it gets to do nothing about what its supervisor sends
            self.instance.supervisor.stop(part)
            self.signal(pid, "KILL")
        else:
            assert sign == PARTS[part].stop_signal, (
                f"{part} is stopped by {PARTS[part].stop_signal}"
            )
        self.instance.stop(part)
        self.until_gone(part, pid)
        self.fired(f"{part} down")
        try:
            yield
        finally:
            self.instance.start(part)

    def lose_data(self, part: str) -> None:
        assert part == "kafka", "nobody may lose a database"
        shutil.rmtree(self.instance.layout.kafka / "data")

    def wire(self, url: str) -> Wire:
        return Wire(server_of(url))

    @contextmanager
    def wire_to_broker(self) -> Iterator[Wire]:
        """By a listener of its own, whose address is the wire's.

        A broker tells its clients where to connect to, so it must name the wire itself.
        """
        ports, beside = self.instance.ports, Ports.free().kafka
        plain = f"PLAINTEXT://{HOST}:{ports.kafka}"
        with Wire((HOST, beside)) as wire:
            over = f"{HOST}:{wire.address[1]}"
            kafka = {
                "listeners": f"{plain},CONTROLLER://{HOST}:{ports.kafka_controller},OUTSIDE://{HOST}:{beside}",
                "advertised.listeners": f"{plain},OUTSIDE://{over}",
            }
            workers = {worker: {"KAFKA_BOOTSTRAP_SERVERS": over} for worker in WORKERS}
            with self.settings({"kafka": kafka, **workers}):
                yield wire

    def extra_worker(self, service: str) -> str:
        name = spare_name(service, self._extras)
        crash = {"CRASH_FOLDER": str(self.crash_folder(name))}
        self._extras[name] = ExtraProcess.start(
            self.instance, service, "worker", name=name, environment=crash
        )
        self.until_ready(name)
        return name

    def end_extra(self, name: str, sign: str = "TERM") -> None:
        self._extras.pop(name).end(sign)

    def migrate(self, migrations: Path) -> Migrator:
        url = self.postgres_url("orderdb", "order_owner")
        return _Migrator(
            subprocess.Popen(
                [sys.executable, "-m", "ecom_common.flyway", "migrate", "--migrations", migrations],
                env=os.environ
                | {"MIGRATION_DATABASE_URL": url, "FLYWAY_COMMAND": str(FLYWAY_COMMAND)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                # A group of its own, so that Flyway and its Java die together.
                start_new_session=True,
            )
        )

    # ---- asking

    def pid(self, part: str) -> int:
        if part in self._extras:
            return self._extras[part].pid
        until(
            lambda: self.instance.pid(part) is not None,
            timeout_s=READY_WITHIN_S,
            about=lambda: f"{part} has no process",
        )
        pid = self.instance.pid(part)
        assert pid is not None
        return pid

    def until_gone(self, part: str, pid: int) -> None:
        def gone() -> bool:
            for extra in self._extras.values():
                extra.process.poll()  # or it would stay a zombie
            try:
                return not is_alive(psutil.Process(pid))
            except psutil.NoSuchProcess:
                return True

        until(gone, timeout_s=GONE_WITHIN_S, about=lambda: f"{part}, process {pid}, does not end")

    def threads(self, part: str) -> int:
        return int(psutil.Process(self.pid(part)).num_threads())

    def problem(self, part: str) -> str | None:
        return self._http_problem(part) if part in self._extras else self.instance.problem(part)

    @property
    def kafka_bootstrap(self) -> str:
        return self.instance.kafka_bootstrap

    def postgres_url(self, database: str, role: str) -> str:
        return self.instance.postgres_url(database, role)

    def log(self, part: str) -> str:
        return self.instance.layout.log(part).read_text(errors="replace")

    def keep_logs(self, folder: Path) -> None:
        shutil.copytree(self.home / "logs", folder, dirs_exist_ok=True)

    # ---- making whole

    def heal(self) -> None:
        self._let_all_go()
        if self._settings != self._basic:
            self._use(self._basic)
        self.instance.start_all()

    def _let_all_go(self) -> None:
        self._disarm()
        for name in list(self._extras):
            self.end_extra(name, "KILL")
        for part in PARTS if self.instance.is_running() else ():
            if (pid := self.instance.pid(part)) is not None:
                with suppress(ProcessLookupError):
                    self.signal(pid, "CONT")

    def _use(self, settings: Settings) -> None:
        changed = self._changed(settings)
        self._settings = settings
        self.instance = Instance(
            self.home, ports=self.instance.ports, environment=settings, say=self.say
        )
        if changed:
            self.instance.start(*changed)

    def _crash_folders(self, parts: Mapping[str, Part]) -> Settings:
        # Of our own processes: what Postgres and Kafka get are settings of the server.
        return {
            name: {"CRASH_FOLDER": str(self.crash_folder(name))}
            for name, part in parts.items()
            if part.service
        }


@dataclass(frozen=True)
class _Migrator:
    process: subprocess.Popen[str]

    def finished(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=MIGRATED_WITHIN_S)
        return self.process.returncode, output

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)


def natively(lab: Lab) -> NativeLab:
    """The lab as what it is, for faults that exist only natively."""
    assert isinstance(lab, NativeLab), "this fault is for the native laboratory"
    return lab
