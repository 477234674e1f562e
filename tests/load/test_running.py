"""The bench itself, in short, on a platform that has a hundred thousand orders already."""

import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.load.measuring import whole_reads
from tests.load.plan import Plan
from tests.load.platform import BenchPlatform, preload, stock
from tests.load.running import Result, audit, run
from tests.load.scenarios import HOT_BUYERS, HOT_STOCK
from tests.support.homes import a_home
from tests.support.shop import Shop

STORED: Final = 100_000
# What grows for ever, or for as long as ids and keys are kept.
GROWS: Final = frozenset(
    {
        *(f"orderdb.{name}" for name in ("orders", "order_lines", "order_history", "idempotency_keys", "inbox")),
        *(f"inventorydb.{name}" for name in ("reservations", "reservation_lines", "movements", "inbox")),
        *(f"paymentdb.{name}" for name in ("payments", "operations", "ledger_journals", "ledger_entries", "inbox")),
        *(f"providerdb.{name}" for name in ("charges", "refunds")),
    }
)  # fmt: skip
LOOKED_AFTER_S: Final = 12.0
"""Every sweep, observer and housekeeper has had its turn by then."""


@pytest.fixture(scope="module")
def platform() -> Iterator[BenchPlatform]:
    with a_home() as home, BenchPlatform(home) as platform:
        preload(platform, STORED, print)
        yield platform


def a_plan(platform: BenchPlatform, scenario: str, *, hot: list[str] | None = None) -> Plan:
    skus = [f"GOOD-{number}" for number in range(60)]
    shop = Shop(platform)
    stock(shop, [*skus, *(hot or [])], HOT_STOCK if hot else 1_000_000, print)
    shop.http.close()
    return Plan(
        scenario=scenario,
        urls=platform.order_urls,
        tokens=platform.customers(),
        skus=skus,
        hot_skus=hot or [],
        clients=16,
        warm_up_s=1.0,
        seconds=6.0,
        seed=time.time_ns(),
    )


def measured(result: Result) -> bool:
    """It has figures of everything, and nothing was wrong."""
    assert result.problems == []
    assert result.confirmed_per_s > 0
    assert result.post is not None
    assert result.confirmed is not None
    assert result.messages > 4
    assert {"order-api", "order-worker", "postgres", "kafka"} <= result.cpu_ms.keys()
    assert result.statements.keys() == {"orderdb", "inventorydb", "paymentdb", "providerdb"}
    return True


@pytest.mark.timeout(400)
def test_no_table_that_grows_is_read_whole(platform: BenchPlatform) -> None:
    result = run(platform, a_plan(platform, "mix"), print)
    assert measured(result)
    assert not GROWS & result.whole_reads.keys()

    before = whole_reads(platform)
    shop = Shop(platform)
    order = shop.place({"GOOD-1": 1}, customer="customer-1", checkout_id="basket")
    assert shop.post({"GOOD-1": 1}, customer="customer-1", checkout_id="basket").status_code == 200
    assert shop.timeline(order["id"])
    assert shop.cancel(order["id"], customer="customer-1").is_success
    for query in ("", "?status=rejected", "?status=pending", "?limit=100"):
        answer = shop.http.get(
            shop.url("order", f"/v1/orders{query}"), headers=shop.auth("customer-1")
        )
        assert answer.is_success
    shop.http.close()
    time.sleep(LOOKED_AFTER_S)
    after = whole_reads(platform)
    assert [table for table in sorted(GROWS) if after[table] > before[table]] == []


@pytest.mark.timeout(200)
def test_the_last_units_of_what_everybody_wants_are_sold_once(platform: BenchPlatform) -> None:
    hot = [f"HOT-{number}" for number in range(40)]
    result = run(platform, a_plan(platform, "hot", hot=hot), print)
    assert measured(result)
    assert result.deadlocks == 0
    assert result.orders >= HOT_BUYERS
    assert audit(platform).violations == []
