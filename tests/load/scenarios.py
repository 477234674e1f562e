"""What a client does in one turn. Which goods and which customer are drawn from its seed."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

HOT_BUYERS: Final = 500
HOT_STOCK: Final = 100
BASKET_LINES: Final = 10
SHARED_SKUS: Final = 40
"""Baskets are drawn from so few that most of them want what another wants at the same time."""
READ_SHARE: Final = 0.8
READABLE: Final = 1_000
"""Reads are of one of the last so many orders."""


class Till(Protocol):
    """Where the requests go; `due` is when the turn should have begun, None for now."""

    async def place(
        self, lines: Mapping[str, int], *, customer: int, key: str, due: float | None, kind: str
    ) -> str:
        """The order's id; empty when it was refused."""

    async def read(self, order_id: str, *, customer: int, due: float | None) -> None: ...


@dataclass
class Shop:
    """What all clients of a run share."""

    skus: list[str]
    hot_skus: list[str]
    customers: int
    placed: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=READABLE))
    wanted: itertools.count[int] = field(default_factory=itertools.count)


Turn = Callable[[Till, Shop, random.Random, float | None], Awaitable[None]]


async def uniform(till: Till, shop: Shop, source: random.Random, due: float | None) -> None:
    """An order of two lines."""
    lines = {sku: source.randint(1, 3) for sku in source.sample(shop.skus, 2)}
    await _order(till, shop, source, due, lines)


async def baskets(till: Till, shop: Shop, source: random.Random, due: float | None) -> None:
    """An order of ten lines, in any order, of goods that many want."""
    skus = source.sample(shop.skus[:SHARED_SKUS], BASKET_LINES)
    await _order(till, shop, source, due, {sku: source.randint(1, 3) for sku in skus})


async def hot(till: Till, shop: Shop, source: random.Random, due: float | None) -> None:
    """One unit of what everybody wants at the moment: 500 buyers for each 100 units."""
    number = next(shop.wanted) // HOT_BUYERS
    if number >= len(shop.hot_skus):
        raise SoldOut
    await _order(till, shop, source, due, {shop.hot_skus[number]: 1})


async def retried(till: Till, shop: Shop, source: random.Random, due: float | None) -> None:
    """An order that is sent twice with one key: half of them side by side, half after the answer."""
    customer, key = source.randrange(shop.customers), _key(source)
    lines = {sku: source.randint(1, 3) for sku in source.sample(shop.skus, 2)}
    first = till.place(lines, customer=customer, key=key, due=due, kind="post")
    again = till.place(lines, customer=customer, key=key, due=due, kind="replay")
    if source.random() < 0.5:
        ids = list(await asyncio.gather(first, again))
    else:
        ids = [await first, await again]
    if len({order_id for order_id in ids if order_id}) > 1:
        raise AssertionError(f"one key made two orders: {ids}")


async def mix(till: Till, shop: Shop, source: random.Random, due: float | None) -> None:
    """Four reads for each order."""
    if source.random() < READ_SHARE and shop.placed:
        await get(till, shop, source, due)
    else:
        await uniform(till, shop, source, due)


async def get(till: Till, shop: Shop, source: random.Random, due: float | None) -> None:
    """A look at an order; there is one after the first turn."""
    if not shop.placed:
        await uniform(till, shop, source, due)
        return
    customer, order_id = shop.placed[source.randrange(len(shop.placed))]
    await till.read(order_id, customer=customer, due=due)


async def _order(
    till: Till, shop: Shop, source: random.Random, due: float | None, lines: Mapping[str, int]
) -> None:
    customer = source.randrange(shop.customers)
    order_id = await till.place(lines, customer=customer, key=_key(source), due=due, kind="post")
    if order_id:
        shop.placed.append((customer, order_id))


def _key(source: random.Random) -> str:
    return str(UUID(int=source.getrandbits(128), version=4))


class SoldOut(Exception):
    """There is nothing left to want."""


@dataclass(frozen=True)
class Scenario:
    """A kind of load."""

    turn: Turn
    shows: str


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "uniform": Scenario(uniform, "two-line orders over 1,000 SKUs"),
    "baskets": Scenario(baskets, "ten-line orders that share 40 SKUs"),
    "hot": Scenario(hot, "one SKU after the other, 500 buyers for 100 units each"),
    "retried": Scenario(retried, "every order is sent twice with one key"),
    "mix": Scenario(mix, "four GETs for each order"),
    "get": Scenario(get, "GET of an order"),
}
