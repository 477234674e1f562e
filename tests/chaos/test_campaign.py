"""The framework itself: what it lists, what it chooses, and that a run which shows nothing fails."""

import datetime
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos import __main__ as command
from tests.chaos import safeguards
from tests.chaos.campaign import Result, Run, conclude, describe, table
from tests.chaos.fault import PLACES, Fault, Place
from tests.chaos.faults import FAULTS
from tests.chaos.history import Answer
from tests.chaos.lab import merged
from tests.chaos.load import MIX, Load
from tests.chaos.rotation import DAYS, is_in_rotation, of_the_day


def a_fault(name: str = "a") -> Fault:
    return Fault(name=name, shows="something", level="process", inject=print)


class NoPlatform:
    """Nobody asks it anything."""

    def url(self, service: str) -> str:
        raise AssertionError(service)

    def token(self, *, sub: str, scope: str, lifetime_s: int = 3600) -> str:
        raise AssertionError(sub)


def a_run(*, fired: int) -> Run:
    load = Load(NoPlatform(), random.Random(1))
    load.history.add(Answer("place", "alice", 1.0, 2.0, 201, {"id": "o1"}, key="k"))
    return Run(a_fault(), load, firings=Counter({"something": fired}), recovery_s=1.25)


def test_a_run_whose_fault_did_not_fire_fails() -> None:
    assert conclude(a_run(fired=1)).held
    result = conclude(a_run(fired=0))
    assert not result.held
    assert "the fault did not fire" in result.problems


@pytest.mark.parametrize("place", PLACES)
def test_every_fault_is_listed_with_what_it_shows_or_why_it_is_left_out(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--containers"] if place == "in containers" else []
    assert command.main(["--list", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    for (name, fault), line in zip(FAULTS.items(), lines, strict=True):
        assert line.split()[0] == name == fault.name
        assert line.endswith(fault.left_out.get(place, fault.shows))
        assert len(fault.shows) > 20


def test_every_fault_runs_somewhere_and_who_asks_for_it_elsewhere_is_told_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert [name for name, fault in FAULTS.items() if set(PLACES) <= set(fault.left_out)] == []
    assert command.main(["--fault", "broker-cut-off"]) == command.COULD_NOT_RUN
    assert FAULTS["broker-cut-off"].left_out["natively"] in capsys.readouterr().err


@pytest.mark.parametrize("place", PLACES)
def test_the_short_campaign_has_every_fault_of_its_levels_within_some_days(place: Place) -> None:
    first = datetime.date(2026, 1, 1)
    faults = list(FAULTS.values())
    dates = [first + datetime.timedelta(n) for n in range(DAYS[place])]
    days = [of_the_day(faults, date, place) for date in dates]
    seen = [fault.name for day in days for fault in day]
    assert sorted(seen) == sorted(f.name for f in faults if is_in_rotation(f, place))
    assert max(map(len, days)) - min(map(len, days)) <= 1


def test_every_safeguard_that_can_be_left_out_has_a_fault_that_shows_it() -> None:
    assert set(safeguards.SHOWN_BY.values()) <= FAULTS.keys()
    assert {"row-locks", "relay-lock", "oversell-check"} <= safeguards.SHOWN_BY.keys()


def test_what_is_found_without_a_safeguard_is_counted_by_its_kind() -> None:
    assert safeguards.kind_of("audit: reserved: MUG: 3 | 2") == "audit: reserved"
    assert safeguards.kind_of("catalog: MUG went back from 2 to 1") == "topic catalog"
    assert safeguards.kind_of("order 7 is still pending (held, none)") == "history"


def test_the_table_says_what_held_and_what_did_not() -> None:
    good = Result(a_fault(name="good"), orders=12, fired=3, recovery_s=1.25, problems=[])
    bad = Result(a_fault(name="bad"), orders=9, fired=0, recovery_s=None, problems=["x | y"])
    rows = table([good, bad]).splitlines()
    assert rows[0] == "| fault | orders | fired | recovery | invariants held |"
    assert rows[2] == "| `good` | 12 | 3 | 1.2 s | all 22, and every answer true |"
    assert rows[3] == "| `bad` | 9 | 0 | – | **no**: x / y |"
    assert describe(bad).startswith("✗ bad")


def test_the_tables_go_between_the_markers_of_a_document(tmp_path: Path) -> None:
    document = tmp_path / "chaos.md"
    blocks = [f"{begin}\nold\n{end}" for begin, end in command.MARKERS.values()]
    document.write_text("before\n{}\nbetween\n{}\nafter\n".format(*blocks))
    for seed, place in enumerate(PLACES):
        command.write_markdown(document, [conclude(a_run(fired=2))], seed=seed, place=place)
    text = document.read_text()
    natively, containers = text.split("between")
    assert natively.startswith("before\n")
    assert "Seed 0: 1 faults, 1 orders, fired 2 times." in natively
    assert "Seed 1: 1 faults, 1 orders, fired 2 times." in containers
    assert containers.endswith("after\n")
    assert "old" not in text


def test_the_document_has_the_markers_and_names_every_fault() -> None:
    text = (Path(__file__).parents[2] / "docs" / "chaos.md").read_text()
    assert [
        marker for pair in command.MARKERS.values() for marker in pair if marker not in text
    ] == []
    assert [name for name in FAULTS if f"`{name}`" not in text] == []


def test_settings_of_parts_come_on_top() -> None:
    assert merged({"a": {"X": "1", "Y": "1"}}, {"a": {"X": "2"}, "b": {}}) == {
        "a": {"X": "2", "Y": "1"},
        "b": {},
    }


def test_the_mix_is_of_a_hundred() -> None:
    assert sum(MIX.values()) == 100
