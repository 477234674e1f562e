"""What the operating system and the databases say: CPU, memory, statements, WAL, deadlocks, and how fast the
machine is at the moment.

CPU is the figure to gate on: the machines that this runs on differ in speed by up to 1.8 from one hour to the
next, and a probe of fixed work says by how much.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import orjson
import psutil
from ecom_local.parts import DATABASES, SERVICES

from tests.load.platform import SUPERVISOR, BenchPlatform

SAMPLE_EVERY_S: Final = 5.0
PROBE_ROUNDS: Final = 60
_PROBE_DOCUMENT: Final = {"lines": [{"sku": f"SKU-{n}", "quantity": n} for n in range(50)]}


@dataclass(frozen=True)
class Snapshot:
    """Counters that only grow; two of them make a measurement."""

    cpu_s: Mapping[str, float]
    """By process: user and system time, with that of its children."""
    statements: Mapping[str, int]
    """By database, BEGIN and COMMIT included."""
    wal_bytes: Mapping[str, int]
    all_wal_bytes: int
    """Of the cluster, autovacuum and checkpoints included."""
    deadlocks: int
    whole_reads: Mapping[str, int]
    """By table, as orderdb.orders: how often it was read from its beginning to its end."""


def snapshot(platform: BenchPlatform, others: Mapping[str, psutil.Process]) -> Snapshot:
    """As of now; `others` are processes that belong to the measurement and not to the platform."""
    mains = {**platform.mains(), **others}
    cpu = {name: _cpu_s(name, process) for name, process in mains.items()}
    rows = platform.sql(
        "orderdb",
        "SELECT datname, sum(calls)::bigint, sum(wal_bytes)::bigint FROM pg_stat_statements "
        "JOIN pg_database ON oid = dbid GROUP BY datname",
    )
    names = {database.name for database in DATABASES.values()}
    [(wal,)] = platform.sql("orderdb", "SELECT pg_current_wal_lsn() - '0/0'")
    [(deadlocks,)] = platform.sql("orderdb", "SELECT sum(deadlocks) FROM pg_stat_database")
    return Snapshot(
        cpu_s=cpu,
        statements={name: calls for name, calls, _ in rows if name in names},
        wal_bytes={name: written for name, _, written in rows if name in names},
        all_wal_bytes=int(wal),
        deadlocks=int(deadlocks),
        whole_reads=whole_reads(platform),
    )


def whole_reads(platform: BenchPlatform) -> dict[str, int]:
    """By table, as orderdb.orders: how often it was read whole. Backends tell it within a second."""
    statement = "SELECT relname, coalesce(seq_scan, 0) FROM pg_stat_user_tables"
    return {
        f"{database.name}.{table}": scans
        for database in DATABASES.values()
        for table, scans in platform.sql(database.name, statement)
    }


def _family(name: str, main: psutil.Process) -> list[psutil.Process]:
    """The process and its children; those of the supervisor are the parts, which count by themselves."""
    return [main] if name == SUPERVISOR else [main, *main.children(recursive=True)]


def _cpu_s(name: str, main: psutil.Process) -> float:
    """Of the process and all its children, those that have ended included."""
    seconds = 0.0
    for process in _family(name, main):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
            if process == main:
                seconds += times.children_user + times.children_system
    return seconds


def probe_ms() -> float:
    """CPU milliseconds of a fixed piece of work, of the kind that the services do: JSON, hashing, dictionaries."""
    begin = time.thread_time()
    for _ in range(PROBE_ROUNDS):
        document = orjson.loads(orjson.dumps(_PROBE_DOCUMENT))
        counts: dict[str, int] = defaultdict(int)
        for line in document["lines"]:
            counts[line["sku"]] += line["quantity"]
        hashlib.sha256(repr(sorted(counts.items())).encode()).digest()
    return (time.thread_time() - begin) * 1000


@dataclass
class Sampler:
    """Looks at memory, connections, threads and the machine's speed now and then, inside of `with`."""

    platform: BenchPlatform
    others: Mapping[str, psutil.Process]
    every_s: float = SAMPLE_EVERY_S
    peak_pss: dict[str, int] = field(default_factory=dict)
    """Bytes by process, each at its own peak."""
    totals: list[Footprint] = field(default_factory=list)
    probes_ms: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            self.probes_ms.append(probe_ms())
            self.totals.append(self._look())

    def _look(self) -> Footprint:
        threads = 0
        pss: dict[str, int] = {}
        for name, main in {**self.platform.mains(), **self.others}.items():
            pss[name] = 0
            for process in _family(name, main):
                with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                    pss[name] += _pss(process.pid)
                    if name not in self.others:
                        threads += process.num_threads()
            self.peak_pss[name] = max(pss[name], self.peak_pss.get(name, 0))
        ours = {name: size for name, size in pss.items() if name not in self.others}
        [(connections,)] = self.platform.sql(
            "orderdb", "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        )
        return Footprint(time.time(), ours, threads, connections, outbox_rows(self.platform))


@dataclass(frozen=True)
class Footprint:
    """Of the platform, without the load generator."""

    at: float
    pss: Mapping[str, int]
    """Bytes by process."""
    threads: int
    connections: int
    outbox: int
    """Rows in all three."""

    @property
    def all_pss(self) -> int:
        return sum(self.pss.values())


def _pss(pid: int) -> int:
    """Proportional set size in bytes: shared pages count once over all that share them."""
    with open(f"/proc/{pid}/smaps_rollup") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def outbox_rows(platform: BenchPlatform) -> int:
    """That are not published, or not forgotten yet, in all three databases."""
    counts = [
        platform.sql(DATABASES[service].name, "SELECT count(*) FROM outbox") for service in SERVICES
    ]
    return sum(int(count) for [(count,)] in counts)


def load_average() -> float:
    return os.getloadavg()[0]
