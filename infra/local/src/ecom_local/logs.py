"""Showing the parts' logs: the last lines, and what is added as it comes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ecom_local.containers import Containers, service_names
from ecom_local.errors import LocalError
from ecom_local.parts import PARTS
from ecom_local.paths import REPOSITORY, Layout

_POLL_S = 0.2
_TAIL_BYTES = 256 * 1024
# Shown first, shown last, or known from the part's name.
_IN_HEAD = {"at", "level", "message", "stack", "service", "process", "color_message"}


def show(
    layout: Layout, parts: Sequence[str], *, lines: int, follow: bool, raw: bool = False
) -> None:
    """Print the logs of the given parts, or of all; prefixed with the part's name if there are several.

    The services' JSON is turned into text, unless `raw` is asked for.
    """
    known = [*PARTS, "supervisord"]
    for part in parts:
        if part not in known:
            raise LocalError(f"There is no part {part!r}; choose from {', '.join(known)}.")
    names = list(parts) or known
    tails = {name: _Tail(layout.log(name)) for name in names}
    if not any(tail.path.exists() for tail in tails.values()):
        raise LocalError("There are no logs yet; scripts/up starts the platform.")
    width = max(map(len, names)) if len(names) > 1 else 0
    for name, tail in tails.items():
        _print(name, width, tail.last(lines), raw)
    while follow:
        for name, tail in tails.items():
            _print(name, width, tail.new(), raw)
        sys.stdout.flush()
        time.sleep(_POLL_S)


def show_containers(
    containers: Containers, parts: Sequence[str], *, lines: int, follow: bool, raw: bool = False
) -> None:
    """The same of containers; docker collects and prefixes them."""
    known = containers.services()
    names = [name for part in parts for name in service_names(part, known)]
    command = containers.logs_command(names, lines=lines, follow=follow)
    with subprocess.Popen(
        command.arguments,
        env=command.whole_environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout or ():
            head, bar, text = line.rstrip("\n").partition(" | ")
            for shown in [text] if raw or not bar else readable(text):
                print(f"{head}{bar}{shown}", flush=follow)


def _print(name: str, width: int, lines: Iterable[str], raw: bool) -> None:
    prefix = f"{name:<{width}} | " if width else ""
    for line in lines:
        for shown in [line] if raw else readable(line):
            sys.stdout.write(f"{prefix}{shown}\n")


def readable(line: str) -> list[str]:
    """A JSON log line as time, level, message and the other fields; a stack trace on lines of its own."""
    try:
        fields = json.loads(line) if line.startswith("{") else None
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or "message" not in fields:
        return [line]
    head = f"{str(fields.get('at', ''))[:23]} {str(fields.get('level', '')).upper():<7} {fields['message']}"
    others = " ".join(f"{key}={value}" for key, value in fields.items() if key not in _IN_HEAD)
    stack = str(fields.get("stack", "")).splitlines()
    return [f"{head}  {others}".rstrip(), *(f"    {frame}" for frame in stack)]


class _Tail:
    """One log file, across its rotations."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0
        self._inode = 0
        self._rest = b""

    def last(self, count: int) -> Iterator[str]:
        if self.path.exists():
            status = self.path.stat()
            self._inode, self._position = status.st_ino, status.st_size
            with self.path.open("rb") as file:
                file.seek(max(0, status.st_size - _TAIL_BYTES))
                text = file.read(min(status.st_size, _TAIL_BYTES))
            yield from text.decode(errors="replace").splitlines()[-count:]

    def new(self) -> Iterator[str]:
        if not self.path.exists():
            return
        status = self.path.stat()
        if status.st_ino != self._inode or status.st_size < self._position:
            self._inode, self._position = status.st_ino, 0
        with self.path.open("rb") as file:
            file.seek(self._position)
            content = self._rest + file.read()
            self._position = file.tell()
        *whole, self._rest = content.split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
