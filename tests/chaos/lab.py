"""The laboratory: a platform of its own, and everything that a fault does to it.

This is what faults, load and campaign know of it, and what is the same wherever it runs; the processes of this
machine are in `native_lab.py`, containers in `container_lab.py`. Parts are called as in the native runtime:
"order-api", "order-worker", "kafka", and what `databases` names.
"""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import httpx
from ecom_local import tokens
from ecom_local.parts import PARTS, SERVICES

from tests.chaos.fault import Place
from tests.chaos.load import Load
from tests.chaos.wires import Wire
from tests.support.shop import until
from tests.support.superuser import Superuser

Settings = Mapping[str, Mapping[str, str]]
"""Environment variables, by service or part."""

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
WRONG_CLOCK: Final = Path(__file__).parent / "wrong_clock"
"""What makes a process's clock wrong when it is on its PYTHONPATH; the processes of every laboratory can read it."""

FIRES_WITHIN_S: Final = 60.0
"""The load comes to every place within seconds; this is for a very busy machine."""
GONE_WITHIN_S: Final = 30.0
READY_WITHIN_S: Final = 90.0
MIGRATED_WITHIN_S: Final = 90.0
POLL_S: Final = 0.02
TOKEN_SLACK_S: Final = 3600
"""Tokens hold for processes whose clocks are wrong: that is not what is on trial."""


class Migrator(Protocol):
    """Flyway at work on the order service's database."""

    def finished(self) -> tuple[int, str]:
        """Wait for its end: its exit code, and what it said."""

    def kill(self) -> None:
        """kill -9, its Java included."""


class Lab(Superuser):
    """One platform, for as many faults as it survives. Inside of `with` it runs."""

    place: Place
    databases: tuple[str, ...]
    """The parts that are database servers."""

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
        self._basic = merged(SETTINGS, settings or {})
        self._settings: Settings = self._basic
        self._load: Load | None = None

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    # ---- the platform, as customers see it

    @abstractmethod
    def url(self, part: str) -> str:
        """Of a service's API ("order"), a worker's health ("order-worker"), or an extra worker."""

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
            self.until_gone(part, pid)
        self.fired(f"{part} {sign} at {point}")

    def kill(self, part: str) -> None:
        """kill -9; it is started again."""
        self.end(part, "KILL")
        self.fired(f"{part} killed")

    def end(self, part: str, sign: str) -> None:
        """Have it end by that signal, which nobody asked for; it is started again."""
        pid = self.pid(part)
        self.signal(pid, sign)
        self.until_gone(part, pid)

    @abstractmethod
    def signal(self, pid: int, sign: str) -> None:
        """Send a process a signal, behind the back of what supervises it."""

    @abstractmethod
    def wake(self, part: str) -> None:
        """Have a part continue that stopped at a crash point."""

    @abstractmethod
    def terminate(self, part: str) -> float:
        """SIGTERM; how many seconds it took to end. It is started again."""

    @abstractmethod
    def stopped(self, part: str) -> AbstractContextManager[None]:
        """It does nothing and is not gone."""

    @abstractmethod
    def down(self, part: str, sign: str = "KILL") -> AbstractContextManager[None]:
        """It ends by that signal, and is not started again before the end; then it is waited for.

        KILL, or the one that it is stopped with anyway.
        """

    @abstractmethod
    def lose_data(self, part: str) -> None:
        """Delete everything that a part which is down has stored."""

    @abstractmethod
    def wire(self, url: str) -> Wire:
        """A wire to that database server; a part that is given its address can be cut off from it."""

    @abstractmethod
    def wire_to_broker(self) -> AbstractContextManager[Wire]:
        """All workers reach the broker over one wire; they are restarted for it, and again afterwards."""

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

    @abstractmethod
    def extra_worker(self, service: str) -> str:
        """Start one more worker of the service, and wait until it is ready; its name as a part."""

    @abstractmethod
    def end_extra(self, name: str, sign: str = "TERM") -> None:
        """End an extra worker for good."""

    @abstractmethod
    def migrate(self, migrations: Path) -> Migrator:
        """Begin to migrate the order service's database to the migrations of this folder."""

    # ---- asking

    @abstractmethod
    def pid(self, part: str) -> int:
        """Of its running process; waits for one that is just being started."""

    @abstractmethod
    def until_gone(self, part: str, pid: int) -> None:
        """Until this process of the part has ended."""

    @abstractmethod
    def threads(self, part: str) -> int:
        """How many threads it has now."""

    def until_ready(self, part: str) -> None:
        until(
            lambda: self.problem(part) is None,
            timeout_s=READY_WITHIN_S,
            about=lambda: f"{part}: {self.problem(part)}",
            every_s=0.1,
        )

    @abstractmethod
    def problem(self, part: str) -> str | None:
        """Why it is not ready, or None."""

    def metric(self, part: str, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels; 0 when there is none."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        text = httpx.get(f"{self.url(part)}/metrics", timeout=5).text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"{name} ", f"{name}{{")) and all(text in line for text in wanted)
        )

    @property
    @abstractmethod
    def kafka_bootstrap(self) -> str:
        """The broker's address on this machine."""

    @abstractmethod
    def postgres_url(self, database: str, role: str) -> str:
        """On this machine. The database "postgres" is that of the order service's server."""

    @abstractmethod
    def log(self, part: str) -> str:
        """Everything that it has written so far."""

    @abstractmethod
    def keep_logs(self, folder: Path) -> None:
        """Copy the logs of all parts into the folder, which is there."""

    def crash_folder(self, part: str) -> Path:
        """Where the part looks whether it is to die, and takes the order away."""
        folder = self.home / "crash" / part
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # in a container it is another user
        return folder

    # ---- making whole

    @abstractmethod
    def heal(self) -> None:
        """Whatever a fault has left behind: everything runs, with the usual settings, and nothing is armed."""

    @abstractmethod
    def _use(self, settings: Settings) -> None:
        """Restart the parts whose settings these are not yet, and wait until they are ready."""

    def _changed(self, settings: Settings) -> list[str]:
        """The parts for which these settings are others than the present ones."""
        return [name for name in PARTS if of_part(name, settings) != of_part(name, self._settings)]

    def _disarm(self) -> None:
        for armed in (self.home / "crash").glob("*/*"):
            armed.unlink(missing_ok=True)

    def _http_problem(self, part: str) -> str | None:
        try:
            answer = httpx.get(f"{self.url(part)}/health/ready", timeout=5)
        except httpx.TransportError as error:
            return repr(error)
        return None if answer.status_code == 200 else answer.text


def merged(*several: Settings) -> Settings:
    """Settings by service or part, the later ones on top."""
    result: dict[str, dict[str, str]] = {}
    for settings in several:
        for name, values in settings.items():
            result[name] = result.get(name, {}) | dict(values)
    return result


def of_part(name: str, settings: Settings) -> dict[str, str]:
    """What the part gets: its service's, and its own on top."""
    return dict(settings.get(PARTS[name].service, {})) | dict(settings.get(name, {}))


def spare_name(service: str, taken: Mapping[str, object]) -> str:
    """A name for one more worker of the service."""
    numbers = (n for n in range(2, 100) if f"{service}-worker-{n}" not in taken)
    return f"{service}-worker-{next(numbers)}"
