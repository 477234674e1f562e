"""Some faults of the fault suite, others each day: nothing is lost, doubled or untrue. docs/chaos.md has them all."""

import datetime
from typing import Final

import pytest

from tests.chaos.campaign import describe, run_on
from tests.chaos.container_lab import ContainerLab
from tests.chaos.faults import FAULTS
from tests.chaos.rotation import of_the_day
from tests.containers.conftest import Measured
from tests.support.compose import Project

ORDERS: Final = 25


def test_the_faults_of_the_day_hold_under_load(project: Project, measured: Measured) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    faults = of_the_day(list(FAULTS.values()), today, "in containers")
    with ContainerLab(project, seed=today.toordinal(), say=print) as lab:
        results = list(run_on(lab, faults, orders=ORDERS, together=True))
    for result in results:
        measured[f"fault {result.fault.name}"] = (
            f"{result.orders} orders, fired {result.fired} times, recovered after "
            + ("–" if result.recovery_s is None else f"{result.recovery_s:.1f} s")
        )
    if not all(result.held for result in results):
        pytest.fail("\n".join(describe(result) for result in results))
    assert len(results) == len(faults)
