"""The simulation holds, replays, goes where it is rare to be – and finds what is wrong when something is."""

import time
from collections import Counter
from contextlib import closing
from typing import Final

import pytest

from tests.simulation.campaign import Campaign, explain, fresh_seeds
from tests.simulation.coverage import PATHS
from tests.simulation.laboratory import Laboratory
from tests.simulation.run import simulate
from tests.support.databases import Databases

FRESH_SECONDS: Final = 60
ORDERS: Final = 20
FEW_ORDERS: Final = 12
FIXED_SEEDS: Final = range(1, 17)
"""Among them every rare path has to be met."""
FINDS: Final = {
    "outbox": range(1, 17),
    "versions": range(1, 17),
    "tombstones": range(1, 17),
    "idempotency": range(1, 17),
    "provider-key": range(1, 17),
    # Rarer: a card that never answers, of an order that nobody cancels.
    "deadline": range(8, 32),
}
"""Safeguards, and the seeds among which one has to show that it is missing."""

# A busy machine is slow, and a simulated clock does not care.
pytestmark = pytest.mark.timeout(900)


def test_the_same_seed_is_the_same_run_to_the_last_byte(laboratory: Laboratory) -> None:
    first = simulate(laboratory, 7, orders=8)
    # What the machine did meanwhile does not matter, nor what another run has left.
    simulate(laboratory, 8, orders=2)
    again = simulate(laboratory, 7, orders=8)
    assert list(again.lines) == list(first.lines)
    assert again.digest == first.digest
    assert again.steps > 300


def test_another_seed_is_another_run(laboratory: Laboratory) -> None:
    assert simulate(laboratory, 9, orders=2).digest != simulate(laboratory, 10, orders=2).digest


def test_a_few_seeds_meet_every_rare_path(laboratory: Laboratory) -> None:
    met: Counter[str] = Counter()
    for seed in FIXED_SEEDS:
        result = simulate(laboratory, seed, orders=ORDERS)
        assert not result.violations, explain(result, without=frozenset())
        met.update(result.met)
        if met.keys() == PATHS.keys():
            return
    pytest.fail(f"no seed has met: {', '.join(sorted(PATHS.keys() - met.keys()))}")


def test_everything_holds_for_a_minute_of_fresh_seeds(laboratory: Laboratory) -> None:
    campaign = Campaign(laboratory, ORDERS)
    deadline = time.monotonic() + FRESH_SECONDS
    for seed in fresh_seeds():
        print("seed", seed)
        result = campaign.run(seed)
        assert not result.violations, explain(result, without=frozenset())
        if time.monotonic() > deadline:
            break
    print(campaign.summary())


@pytest.mark.parametrize("name", FINDS)
def test_without_a_safeguard_it_finds_a_violation(databases: Databases, name: str) -> None:
    with closing(Laboratory(databases, without=frozenset({name}))) as laboratory:
        assert any(simulate(laboratory, seed, orders=FEW_ORDERS).violations for seed in FINDS[name])
