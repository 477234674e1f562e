"""A seed, from the empty databases to the verdict."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from ecom_audit.invariants import Violation

from tests.simulation import checks
from tests.simulation.coverage import Meter
from tests.simulation.laboratory import Laboratory
from tests.simulation.world import World, in_charge


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    seed: int
    orders: int
    placed: int
    steps: int
    digest: str
    violations: Sequence[Violation]
    met: Counter[str]
    lines: Sequence[str]
    seconds: float

    def about(self, what: str) -> list[str]:
        return [line for line in self.lines if what in line]


def simulate(
    laboratory: Laboratory,
    seed: int,
    *,
    orders: int,
    say: Callable[[str], object] | None = None,
) -> Result:
    """Run the seed. The same seed and number of orders give the same run, to the last byte."""
    begin = time.monotonic()
    laboratory.empty()
    world = World(laboratory, seed=seed, orders=orders, say=say)
    meter = Meter()
    found: list[Violation] = []
    with in_charge(world, laboratory.without), closing(world):
        world.open_shop()
        world.live(midway=lambda: found.extend(checks.midway(world)))
        if not found:
            world.calm_down()
            found = checks.in_time(world)
        if not found:
            world.recover()
            found = checks.finally_(world)
    return Result(
        seed=seed,
        orders=orders,
        placed=len(world.shoppers.wishes),
        steps=world.trace.steps,
        digest=world.trace.digest(laboratory.rows()),
        violations=found,
        met=meter.paths(world),
        lines=world.trace.lines,
        seconds=time.monotonic() - begin,
    )
