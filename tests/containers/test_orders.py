"""The demo's orders, by the published ports, and what the logs say of them."""

import json
from typing import Any, Final

import pytest
from ecom_local.demo import STORIES, Outcome, Story

from tests.support.compose import APIS, WORKERS, Project
from tests.support.shop import Shop

STOCK: Final = 10
EVERY_LINE_HAS: Final = {"at", "level", "logger", "message", "service", "process"}


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.title)
def test_an_order_of_the_demo_ends_as_it_must(story: Story, shop: Shop) -> None:
    skus = {name: shop.item(stock=_stock(story, name)) for name in story.lines}
    order = shop.place(
        {skus[name]: quantity for name, quantity in story.lines.items()},
        payment_method=story.payment_method,
    )
    order = shop.until_final(order["id"])
    if story.cancelled_by_customer:
        assert shop.cancel(order["id"]).status_code == 202
        order = shop.until(order["id"], lambda o: o["status"] == "cancelled")
    assert Outcome.of(order) == story.ends
    for name, sku in skus.items():
        level = shop.stock(sku)
        on_hand = _stock(story, name) - story.sold.get(name, 0)
        assert (level["on_hand"], level["reserved"]) == (on_hand, 0)
    assert shop.taken(order["id"]) == (order["total"] if story.sold else 0)


@pytest.mark.parametrize("service", ["order", "inventory", "payment"])
def test_the_apis_answer_with_their_documents_and_their_health(service: str, shop: Shop) -> None:
    for path in ("/health/live", "/health/ready", "/openapi.json", "/docs"):
        assert shop.http.get(shop.url(service, path)).status_code == 200, path


@pytest.mark.parametrize("name", [*APIS, *WORKERS])
def test_every_line_of_our_logs_is_json_and_says_where_it_comes_from(
    name: str, project: Project
) -> None:
    lines = _lines(project, name)
    assert lines
    assert all(line.keys() >= EVERY_LINE_HAS for line in lines)
    assert {line["service"] for line in lines} == {f"{name.partition('_')[0]}_service"}


def test_an_order_is_found_in_the_logs_of_all_who_worked_on_it(
    project: Project, shop: Shop
) -> None:
    sku = shop.item(stock=1)
    order = shop.place({sku: 1}, payment_method="pm_sim_timeoutThenSuccess")
    shop.until_final(order["id"])
    found = {
        name: [line for line in _lines(project, name) if line.get("order_id") == order["id"]]
        for name in ("order_service", *WORKERS)
    }
    assert [line["message"] for line in found["order_service"]] == ["order placed"]
    assert [line["message"] for line in found["order_worker"]] == ["order confirmed"]
    assert [line["message"] for line in found["inventory_worker"]] == [
        "reservation held", "reservation committed",
    ]  # fmt: skip
    said = [line["message"] for line in found["payment_worker"]]
    assert [line for line in said if line.startswith("payment ")] == [
        "payment processing", "payment unknown", "payment captured",
    ]  # fmt: skip
    assert [line for line in said if "no answer" in line]
    traces = {entry["trace_id"] for entry in shop.timeline(order["id"])}
    assert {line["trace_id"] for lines in found.values() for line in lines} == traces


def _stock(story: Story, name: str) -> int:
    """Of what is out of stock there is none; of everything else enough."""
    sold_out = story.ends.reason == "out_of_stock" and name == list(story.lines)[-1]
    return 0 if sold_out else STOCK


def _lines(project: Project, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in project.logs(name)]
