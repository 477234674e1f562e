"""What scripts/demo --without shows: harm without the safeguard, and none with it.

One of the experiments a day, because each starts two platforms; the simulation tries all of them each time.
"""

from datetime import UTC, datetime

import pytest
from ecom_common.safeguards import SAFEGUARDS
from ecom_local.experiments import EXPERIMENTS, run
from rich.console import Console

TODAY = sorted(EXPERIMENTS)[datetime.now(UTC).toordinal() % len(EXPERIMENTS)]


def test_every_experiment_is_about_a_safeguard() -> None:
    assert EXPERIMENTS.keys() <= SAFEGUARDS.keys()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("left_out", [True, False], ids=["left out", "in its place"])
def test_only_without_the_safeguard_there_is_harm(
    left_out: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(TODAY, Console(highlight=False), left_out=left_out)
    shown = capsys.readouterr().out
    assert ("✗" in shown) == left_out, shown
    assert code == (0 if left_out else 1)
