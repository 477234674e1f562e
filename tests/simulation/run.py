"""A seed, from the empty databases to the verdict."""

import logging
import random as process_wide
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from ecom_audit.invariants import Violation
from ecom_common.crash_points import use_hook
from ecom_common.ids import use_id_source, uuid7
from ecom_common.safeguards import switch_off

from tests.simulation import checks
from tests.simulation.clock import Ids
from tests.simulation.coverage import Meter
from tests.simulation.laboratory import Laboratory
from tests.simulation.world import World


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
    with _in_charge(world, laboratory.without), closing(world):
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


@contextmanager
def _in_charge(world: World, without: frozenset[str]) -> Iterator[None]:
    """What is process-wide – ids, jitter, crash points, safeguards, logs – belongs to the run, for its time."""
    process_wide.seed(world.seed)
    use_id_source(Ids(world.clock, world.random))
    use_hook(world.at_point)
    switch_off(without)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
        switch_off(())
        use_hook(None)
        use_id_source(uuid7)
