"""Talking to supervisord over its unix socket, and the configuration it runs.

Supervisor keeps the parts alive, collects and rotates their output, and ends them in order. It starts
nothing by itself (`autostart=false`): what starts when is decided here, where readiness is known.
"""

from __future__ import annotations

import http.client
import os
import shlex
import socket
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecom_local.paths import Layout

STOP_LIMIT_S = 25
_RPC_TIMEOUT_S = 10


@dataclass(frozen=True)
class Program:
    """What supervisor needs to know about one part."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    user: str | None = None


def configuration(
    layout: Layout, programs: Sequence[Program], environment: Mapping[str, str]
) -> str:
    """The text of supervisord.conf. It holds passwords: the file must be private."""
    sections = [
        _section(
            "supervisord",
            {
                "logfile": layout.log("supervisord"),
                "logfile_maxbytes": "5MB",
                "logfile_backups": 1,
                "pidfile": layout.run / "supervisord.pid",
                "childlogdir": layout.logs,
                "directory": layout.home,
                "environment": _environment(environment),
                # Said outright, or it warns about it.
                **({"user": "root"} if os.geteuid() == 0 else {}),
            },
        ),
        _section("unix_http_server", {"file": layout.control_socket, "chmod": "0700"}),
        _section(
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
        *(_program_section(layout, program) for program in programs),
    ]
    return "\n".join(sections)


def _program_section(layout: Layout, program: Program) -> str:
    settings: dict[str, Any] = {
        "command": _escape(shlex.join(program.command)),
        "environment": _environment(program.environment),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": 1,
        "startretries": 30,
        "stopsignal": program.stop_signal,
        "stopwaitsecs": STOP_LIMIT_S,
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": layout.log(program.name),
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": 2,
    }
    if program.user:
        settings["user"] = program.user
    return _section(f"program:{program.name}", settings)


def _section(name: str, settings: Mapping[str, Any]) -> str:
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _escape(text: str) -> str:
    """Supervisor expands %(…)s in values."""
    return text.replace("%", "%%")


def _environment(environment: Mapping[str, str]) -> str:
    for name, value in environment.items():
        # Supervisor's syntax has no escape for its own quotes.
        assert '"' not in value and "\n" not in value, f"{name} cannot be passed on"  # noqa: PT018
    return _escape(",".join(f'{name}="{value}"' for name, value in sorted(environment.items())))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_RPC_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        # Kept where the transport's own close() looks for it.
        connection = _UnixConnection(self._path)
        self._connection = host, connection
        return connection


@dataclass(frozen=True)
class ProgramState:
    name: str
    state: str
    pid: int
    started_at: float
    now: float
    error: str

    @property
    def uptime_s(self) -> float:
        return max(0.0, self.now - self.started_at) if self.pid else 0.0


class Supervisor:
    """One supervisord. Every call is a connection of its own, so threads may share this."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = _UnixTransport(self._layout.control_socket)
        with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def is_running(self) -> bool:
        try:
            state = self._call("getState")
        except (OSError, http.client.HTTPException):
            return False
        return bool(state["statename"] == "RUNNING")

    def pid(self) -> int:
        return int(self._call("getPID"))

    def states(self) -> dict[str, ProgramState]:
        return {row["name"]: _program_state(row) for row in self._call("getAllProcessInfo")}

    def state(self, name: str) -> ProgramState:
        return _program_state(self._call("getProcessInfo", name))

    def start(self, name: str) -> None:
        """Spawn it now; a part that already runs stays as it is."""
        self._ignoring("startProcess", name, "ALREADY_STARTED")

    def stop(self, name: str) -> None:
        """Send its stop signal now, without waiting for the end."""
        self._ignoring("stopProcess", name, "NOT_RUNNING")

    def _ignoring(self, method: str, name: str, fault: str) -> None:
        try:
            self._call(method, name, False)
        except xmlrpc.client.Fault as error:
            if fault not in error.faultString:
                raise

    def reload(self) -> list[list[str]]:
        """Read the configuration again; returns the added, changed and removed programs."""
        added, changed, removed = self._call("reloadConfig")[0]
        return [list(added), list(changed), list(removed)]

    def add(self, name: str) -> None:
        self._call("addProcessGroup", name)

    def remove(self, name: str) -> None:
        self._call("removeProcessGroup", name)

    def shutdown(self) -> None:
        self._call("shutdown")


def _program_state(row: Mapping[str, Any]) -> ProgramState:
    return ProgramState(
        name=row["name"],
        state=row["statename"],
        pid=row["pid"],
        started_at=row["start"],
        now=row["now"],
        error=row["spawnerr"] or row["description"],
    )
