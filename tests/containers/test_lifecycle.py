"""Stopping and starting in an orderly way, as operators do."""

from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from tests.containers import trading
from tests.containers.conftest import Measured
from tests.support.compose import APIS, LONG_RUNNING, WORKERS, Project
from tests.support.shop import Shop


def _restart(project: Project) -> None:
    project.compose("restart")


def _down_and_up(project: Project) -> None:
    project.compose("down")
    assert project.containers() == []


STOPPED_BY_THEMSELVES = {0, 143}
"""143 is SIGTERM's, passed on when all is done, as uvicorn and Java do; killed after the grace would be 137."""


@pytest.mark.parametrize("interrupt", [_restart, _down_and_up], ids=["restart", "down and up"])
def test_every_order_is_kept(
    interrupt: Callable[[Project], None], project: Project, shop: Shop, measured: Measured
) -> None:
    sku = shop.item(stock=20)
    methods = ["pm_card_visa", "pm_card_chargeDeclined", "pm_sim_timeoutThenSuccess"]
    placed = [shop.place({sku: 1}, payment_method=method)["id"] for method in methods]
    before = [shop.until_final(order_id) for order_id in placed]
    books = [_books(shop, order["id"]) for order in before]
    # On their way while everything ends.
    pending = [shop.place({sku: 1}, payment_method="pm_sim_slow")["id"] for _ in range(3)]

    begin = monotonic()
    interrupt(project)
    project.up()
    measured[f"{interrupt.__name__.strip('_')}, until all are healthy"] = (
        f"{monotonic() - begin:.1f} s"
    )

    assert [shop.order(order_id) for order_id in placed] == before
    assert [_books(shop, order_id) for order_id in placed] == books
    assert [shop.until_final(order_id)["status"] for order_id in pending] == ["confirmed"] * 3
    assert shop.stock(sku)["on_hand"] == 20 - 2 - 3


def test_stopping_under_load_ends_every_program_in_time_and_loses_nothing(
    project: Project, measured: Measured
) -> None:
    with trading.customers(project, seed=4) as load:
        load.until_more(10)
        begin = monotonic()
        project.compose("stop")
        took_s = monotonic() - begin
        states = {name: project.container(name).attrs["State"] for name in LONG_RUNNING}
        project.up()
        load.until_more(5)
    measured["stop, everything under load"] = f"{took_s:.1f} s"
    codes = {name: state["ExitCode"] for name, state in states.items()}
    assert set(codes.values()) <= STOPPED_BY_THEMSELVES, codes
    assert not any(state["OOMKilled"] for state in states.values())
    trading.check(project, load)
    for name in (*APIS, *WORKERS):
        assert not [line for line in project.logs(name) if "Traceback" in line], name


def _books(shop: Shop, order_id: str) -> tuple[Any, ...]:
    return shop.timeline(order_id), shop.reservation(order_id), shop.payments(order_id)
