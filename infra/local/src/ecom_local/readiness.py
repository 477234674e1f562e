"""Is a part ready to be used? One probe per kind of part, and a wait that gives up with a reason."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path

from ecom_local import kafka, postgres
from ecom_local.control import ProgramState
from ecom_local.errors import PartError
from ecom_local.parts import Part
from ecom_local.passwords import SUPERUSER
from ecom_local.ports import HOST, Ports

READY_LIMIT_S = 120

_POLL_S = 0.05
_HTTP_TIMEOUT_S = 3
_LOG_LINES = 15
# Supervisor has seen the program end. It would try again, but what ends at once will do so again.
DEAD = {"BACKOFF", "EXITED", "FATAL"}


def problem(part: Part, ports: Ports, passwords: Mapping[str, str]) -> str | None:
    """Why the part is not ready, or None if it is."""
    port = part.port_of(ports)
    if part.name == "postgres":
        return postgres.problem(port, passwords[SUPERUSER])
    if part.name == "kafka":
        return kafka.problem(port)
    return _http_problem(port)


def _http_problem(port: int) -> str | None:
    """With the standard library: a client that loads certificates each time would eat what it waits for."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_HTTP_TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"GET /health/ready: {error}"
    finally:
        connection.close()
    if answer.status == HTTPStatus.OK:
        return None
    return f"GET /health/ready answers {answer.status}: {text[:300]}"


def wait(
    part: Part,
    *,
    probe: Callable[[], str | None],
    state: Callable[[], ProgramState],
    log: Path,
    enough: threading.Event,
    limit_s: float = READY_LIMIT_S,
) -> float:
    """Wait until the part is ready; returns the seconds it took.

    Raises PartError with the end of its log as soon as the program ended, or at the limit. `enough` ends
    the wait early, when another part has failed.
    """
    begin = time.monotonic()
    while (reason := probe()) is not None:
        current = state()
        if current.state in DEAD:
            raise PartError(
                _report(part.name, f"ended right after its start ({current.error})", log)
            )
        if time.monotonic() - begin > limit_s:
            raise PartError(
                _report(part.name, f"was not ready within {limit_s:.0f} s: {reason}", log)
            )
        if enough.wait(_POLL_S):
            raise PartError(f"{part.name} was given up, since another part failed.")
    return time.monotonic() - begin


def _report(name: str, what: str, log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
    text = "\n".join(f"    {line}" for line in lines) or "    (nothing)"
    return (
        f"{name} {what}.\nThe end of its log:\n{text}\n"
        f"More: `scripts/logs {name}`. Then `scripts/up` tries again, `scripts/down` stops the rest."
    )
