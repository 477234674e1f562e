"""Children that tests start, stop, continue and kill."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


class Child:
    """`python -m module arguments…`; its output, both streams, line by line."""

    def __init__(self, module: str, *arguments: str, environment: dict[str, str] | None = None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        self._new: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def says(self, text: str, *, within_s: float = 20.0) -> str:
        """Wait for a new line with `text` in it; the line."""

        def look() -> str | None:
            while not self._new.empty():
                if text in (line := self._new.get()):
                    return line
            assert self._new or self.process.poll() is None, self.output
            return None

        found = eventually(look, within_s=within_s)
        assert found is not None
        return found

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(10)

    def wait(self, timeout_s: float) -> int:
        return self.process.wait(timeout_s)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append(line.rstrip("\n"))
            self._new.put(line.rstrip("\n"))


@contextmanager
def a_child(
    module: str, *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[Child]:
    child = Child(module, *arguments, environment=environment)
    try:
        yield child
    finally:
        child.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing and is not gone, as on a machine that has run out of memory."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
