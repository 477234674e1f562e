"""The laboratory: a native platform of its own, and everything that a fault does to it.

Only processes of this platform are ever signalled: the supervised parts, by the pid that our own supervisor
names, and workers that were started beside them. What knows the native runtime is in here and in
`members.py`; faults, load, history and campaign would work on containers with another `Lab`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import psutil
import psycopg2
from ecom_local import tokens
from ecom_local.instance import Instance
from ecom_local.leftovers import is_alive
from ecom_local.parts import PARTS, SERVICES, Part
from ecom_local.ports import Ports

from tests.chaos.load import Load
from tests.chaos.members import ExtraWorker, shorten_sessions
from tests.chaos.wires import HOST, Wire
from tests.support.shop import until

Settings = Mapping[str, Mapping[str, str]]

ORDER_DEADLINE_S: Final = 10
RESERVATION_TTL_S: Final = 15
"""The longest deadline: the drain outlasts it."""
SESSION_TIMEOUT_S: Final = 4
"""After which a silent worker's partitions are another's."""

# Short enough to be seen through; in the proportions of the defaults.
SETTINGS: Final[Settings] = {
    "order": {
        "ORDER_DEADLINE_S": str(ORDER_DEADLINE_S),
        "ASK_AGAIN_AFTER_S": "0.5",
        "ASK_AGAIN_AT_MOST_S": "4",
        "MAX_ASKS": "60",
    },
    "inventory": {"RESERVATION_TTL_S": str(RESERVATION_TTL_S)},
    "payment": {
        "PROVIDER_TIMEOUT_S": "1",
        "PROVIDER_LEASE_S": "3",
        "PROVIDER_RETRY_FIRST_S": "0.2",
        "PROVIDER_RETRY_MOST_S": "2",
        "SIMULATOR_SLOW_S": "0.9",
        "SIMULATOR_LATE_S": "2",
    },
}
APIS: Final = tuple(f"{service}-api" for service in SERVICES)
WORKERS: Final = tuple(f"{service}-worker" for service in SERVICES)

FIRES_WITHIN_S: Final = 60.0
"""The load comes to every place within seconds; this is for a very busy machine."""
GONE_WITHIN_S: Final = 30.0
READY_WITHIN_S: Final = 90.0
POLL_S: Final = 0.02
TOKEN_SLACK_S: Final = 3600
"""Tokens hold for processes whose clocks are wrong: that is not what is on trial."""


class Lab:
    """One platform, for as many faults as it survives. Inside of `with` it runs."""

    def __init__(
        self,
        home: Path,
        *,
        seed: int,
        say: Callable[[str], None],
        settings: Settings | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.say = say
        self.home = home
        self.firings: Counter[str] = Counter()
        self._basic = merged(SETTINGS, self._crash_folders(PARTS), settings or {})
        self._settings = self._basic
        self.instance = Instance(home, ports=Ports.free(), environment=self._basic)
        self._extras: dict[str, ExtraWorker] = {}
        self._load: Load | None = None

    def __enter__(self) -> Self:
        try:
            self.instance.start("postgres", "kafka")
            shorten_sessions(self.instance, SESSION_TIMEOUT_S)
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

    # ---- the platform, as customers see it

    def url(self, part: str) -> str:
        """Of a service's API ("order"), a worker's health ("order-worker"), or an extra worker."""
        if part in self._extras:
            return self._extras[part].url
        return self.instance.url(part)

    def token(self, *, sub: str, scope: str, lifetime_s: int = 3600) -> str:
        """Valid by clocks that are wrong by less than `TOKEN_SLACK_S`."""
        now = int(time.time())
        claims = {"iat": now - TOKEN_SLACK_S, "exp": now + lifetime_s + TOKEN_SLACK_S}
        return tokens.mint(sub=sub, scope=scope, home=self.home, claims=claims)

    @property
    def load(self) -> Load:
        """The load of the run that is under way."""
        assert self._load is not None, "no run is under way"
        return self._load

    def begin_run(self, load: Load) -> None:
        """From now on everything is about this load."""
        self._load = load
        self.firings = Counter()

    # ---- what happens

    def fired(self, what: str, times: int = 1) -> None:
        """It has really happened. A run in which nothing has is a failed one."""
        self.firings[what] += times
        self.say(f"{what}" + (f" × {times}" if times != 1 else ""))

    def crash(
        self, part: str, point: str, sign: str = "KILL", *, within_s: float = FIRES_WITHIN_S
    ) -> None:
        """Have the part die (or stop) at that crash point the next time it comes there; wait for it."""
        pid = self.pid(part)
        armed = self.crash_folder(part) / point
        armed.write_text(sign)
        until(
            lambda: not armed.exists(),
            timeout_s=within_s,
            about=lambda: f"{part} did not come to {point}",
            every_s=POLL_S,
        )
        if sign != "STOP":
            self.until_gone(pid)
        self.fired(f"{part} {sign} at {point}")

    def kill(self, part: str) -> None:
        """kill -9; its supervisor starts it again."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGKILL)
        self.until_gone(pid)
        self.fired(f"{part} killed")

    def terminate(self, part: str) -> float:
        """SIGTERM; how many seconds it took to end."""
        pid, begin = self.pid(part), time.monotonic()
        os.kill(pid, signal.SIGTERM)
        self.until_gone(pid)
        self.fired(f"{part} terminated")
        return time.monotonic() - begin

    def send(self, part: str, sign: str) -> None:
        """Any other signal: STOP, CONT, and what Postgres understands."""
        os.kill(self.pid(part), signal.Signals[f"SIG{sign}"])

    def end(self, part: str, sign: str) -> None:
        """Have it end by that signal; its supervisor starts it again."""
        pid = self.pid(part)
        os.kill(pid, signal.Signals[f"SIG{sign}"])
        self.until_gone(pid)

    @contextmanager
    def stopped(self, part: str) -> Iterator[None]:
        """It does nothing and is not gone."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGSTOP)
        self.fired(f"{part} stopped")
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def down(self, part: str, sign: str = "KILL") -> Iterator[None]:
        """It ends by that signal, and is not started again before the end; then it is waited for.

        KILL, or the one that its supervisor stops it with anyway. Its supervisor is told first: one that stops
        what it is just starting again loses the signal now and then, and waits for nothing.
        """
        pid = self.pid(part)
        if sign == "KILL":
            os.kill(pid, signal.SIGSTOP)  # it gets to do nothing about what its supervisor sends
            self.instance.supervisor.stop(part)
            os.kill(pid, signal.SIGKILL)
        else:
            assert sign == PARTS[part].stop_signal, (
                f"{part} is stopped by {PARTS[part].stop_signal}"
            )
        self.instance.stop(part)
        self.until_gone(pid)
        self.fired(f"{part} down")
        try:
            yield
        finally:
            self.instance.start(part)

    def wire(self, port: int) -> Wire:
        """A wire to a port of this machine; what uses its own port can be cut off."""
        return Wire((HOST, port))

    @contextmanager
    def settings(self, extra: Settings) -> Iterator[None]:
        """Parts with other settings; they are restarted for it, and again afterwards."""
        if not extra:
            yield
            return
        before = self._settings
        self._use(merged(before, extra))
        try:
            yield
        finally:
            self._use(before)

    def extra_worker(self, service: str) -> str:
        """Start one more worker of the service, and wait until it is ready; its name as a part."""
        numbers = (n for n in range(2, 100) if f"{service}-worker-{n}" not in self._extras)
        name = f"{service}-worker-{next(numbers)}"
        self._extras[name] = ExtraWorker.start(
            self.instance, service, name, crash_folder=self.crash_folder(name)
        )
        self.until_ready(name)
        return name

    def end_extra(self, name: str, sign: str = "TERM") -> None:
        """End an extra worker for good."""
        self._extras.pop(name).end(sign)

    # ---- asking

    def pid(self, part: str) -> int:
        """Of the running process; waits for one that is just being started."""
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

    def until_gone(self, pid: int) -> None:
        def gone() -> bool:
            for extra in self._extras.values():
                extra.process.poll()  # or it would stay a zombie
            try:
                return not is_alive(psutil.Process(pid))
            except psutil.NoSuchProcess:
                return True

        until(gone, timeout_s=GONE_WITHIN_S, about=lambda: f"process {pid} does not end")

    def until_ready(self, part: str) -> None:
        until(
            lambda: self.problem(part) is None,
            timeout_s=READY_WITHIN_S,
            about=lambda: f"{part}: {self.problem(part)}",
            every_s=0.1,
        )

    def problem(self, part: str) -> str | None:
        """Why it is not ready, or None."""
        if part not in self._extras:
            return self.instance.problem(part)
        try:
            answer = httpx.get(f"{self.url(part)}/health/ready", timeout=5)
        except httpx.TransportError as error:
            return repr(error)
        return None if answer.status_code == 200 else answer.text

    def metric(self, part: str, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels; 0 when there is none."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        text = httpx.get(f"{self.url(part)}/metrics", timeout=5).text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"{name} ", f"{name}{{")) and all(text in line for text in wanted)
        )

    @contextmanager
    def postgres(self, database: str, role: str = "postgres") -> Iterator[Any]:
        """A connection that commits each statement; by default as superuser."""
        connection = psycopg2.connect(self.instance.postgres_url(database, role))
        try:
            connection.autocommit = True
            yield connection
        finally:
            connection.close()

    def sql(self, database: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement as superuser; its rows."""
        with self.postgres(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def log(self, part: str) -> Path:
        return self.instance.layout.log(part)

    def crash_folder(self, part: str) -> Path:
        folder = self.home / "crash" / part
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # ---- making whole

    def heal(self) -> None:
        """Whatever a fault has left behind: everything runs, with the usual settings, and nothing is armed."""
        self._let_all_go()
        if self._settings != self._basic:
            self._use(self._basic)
        self.instance.start_all()

    def _let_all_go(self) -> None:
        for armed in (self.home / "crash").glob("*/*"):
            armed.unlink(missing_ok=True)
        for name in list(self._extras):
            self.end_extra(name, "KILL")
        for part in PARTS if self.instance.is_running() else ():
            if (pid := self.instance.pid(part)) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _use(self, settings: Settings) -> None:
        changed = [
            part.name
            for part in PARTS.values()
            if _of_part(part.name, settings) != _of_part(part.name, self._settings)
        ]
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


def merged(*several: Settings) -> Settings:
    """Settings by service or part, the later ones on top."""
    result: dict[str, dict[str, str]] = {}
    for settings in several:
        for name, values in settings.items():
            result[name] = result.get(name, {}) | dict(values)
    return result


def _of_part(name: str, settings: Settings) -> dict[str, str]:
    return dict(settings.get(PARTS[name].service, {})) | dict(settings.get(name, {}))
