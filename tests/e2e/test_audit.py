"""The auditor, on the running platform: under load and after it."""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from ecom_local.instance import Instance

from tests.checks.files import REPOSITORY
from tests.support.auditing import audit
from tests.support.shop import Shop

METHODS = (
    "pm_card_visa", "pm_card_visa", "pm_card_visa", "pm_card_chargeDeclined", "pm_sim_timeoutThenSuccess",
    "pm_sim_timeoutThenDecline", "pm_sim_neverSeen", "pm_sim_lateSuccess", "pm_sim_error",
)  # fmt: skip
BUYERS = 12


@contextmanager
def _load(shop: Shop, orders: int) -> Iterator[list[Future[str]]]:
    """Bought, out of stock, declined, cancelled at any moment; what will be the ids of the orders."""
    plenty, scarce = shop.item(stock=10_000), shop.item(stock=orders // 10)
    moments = random.Random(11)

    def buy(number: int) -> str:
        order = shop.place(
            {plenty: 1 + number % 3, (scarce if number % 4 == 0 else plenty): 1},
            customer=f"buyer-{number % BUYERS}",
            payment_method=METHODS[number % len(METHODS)],
        )
        if number % 3 == 0:
            # By chance before, between or after what the order and its participants do.
            time.sleep(moments.choice([0, 0.02, 0.05, 0.2, 1]))
            shop.cancel(order["id"], customer=f"buyer-{number % BUYERS}")
        return str(order["id"])

    with ThreadPoolExecutor(BUYERS) as buyers:
        yield [buyers.submit(buy, number) for number in range(orders)]


@pytest.mark.timeout(300)
def test_a_mixed_load_is_clean_while_it_runs_and_afterwards(shop: Shop, instance: Instance) -> None:
    looked = 0
    with _load(shop, 400) as placed:
        while not all(order.done() for order in placed):
            document = audit(instance)
            assert document["violations"] == []
            looked += 1
    assert looked >= 1
    for order in placed:
        shop.until_final(order.result(), timeout_s=120)
    document = audit(instance)
    assert document["violations"] == []
    assert document["orders"] >= 400


def test_an_audit_without_a_platform_says_that_nothing_runs(tmp_path: Any) -> None:
    result = subprocess.run(
        [REPOSITORY / "scripts" / "audit"],
        env=os.environ | {"ECOM_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "nothing runs here; start it with scripts/up" in result.stderr
