"""What scripts/demo --without shows: harm without the safeguard, and none with it.

One of them a day, because each starts a platform; the simulation tries all of them each time.
"""

from datetime import UTC, datetime

import pytest
from ecom_common.safeguards import SAFEGUARDS
from ecom_local.experiments import EXPERIMENTS, run
from rich.console import Console

DAY = datetime.now(UTC).toordinal()
TODAY = sorted(EXPERIMENTS)[DAY % len(EXPERIMENTS)]
LEFT_OUT = DAY // len(EXPERIMENTS) % 2 == 0
"""In one week the safeguard is missing, in the next it is in its place."""


def test_every_experiment_is_about_a_safeguard() -> None:
    assert EXPERIMENTS.keys() <= SAFEGUARDS.keys()


@pytest.mark.timeout(400)
def test_only_without_the_safeguard_there_is_harm(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(TODAY, Console(highlight=False), left_out=LEFT_OUT)
    shown = capsys.readouterr().out
    assert ("✗" in shown) == LEFT_OUT, shown
    assert code == (0 if LEFT_OUT else 1)
