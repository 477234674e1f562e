"""Many at once: nothing oversold, nothing doubled, nothing stuck."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import uuid4

from ecom_common.database import sqlalchemy_url
from ecom_local.instance import Instance
from sqlalchemy import create_engine, text

from tests.support.shop import Shop


def _finals(shop: Shop, ids: list[str]) -> Counter[str]:
    return Counter(shop.until_final(order_id, timeout_s=60)["status"] for order_id in ids)


def test_of_100_buyers_of_10_units_exactly_10_get_one(shop: Shop) -> None:
    sku = shop.item(stock=10)
    with ThreadPoolExecutor(50) as buyers:
        orders = list(
            buyers.map(lambda n: shop.place({sku: 1}, customer=f"buyer-{n % 10}"), range(100))
        )
    assert _finals(shop, [o["id"] for o in orders]) == {"confirmed": 10, "rejected": 90}
    assert shop.stock(sku)["on_hand"] == 0
    assert shop.stock(sku)["reserved"] == 0
    assert sum(shop.taken(o["id"]) for o in orders) == 10 * 500


def test_baskets_in_opposite_order_share_their_stock_without_deadlock(
    shop: Shop, instance: Instance
) -> None:
    skus = [shop.item(stock=10) for _ in range(4)]
    deadlocks = _deadlocks(instance)

    def buy(number: int) -> dict[str, Any]:
        basket = skus if number % 2 else skus[::-1]
        return shop.place(dict.fromkeys(basket, 1), customer=f"buyer-{number % 10}")

    with ThreadPoolExecutor(50) as buyers:
        orders = list(buyers.map(buy, range(100)))
    assert _finals(shop, [o["id"] for o in orders]) == {"confirmed": 10, "rejected": 90}
    assert [shop.stock(sku)["available"] for sku in skus] == [0, 0, 0, 0]
    assert _deadlocks(instance) == deadlocks


def _deadlocks(instance: Instance) -> int:
    """How many the server has had to resolve; those that were retried too."""
    engine = create_engine(sqlalchemy_url(instance.postgres_url("postgres", "postgres")))
    with engine.connect() as connection:
        count = connection.scalar(text("SELECT sum(deadlocks) FROM pg_stat_database"))
    engine.dispose()
    assert isinstance(count, Decimal)
    return int(count)


def test_50_posts_with_one_key_are_one_order(shop: Shop) -> None:
    sku = shop.item(stock=50)
    key = uuid4().hex
    with ThreadPoolExecutor(50) as clicks:
        answers = list(clicks.map(lambda _: shop.post({sku: 1}, key=key), range(50)))
    assert {answer.status_code for answer in answers} == {201}
    [order_id] = {answer.json()["id"] for answer in answers}
    assert shop.until_final(order_id)["status"] == "confirmed"
    assert shop.stock(sku)["on_hand"] == 49


def test_a_double_click_with_two_keys_and_one_checkout_is_one_order(shop: Shop) -> None:
    sku = shop.item(stock=9)
    checkout = uuid4().hex
    with ThreadPoolExecutor(8) as clicks:
        answers = list(clicks.map(lambda _: shop.post({sku: 1}, checkout_id=checkout), range(8)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 7}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = shop.post({sku: 2}, checkout_id=checkout)
    assert (other.status_code, other.json()["code"]) == (409, "checkout_reused")


def test_whoever_is_told_that_their_order_is_being_cancelled_finds_it_cancelled(shop: Shop) -> None:
    sku = shop.item(stock=200)
    methods = [
        "pm_card_visa", "pm_card_visa", "pm_card_chargeDeclined", "pm_sim_timeoutThenSuccess",
        "pm_sim_timeoutThenDecline", "pm_sim_neverSeen", "pm_sim_lateSuccess",
    ]  # fmt: skip
    moments = random.Random(7)

    def buy_and_cancel(number: int) -> tuple[str, int]:
        order = shop.place({sku: 1}, payment_method=methods[number % len(methods)])
        pause_s = moments.choice([0, 0, 0.02, 0.05, 0.1, 0.2, 0.6])
        # The moment at which a customer changes their mind; not a wait for an effect.
        time.sleep(pause_s)
        return order["id"], shop.cancel(order["id"]).status_code

    with ThreadPoolExecutor(12) as customers:
        results = list(customers.map(buy_and_cancel, range(70)))
    for order_id, status in results:
        wanted = "rejected" if status == 409 else "cancelled"
        assert status in (200, 202, 409)
        order = shop.until(order_id, lambda o, s=wanted: o["status"] == s, timeout_s=60)  # type: ignore[misc]
        assert shop.taken(order_id) == 0
        assert order["stock"] in ("released", "restocked", "refused")
    stock = shop.stock(sku)
    assert (stock["on_hand"], stock["reserved"]) == (200, 0)
