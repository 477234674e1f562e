"""The operators' command line: which service a command goes to, and how things are said."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ecom_common.glance import LAG, lag_figure
from ecom_common.letter_commands import HEX_LINES, readable
from ecom_common.terminal import duration
from ecom_local.operations import ROUTES, UsageError, joined, main, route
from inventory_service import operations as inventory
from order_service import operations as order
from order_service.diagnosis import ASKED_OFTEN, Trouble, diagnose
from order_service.models import ORDERS, Order
from payment_service import operations as payment

SERVICES = {"order": order, "inventory": inventory, "payment": payment}
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


# ---- where a command goes


def test_every_command_of_a_service_has_its_route_and_every_route_its_command() -> None:
    offered = {
        name: {service for service, module in SERVICES.items() if name in _names(module)}
        for module in SERVICES.values()
        for name in _names(module)
    }
    assert offered == {name: set(found.services) for name, found in ROUTES.items()}
    for name, found in ROUTES.items():
        commands = [c for m in SERVICES.values() for c in m.COMMANDS if c.name == name]
        assert {command.needs_reason for command in commands} == {found.settles}, name


def _names(module: Any) -> set[str]:
    return {command.name for command in module.COMMANDS}


@pytest.mark.parametrize(
    ("line", "services", "command"),
    [
        ("stuck --json", ["order"], "stuck --json"),
        ("glance", ["order", "inventory", "payment"], "glance"),
        ("glance --service payment", ["payment"], "glance"),
        ("dead-letters list --service=order --limit 3", ["order"], "dead-letters list --limit 3"),
        ("dead-letters show payment/7 --raw", ["payment"], "dead-letters show payment/7 --raw"),
        ("dead-letters show 7 --service order", ["order"], "dead-letters show 7"),
        ("republish catalogue --all", ["inventory"], "republish catalogue --all"),
    ],
)
def test_a_command_goes_to_the_service_that_it_is_about(
    line: str, services: list[str], command: str
) -> None:
    assert route(line.split()) == (services, command.split())


def test_what_changes_something_is_said_to_be_of_whoever_is_logged_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUDO_USER", "olga")
    assert route(["lift", "--all", "--reason", "x"])[1][-2:] == ["--actor", "olga"]
    assert route(["lift", "--actor", "eve"])[1] == ["lift", "--actor", "eve"]
    assert route(["lift", "--actor=eve"])[1] == ["lift", "--actor=eve"]
    assert route(["stuck"])[1] == ["stuck"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense now", "no command 'nonsense'"),
        ("dead-letters burn", "no command 'dead-letters burn'"),
        ("dead-letters", "no command 'dead-letters'"),
        ("dead-letters show 7", "whose?"),
        ("dead-letters redrive --all --reason x", "whose?"),
        ("dead-letters redrive order/1 payment/2 --reason x", "order and payment"),
        ("dead-letters show order/1 --service payment", "order and payment"),
        ("glance --service warehouse", "one of order, inventory, payment"),
        ("glance --service", "one of order, inventory, payment"),
        ("stuck --service payment", "a command of the order service"),
    ],
)
def test_what_cannot_be_sent_anywhere_is_refused(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        route(line.split())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in ROUTES)


def test_what_several_services_say_is_joined() -> None:
    assert joined(["order", "payment"], ["a\n", "\n"], as_json=False) == "a"
    lists = joined(["order", "payment"], ["[1]", "[2, 3]"], as_json=True)
    assert json.loads(lists) == [1, 2, 3]
    objects = joined(["order", "payment"], ['{"a": 1}', ""], as_json=True)
    assert json.loads(objects) == {"order": {"a": 1}}  # what could not look has said so elsewhere


# ---- how things are said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (0, "0 s"), (59.4, "59 s"), (90, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(timedelta(seconds=seconds)) == said


def test_text_is_shown_as_text_and_anything_else_as_a_dump() -> None:
    assert readable('{"a": "ü"}\n'.encode()) == ['{"a": "ü"}']
    (line,) = readable(b"\0abc\xff")
    assert line.startswith("00000000  00 61 62 63 ff ")
    assert line.endswith(".abc.")
    assert readable(b"") == []
    assert readable(b"\x1b[31mred")[0].startswith("00000000  1b")  # no terminal is told anything
    long = readable(b"\0" * 16 * (HEX_LINES + 5))
    assert len(long) == HEX_LINES + 1
    assert long[-1] == "… 5 lines more; --raw has all of it"


def test_lag_is_worth_a_look_when_it_is_much_or_nobody_works_on_it() -> None:
    assert lag_figure({"a": 3, "b": 0}, 1).words == "3 messages (a 3), 1 consumer"
    assert lag_figure({"a": 3}, 2).hint == ""
    assert lag_figure({"a": 1000}, 2).hint == LAG
    assert lag_figure({}, 0).hint == LAG


# ---- what is the matter with an order


def an_order(**changes: Any) -> Order:
    values: dict[str, Any] = dict.fromkeys(ORDERS.columns.keys()) | {
        "id": "1",
        "status": "pending",
        "goal": "fulfil",
        "reason": None,
        "stock": "none",
        "stock_version": 0,
        "payment": "none",
        "payment_version": 0,
        "deadline_at": NOW + timedelta(minutes=10),
        "updated_at": NOW - timedelta(seconds=2),
        "asks": 0,
        "flagged_at": None,
        "resolved_at": None,
    }
    return Order(**(values | changes))


LONG_AGO = NOW - timedelta(minutes=5)
GIVEN_UP = {"goal": "abort", "reason": "timed_out", "status": "cancelling", "stock": "released"}
UNREFUNDED = GIVEN_UP | {"payment": "refund_failed", "payment_version": 4}


@pytest.mark.parametrize(
    ("changes", "unsent", "trouble"),
    [
        ({}, 0, None),
        ({}, 2, None),  # in this very moment
        ({"updated_at": LONG_AGO}, 2, Trouble.UNSENT),
        ({"asks": ASKED_OFTEN}, 0, Trouble.NO_ANSWER),
        ({"asks": ASKED_OFTEN - 1}, 0, None),
        ({"deadline_at": LONG_AGO, "updated_at": LONG_AGO}, 0, Trouble.OVERDUE),
        ({"deadline_at": LONG_AGO}, 0, None),  # cancelled a moment ago, long after its deadline
        ({"flagged_at": NOW}, 0, Trouble.FLAGGED),
        ({"flagged_at": NOW, **UNREFUNDED}, 0, Trouble.REFUND_FAILED),
        ({"flagged_at": NOW, "asks": 30, **UNREFUNDED}, 0, Trouble.FLAGGED),  # retried, and nobody answered
        ({"resolved_at": NOW, **UNREFUNDED}, 0, Trouble.RESOLVED),
        ({"status": "confirmed", "stock": "committed", "payment": "captured", "deadline_at": LONG_AGO,
          "updated_at": LONG_AGO}, 0, None),
    ],
)  # fmt: skip
def test_what_is_the_matter_with_an_order(
    changes: dict[str, Any], unsent: int, trouble: Trouble | None
) -> None:
    found = diagnose(an_order(**changes), unsent=unsent, now=NOW)
    assert (found and found.trouble) == trouble


def test_only_what_can_still_be_given_up_is_said_to_be_cancelled() -> None:
    wanted = diagnose(an_order(flagged_at=NOW), unsent=0, now=NOW)
    given_up = diagnose(an_order(**GIVEN_UP, payment="unknown", flagged_at=NOW), unsent=0, now=NOW)
    assert wanted is not None
    assert given_up is not None
    assert wanted.next == "lift 1, or cancel 1"
    assert given_up.next == "lift 1"
