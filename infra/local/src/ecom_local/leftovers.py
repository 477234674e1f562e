"""Finding and ending what runs for an instance, whether or not its supervisor still lives.

Every process of an instance carries ECOM_INSTANCE=<its home> in its environment, and inherits it to its
children. Postgres is known by the configuration file on its command line too: under root it runs as another
user, whose environment even root may not read inside a container. Only processes with one of these marks, and
their descendants, are ever ended.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from ecom_local import postgres
from ecom_local.control import STOP_LIMIT_S
from ecom_local.parts import PARTS, STAGES
from ecom_local.paths import Layout

MARKER = "ECOM_INSTANCE"
PART = "ECOM_PART"

_KILL_LIMIT_S = 5
_POLL_S = 0.02


def find(home: Path) -> dict[psutil.Process, str]:
    """The instance's processes with the part each is the main process of ("" for supervisord)."""
    ourselves = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = {}
    for process in psutil.process_iter():
        if process.pid not in ourselves and (part := _part_of(process, home)) is not None:
            found[process] = part
    return found


def _part_of(process: psutil.Process, home: Path) -> str | None:
    """The part's name, "" for a process of the instance that is none, None for a stranger."""
    try:
        if f"config_file={postgres.settings_file(Layout(home))}" in process.cmdline():
            return "postgres"
        environment = process.environ()
    except (psutil.Error, OSError):
        return None
    return environment.get(PART, "") if environment.get(MARKER) == str(home) else None


def end(home: Path) -> int:
    """End everything of the instance, in order; returns how many processes there were.

    Supervisord goes first, since it would start again what is ended; then the services, then what they
    use.
    """
    processes = find(home)
    everything = {*processes, *(child for main in processes for child in _children(main))}
    _send([process for process, part in processes.items() if not part], "KILL")
    for stage in reversed(STAGES):
        mains = {p: PARTS[name] for p, name in processes.items() if name in PARTS}
        due = {process: part for process, part in mains.items() if part.stage == stage}
        for process, part in due.items():
            _send([process], part.stop_signal)
        _wait(due, STOP_LIMIT_S)
    _send([process for process in everything if is_alive(process)], "KILL")
    _wait(everything, _KILL_LIMIT_S)
    return len(processes)


def is_alive(process: psutil.Process) -> bool:
    """A zombie has ended: in a container it may be that nobody ever collects it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait(processes: Iterable[psutil.Process], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while any(is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _send(processes: Iterable[psutil.Process], name: str) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.Signals[f"SIG{name}"])


def home_of(process: psutil.Process) -> str | None:
    """The home of the instance that a process belongs to, if it belongs to one and we may see it."""
    try:
        return process.environ().get(MARKER)
    except (psutil.Error, OSError):
        return None
