"""Runs the load generator beside us."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.load.plan import Plan, Sample, load_samples


@dataclass(frozen=True)
class Driver:
    """The process, and where it leaves its samples."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def until_said(self, word: bytes) -> None:
        """Wait for MEASURING or ENDED."""
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != word:
            raise RuntimeError("the load generator has failed; what it said is above")

    def samples(self) -> list[Sample]:
        """All that it has seen; when it has ended."""
        if self.process.wait() != 0:
            raise RuntimeError("the load generator has failed; what it said is above")
        return load_samples(self.output.read_bytes())


@contextmanager
def driving(plan: Plan) -> Iterator[Driver]:
    """It begins with the plan at once, and is gone at the end."""
    with TemporaryDirectory(prefix="ecom-bench-") as folder:
        output = Path(folder) / "samples.json"
        command: list[str | Path] = [sys.executable, "-m", "tests.load.driver", output]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdin is not None
                process.stdin.write(plan.dump() + b"\n")
                process.stdin.flush()
                yield Driver(process, output)
            finally:
                if process.poll() is None:
                    process.kill()
