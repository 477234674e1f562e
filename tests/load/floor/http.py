"""An empty FastAPI app on the server that ours have, which validates the same body and answers the same bytes."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

import httpx
from ecom_local.ports import HOST, Ports

from tests.load.driving import driving
from tests.load.plan import ENDED, MEASURING, Plan
from tests.load.platform import BenchPlatform
from tests.load.running import Percentiles
from tests.support.shop import Shop, until

SECONDS: Final = 5.0
WARM_UP_S: Final = 1.0
CLIENTS: Final = 32
READY_WITHIN_S: Final = 20.0


@dataclass(frozen=True)
class HttpFloor:
    """Of one process, with `CLIENTS` requests under way."""

    posts_per_s: float
    post: Percentiles


def a_real_answer(platform: BenchPlatform) -> bytes:
    """The body of an order as the order service shows it."""
    shop = Shop(platform)
    try:
        [row] = platform.sql("orderdb", "SELECT id::text, customer_id FROM orders LIMIT 1")
        answer = shop.http.get(shop.url("order", f"/v1/orders/{row[0]}"), headers=shop.auth(row[1]))
        return answer.raise_for_status().content
    finally:
        shop.http.close()


def measure(platform: BenchPlatform, answer: bytes) -> HttpFloor:
    port = Ports.free().order
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.load.floor.empty_app", str(port)], stdin=subprocess.PIPE
    )
    try:
        assert process.stdin is not None
        process.stdin.write(answer)
        process.stdin.close()
        url = f"http://{HOST}:{port}"
        until(lambda: _answers(url), timeout_s=READY_WITHIN_S, about=lambda: "the empty app")
        return _drive(url, platform.customers())
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/").status_code == 404
    except httpx.TransportError:
        return False


def _drive(url: str, tokens: list[str]) -> HttpFloor:
    plan = Plan(
        scenario="uniform",
        urls=[url],
        tokens=tokens,
        skus=[f"SKU-{number:04}" for number in range(1_000)],
        hot_skus=[],
        clients=CLIENTS,
        warm_up_s=WARM_UP_S,
        seconds=SECONDS,
        seed=1,
    )
    with driving(plan) as driver:
        driver.until_said(MEASURING)
        begin = time.time()
        driver.until_said(ENDED)
        end = time.time()
        samples = driver.samples()
    within = [s.seconds for s in samples if begin <= s.end < end]
    found = Percentiles.of_seconds(within)
    assert found is not None
    return HttpFloor(len(within) / (end - begin), found)
