"""What runs, and how it is: the table behind `scripts/status`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from ecom_local import leftovers
from ecom_local.containers import Container, Containers
from ecom_local.control import ProgramState
from ecom_local.instance import Instance
from ecom_local.parts import PARTS, Part

_MIB = 1024 * 1024


@dataclass(frozen=True)
class PartStatus:
    part: str
    state: str
    pid: int | None
    uptime_s: int
    port: int | None
    healthy: bool
    problem: str | None
    memory_mib: float | None


def collect(instance: Instance) -> list[PartStatus]:
    """One row per part, and one for the supervisor."""
    supervisor = instance.supervisor
    if not supervisor.is_running():
        left = {part: process.pid for process, part in leftovers.find(instance.layout.home).items()}
        return [_unsupervised(part, left.get(part.name), instance) for part in PARTS.values()]
    states = supervisor.states()
    with ThreadPoolExecutor(len(PARTS)) as pool:
        rows = list(pool.map(lambda part: _row(part, states[part.name], instance), PARTS.values()))
    pid = supervisor.pid()
    uptime_s = int(states[rows[0].part].now - psutil.Process(pid).create_time())
    own = PartStatus(
        "supervisord", "RUNNING", pid, uptime_s, None, True, None, _memory_mib(pid, tree=False)
    )
    return [*rows, own]


def collect_containers(containers: Containers) -> list[PartStatus]:
    """One row per container, and one for each that is missing."""
    with ThreadPoolExecutor() as pool:
        memory = pool.submit(containers.memory_mib)
        wanted = pool.submit(containers.services)
        found = containers.find()
        missing = sorted(set(wanted.result()) - {container.service for container in found})
        used = memory.result()
    rows = [_container_row(container, used.get(container.id[:12])) for container in found]
    return rows + [
        PartStatus(name, "STOPPED", None, 0, None, False, None, None) for name in missing
    ]


def healthy(rows: Sequence[PartStatus]) -> bool:
    return all(row.healthy for row in rows)


def to_dict(home: Path, rows: Sequence[PartStatus], *, runs: str) -> dict[str, object]:
    return {
        "home": str(home),
        "runs": runs,
        "healthy": healthy(rows),
        "memory_mib": round(_total_mib(rows), 1),
        "parts": [asdict(row) for row in rows],
    }


def show(rows: Sequence[PartStatus]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("part", "state", "pid", "uptime", "port", "health", "memory"):
        table.add_column(
            column, justify="right" if column in ("pid", "uptime", "port", "memory") else "left"
        )
    for row in rows:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row("total", "", "", "", "", "", _mib(_total_mib(rows)))
    console = Console(soft_wrap=True)
    console.print(table)
    for row in rows:
        if row.problem and row.state != "STOPPED":
            console.print(f"\n{row.part}: {row.problem}", style="yellow", markup=False)
    if not any(row.pid for row in rows):
        console.print("\nNothing runs. Start it with scripts/up, or scripts/demo.")


def _cells(row: PartStatus) -> list[str]:
    health = "[green]ok[/]" if row.healthy else ("[red]not ready[/]" if row.pid else "-")
    return [
        row.part,
        row.state.lower(),
        str(row.pid or "-"),
        _duration(row.uptime_s) if row.pid else "-",
        str(row.port or "-"),
        health,
        _mib(row.memory_mib) if row.memory_mib is not None else "-",
    ]


def _row(part: Part, state: ProgramState, instance: Instance) -> PartStatus:
    problem = instance.problem(part.name) if state.pid else state.error
    return PartStatus(
        part=part.name,
        state=state.state,
        pid=state.pid or None,
        uptime_s=int(state.uptime_s),
        port=part.port_of(instance.ports),
        healthy=bool(state.pid) and problem is None,
        problem=problem,
        memory_mib=_memory_mib(state.pid) if state.pid else None,
    )


def _container_row(container: Container, memory_mib: float | None) -> PartStatus:
    uptime = datetime.now(UTC) - container.started_at
    return PartStatus(
        part=container.name,
        state=container.state.upper(),
        pid=container.pid,
        uptime_s=int(uptime.total_seconds()) if container.is_running else 0,
        port=container.port,
        healthy=container.problem is None,
        problem=container.problem,
        memory_mib=memory_mib,
    )


def _unsupervised(part: Part, pid: int | None, instance: Instance) -> PartStatus:
    """Stopped; or still there although the supervisor is not, which the next `up` or `down` ends."""
    return PartStatus(
        part=part.name,
        state="LEFT BEHIND" if pid else "STOPPED",
        pid=pid,
        uptime_s=0,
        port=part.port_of(instance.ports),
        healthy=False,
        problem="its supervisor has died; scripts/up starts anew, scripts/down ends it"
        if pid
        else None,
        memory_mib=_memory_mib(pid) if pid else None,
    )


def _memory_mib(pid: int, *, tree: bool = True) -> float | None:
    """Proportional memory of a process and (`tree`) its children; shared pages are counted once."""
    try:
        main = psutil.Process(pid)
        processes = [main, *(main.children(recursive=True) if tree else [])]
        return sum(_own_bytes(process) for process in processes) / _MIB
    except psutil.Error:
        return None


def _own_bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))
    except psutil.AccessDenied:
        # Postgres as another user, seen by root inside a container: what it does not share, then.
        basic = process.memory_info()
        return int(basic.rss - getattr(basic, "shared", 0))
    except psutil.NoSuchProcess:
        return 0


def _total_mib(rows: Sequence[PartStatus]) -> float:
    return sum(row.memory_mib or 0 for row in rows)


def _mib(value: float) -> str:
    return f"{value:,.0f} MiB"


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}h{minutes:02}m" if hours else (f"{minutes}m{rest:02}s" if minutes else f"{rest}s")
    )
