"""Many seeds, one after the other, until one of them shows a violation or time is up."""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ecom_local.instance import Instance
from ecom_local.ports import Ports

from tests.simulation.coverage import PATHS
from tests.simulation.laboratory import Laboratory
from tests.simulation.run import Result, simulate
from tests.support.databases import Databases

SEEDS: Final = 2**31
SHOWN: Final = 10
"""Violations, and lines about each of their orders twice as many."""


@dataclass
class Campaign:
    """What has been run so far."""

    laboratory: Laboratory
    orders: int
    runs: int = 0
    steps: int = 0
    placed: int = 0
    met: Counter[str] = field(default_factory=Counter)
    failed: Result | None = None

    def __post_init__(self) -> None:
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def run(self, seed: int, say: Callable[[str], object] | None = None) -> Result:
        result = simulate(self.laboratory, seed, orders=self.orders, say=say)
        self.runs += 1
        self.steps += result.steps
        self.placed += result.placed
        self.met.update(result.met)
        if result.violations:
            self.failed = result
        return result

    def summary(self) -> str:
        rate = f"{self.steps / self.seconds:.0f} steps and {self.placed / self.seconds:.0f} orders a second"
        return (
            f"{self.runs} runs, {self.steps} steps, {self.placed} orders in {self.seconds:.0f} s ({rate}); "
            f"{len(self.met)} of {len(PATHS)} rare paths met"
        )


def fresh_seeds() -> Iterator[int]:
    """Other ones each time."""
    source = random.SystemRandom()
    while True:
        yield source.randrange(SEEDS)


def explain(result: Result, *, without: frozenset[str]) -> str:
    """What is wrong with a run, what led there, and how to see it again."""
    lines = [
        f"seed {result.seed}: {len(result.violations)} violations",
        *(
            f"✗ {v.invariant}  {v.subject}  {v.left}  |  {v.right}"
            for v in result.violations[:SHOWN]
        ),
    ]
    subject = result.violations[0].subject.split(":")[0]  # of a key, its order
    about = result.about(subject)
    if about:
        lines.append(f"the last steps of {subject}:")
        lines += [f"  {line}" for line in about[-2 * SHOWN :]]
    options = "".join(f" --without {name}" for name in sorted(without))
    lines.append(f"again: scripts/simulate --seed {result.seed} --orders {result.orders}{options}")
    return "\n".join(lines)


@contextmanager
def own_databases() -> Iterator[Databases]:
    """A Postgres of its own, migrated, and gone afterwards."""
    with TemporaryDirectory(prefix="ecom-simulation-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)  # started by root, Postgres runs as a user of its own
        with Instance(home, ports=Ports.free(), say=_progress) as instance:
            instance.start("postgres")
            yield Databases.from_migrations(instance)


def _progress(text: str) -> None:
    sys.stderr.write(f"· {text}\n")
