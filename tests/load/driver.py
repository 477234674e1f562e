"""The load generator: a process of its own that reads a `Plan` from its input and writes samples into a file.

A closed loop keeps `clients` requests under way and never more; an open loop begins a turn when it is due,
whatever has become of those before, and counts its time from then. A 503 is obeyed: its client waits as long
as it is told and sends the same request again, with its key.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
import orjson
import uvloop

from tests.load.plan import ENDED, MEASURING, Plan, Sample, dump_samples
from tests.load.scenarios import SCENARIOS, Shop, SoldOut

TIMEOUT_S: Final = 30
MOST_UNDER_WAY: Final = 2_000
"""Of an open loop: beyond it the platform has not kept up, and the run says so by failing."""
CURRENCY: Final = "EUR"
METHOD: Final = "pm_card_visa"


class Till:
    """Sends requests and remembers what came of each."""

    def __init__(self, http: aiohttp.ClientSession, plan: Plan) -> None:
        self._http = http
        self._urls = [f"{url}/v1/orders" for url in plan.urls]
        self._heads = [{"Authorization": f"Bearer {token}"} for token in plan.tokens]
        self._turns = 0
        self.stopping = False
        self.samples: list[Sample] = []

    async def place(
        self, lines: Mapping[str, int], *, customer: int, key: str, due: float | None, kind: str
    ) -> str:
        body = orjson.dumps(
            {
                "currency": CURRENCY,
                "lines": [{"sku": sku, "quantity": count} for sku, count in lines.items()],
                "payment_method": METHOD,
            }
        )
        head = self._heads[customer] | {"Idempotency-Key": key, "Content-Type": "application/json"}
        url = self._next_url()
        while True:
            begin = due or time.time()
            async with self._http.post(url, data=body, headers=head) as answer:
                await answer.read()
                order_id = answer.headers.get("Location", "").rpartition("/")[2]
                self._note(kind, begin, answer.status, order_id)
                if answer.status != 503:
                    return order_id
                wait_s = float(answer.headers["Retry-After"])
            if self.stopping:
                return ""
            due = None
            await asyncio.sleep(wait_s)

    async def read(self, order_id: str, *, customer: int, due: float | None) -> None:
        begin = due or time.time()
        url = f"{self._next_url()}/{order_id}"
        async with self._http.get(url, headers=self._heads[customer]) as answer:
            await answer.read()
            self._note("get", begin, answer.status, "")

    def _next_url(self) -> str:
        self._turns += 1
        return self._urls[self._turns % len(self._urls)]

    def _note(self, kind: str, begin: float, status: int, order_id: str) -> None:
        self.samples.append(Sample(kind, begin, time.time() - begin, status, order_id))


async def drive(plan: Plan) -> list[Sample]:
    """The whole run: warm up, measure, let what is under way end."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
        till = Till(http, plan)
        shop = Shop(plan.skus, plan.hot_skus, len(plan.tokens))
        load = asyncio.create_task(
            _open_loop(plan, till, shop) if plan.rate else _closed_loop(plan, till, shop)
        )
        await asyncio.wait([load], timeout=plan.warm_up_s)
        _say(MEASURING)
        await asyncio.wait([load], timeout=plan.seconds)
        _say(ENDED)
        till.stopping = True
        await load
    return till.samples


async def _closed_loop(plan: Plan, till: Till, shop: Shop) -> None:
    async def client(number: int) -> None:
        source = random.Random(f"{plan.seed} {number}")
        turn = SCENARIOS[plan.scenario].turn
        try:
            while not till.stopping:
                await turn(till, shop, source, None)
        except SoldOut:
            return

    await asyncio.gather(*(client(number) for number in range(plan.clients)))


async def _open_loop(plan: Plan, till: Till, shop: Shop) -> None:
    """Arrivals of a Poisson process: customers do not agree on when to come."""
    assert plan.rate
    source = random.Random(plan.seed)
    turn = SCENARIOS[plan.scenario].turn
    under_way: set[asyncio.Task[None]] = set()
    due = time.time()
    while not till.stopping:
        due += source.expovariate(plan.rate)
        await asyncio.sleep(max(0.0, due - time.time()))
        task = asyncio.ensure_future(turn(till, shop, source, due))
        under_way.add(task)
        done = {task for task in under_way if task.done()}
        under_way -= done
        for task in done:
            task.result()
        if len(under_way) > MOST_UNDER_WAY:
            raise AssertionError(f"{len(under_way)} requests are under way: it does not keep up")
    await asyncio.gather(*under_way)


def _say(what: bytes) -> None:
    sys.stdout.buffer.write(what + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    plan = Plan.load(sys.stdin.buffer.readline())
    gc.disable()  # nothing of ours is cyclic, and its pauses would be measured as the platform's
    samples = uvloop.run(drive(plan))
    Path(sys.argv[1]).write_bytes(dump_samples(samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
