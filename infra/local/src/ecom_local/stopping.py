"""Stopping parts, or all of an instance, in order and for certain."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

import psutil

from ecom_local import control, leftovers
from ecom_local.errors import PartError
from ecom_local.parts import STAGES, Part, parts_of_stage
from ecom_local.site import Site

_SUPERVISOR_LIMIT_S = 10
_POLL_S = 0.02
_STATE_FOLDERS = ("run", "logs", "keys", "secrets", "postgres", "kafka")


def stop_all(site: Site) -> None:
    """Services first, then what they use, then the supervisor; then whatever is still there."""
    if site.supervisor.is_running():
        supervisor = psutil.Process(site.supervisor.pid())
        for stage in reversed(STAGES):
            stop_parts(site, parts_of_stage(stage))
        site.supervisor.shutdown()
        deadline = time.monotonic() + _SUPERVISOR_LIMIT_S
        while leftovers.is_alive(supervisor) and time.monotonic() < deadline:
            site.supervisor.is_running()  # each call wakes it for its next step
            time.sleep(_POLL_S)
    leftovers.end(site.layout.home)


def stop_parts(site: Site, parts: Sequence[Part]) -> None:
    """Have these parts stop, side by side, and wait for their end."""
    names = {part.name for part in parts}
    for name in names:
        site.supervisor.stop(name)
    # Supervisor kills what has not ended by its own limit.
    deadline = time.monotonic() + control.STOP_LIMIT_S + _SUPERVISOR_LIMIT_S
    while any(state.pid for name, state in site.supervisor.states().items() if name in names):
        if time.monotonic() > deadline:
            raise PartError(f"{', '.join(sorted(names))} did not stop; `scripts/down` ends them.")
        time.sleep(_POLL_S)


def wipe(site: Site) -> None:
    """Delete the instance's data: databases, topics, keys, passwords, logs. Downloads stay."""
    for folder in _STATE_FOLDERS:
        shutil.rmtree(site.layout.home / folder, ignore_errors=True)
    shutil.rmtree(site.layout.control_socket.parent, ignore_errors=True)
