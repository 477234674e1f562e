"""The load: customers in threads who buy, fail to buy, change their minds, and click twice.

Each request is sent again, with its key, until it is answered or a customer would have given up. Everything
goes into a `History`. How many customers there are and how long they pause is fixed, so that the load is
the same on every machine, and bounded.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from ecom_local.platform import Shopfront

from tests.chaos.customers import GIVE_UP_AFTER_S, Customers, Wish
from tests.chaos.history import Books, History
from tests.support.shop import CUSTOMER_SCOPES, STAFF_SCOPES, until

CUSTOMERS: Final = 6
PAUSE_S: Final = (0.1, 0.5)
"""Shortest and longest between two orders of a customer."""

PRICE: Final = 500
PLENTY: Final = 1_000_000
HOT_STOCK: Final = 15
"""Of a SKU that everybody wants."""

# One who pays; others fail, or make the provider fail.
GOOD: Final = "pm_card_visa"
DECLINED: Final = ("pm_card_chargeDeclined", "pm_card_chargeDeclinedInsufficientFunds")
ODD: Final = (
    "pm_sim_timeoutThenSuccess", "pm_sim_timeoutThenDecline", "pm_sim_neverSeen", "pm_sim_lateSuccess",
    "pm_sim_error", "pm_sim_refundTimeoutThenSuccess",
)  # fmt: skip
CANCEL_AFTER_S: Final = (0.0, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.5)

# How many of a hundred orders are of which kind.
MIX: Final = {
    "bought": 34,
    "odd payment": 10,
    "declined": 10,
    "out of stock": 8,
    "cancelled": 15,
    "sent twice": 8,
    "clicked twice": 5,
    "hot": 10,
}


class Load:
    """The customers of one run, and the goods they want. Inside of `with` they order."""

    def __init__(
        self,
        platform: Shopfront,
        random: random.Random,
        *,
        without: Collection[str] = frozenset(),
    ) -> None:
        """`without`: kinds of `MIX` that nobody is of."""
        assert set(without) <= MIX.keys(), without
        self._mix = {kind: share for kind, share in MIX.items() if kind not in without}
        self.history = History()
        self.customers = Customers(platform, self.history)
        self.shop = self.customers.shop
        self.random = random
        self.received: dict[str, int] = {}
        self._run = f"{random.getrandbits(40):010x}"
        self.names = [f"customer-{self._run}-{number}" for number in range(CUSTOMERS)]
        self._stop = threading.Event()
        self._failures: list[Exception] = []
        self._threads: list[threading.Thread] = []
        self._keys = itertools.count()
        self._wishes = itertools.count()

    def __enter__(self) -> Self:
        self.plenty = [self.item(PLENTY) for _ in range(3)]
        self.empty = self.item(0)
        self.hot = self.item(HOT_STOCK)
        self._authorise()
        self._threads = [
            threading.Thread(
                target=self._shop_on,
                args=(name, random.Random(self.random.getrandbits(64))),
                name=name,
                daemon=True,
            )
            for name in self.names
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(give_up=kind is not None)

    def close(self) -> None:
        """When nothing is asked of the platform any more; the books are read after the load."""
        self.shop.http.close()

    def stop(self, *, give_up: bool = False) -> None:
        """No new orders; what is under way is brought to its end, unless that is given up."""
        self._stop.set()
        if give_up:
            self.customers.given_up.set()
        for thread in self._threads:
            thread.join(GIVE_UP_AFTER_S)
        if self._failures and not give_up:
            raise self._failures[0]

    def item(self, stock: int, *, prefix: str = "SKU") -> str:
        """A new item with so many units; its SKU."""
        sku = f"{prefix}-{self._run}-{next(self._keys)}"
        self.shop.item(sku=sku, price=PRICE, stock=stock)
        self.received[sku] = stock
        return sku

    @property
    def placed(self) -> int:
        """How many orders are acknowledged."""
        return len(self.history.order_ids)

    def until_more(self, count: int, *, timeout_s: float = GIVE_UP_AFTER_S) -> None:
        """Until so many further orders are acknowledged."""
        wanted = self.placed + count
        until(
            lambda: self.placed >= wanted or bool(self._failures),
            timeout_s=timeout_s,
            about=lambda: f"{self.placed} of {wanted} orders; {dict(self.history.outcomes())}",
            every_s=0.1,
        )
        if self._failures:
            raise self._failures[0]

    def wish(
        self,
        lines: Mapping[str, int] | None = None,
        *,
        customer: str = "",
        method: str = GOOD,
        checkout: bool = False,
    ) -> Wish:
        """One that the faults place themselves; it is part of the history as all are."""
        return Wish(
            customer=customer or self.names[0],
            key=self.new_key(self.random),
            lines=lines or {self.plenty[0]: 1},
            method=method,
            checkout=self.new_key(self.random) if checkout else "",
        )

    def new_key(self, source: random.Random) -> str:
        return str(UUID(int=source.getrandbits(128), version=4))

    def books(self, taken: Mapping[str, int]) -> Books:
        """What the public APIs show now; `taken` is the money by order."""
        customers = sorted({answer.customer for answer in self.history})
        return Books(
            listed={customer: self._listed(customer) for customer in customers},
            taken=taken,
            stock={sku: self._level(sku) for sku in self.received},
            received=dict(self.received),
        )

    def _level(self, sku: str) -> dict[str, int]:
        stock = self.shop.stock(sku)
        return {name: stock[name] for name in ("on_hand", "reserved")}

    def _listed(self, customer: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            answer = self.shop.http.get(
                self.shop.url("order", "/v1/orders"),
                params={"limit": 100, **cursor},
                headers=self.shop.auth(customer),
            )
            page = answer.raise_for_status().json()
            found += page["items"]
            if not page["next_cursor"]:
                return found
            cursor = {"cursor": page["next_cursor"]}

    def _authorise(self) -> None:
        """All tokens at once: making one takes longer than an order."""
        for name in self.names:
            self.shop.auth(name, CUSTOMER_SCOPES)
        self.shop.auth("staff", STAFF_SCOPES)

    def _shop_on(self, customer: str, source: random.Random) -> None:
        try:
            while not self._stop.is_set():
                kind = source.choices(list(self._mix), list(self._mix.values()))[0]
                self._act(kind, customer, source)
                self._stop.wait(source.uniform(*PAUSE_S))
        except Exception as error:
            self._failures.append(error)

    def _act(self, kind: str, customer: str, source: random.Random) -> None:
        wish = self._wish_of(kind, customer, source)
        if kind == "sent twice":
            self._send_side_by_side(wish, wish)
        elif kind == "clicked twice":
            other = Wish(customer, self.new_key(source), wish.lines, wish.method, wish.checkout)
            self._send_side_by_side(wish, other)
        else:
            order_id = self.customers.place(wish)
            if kind == "cancelled" and order_id:
                self._stop.wait(source.choice(CANCEL_AFTER_S))
                self.customers.cancel(customer, order_id)

    def _wish_of(self, kind: str, customer: str, source: random.Random) -> Wish:
        skus = source.sample(self.plenty, source.randint(1, len(self.plenty)))
        lines = {sku: source.randint(1, 3) for sku in skus}
        method = GOOD
        if kind == "out of stock":
            lines[self.empty] = 1
        elif kind == "hot":
            lines[self.hot] = 1
        elif kind == "declined":
            method = source.choice(DECLINED)
        elif kind == "odd payment":
            method = source.choice(ODD)
        elif kind == "cancelled":
            method = source.choice((GOOD, GOOD, *ODD))
        checkout = self.new_key(source) if kind == "clicked twice" else ""
        return Wish(customer, self.new_key(source), lines, method, checkout)

    def _send_side_by_side(self, *wishes: Wish) -> None:
        threads = [
            threading.Thread(target=self._place_guarded, args=(wish,), daemon=True)
            for wish in wishes
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _place_guarded(self, wish: Wish) -> None:
        try:
            self.customers.place(wish)
        except Exception as error:
            self._failures.append(error)


def summary(outcomes: Counter[str]) -> str:
    """What requests came to, the most frequent first."""
    return ", ".join(f"{count} × {what}" for what, count in outcomes.most_common())


__all__ = ["MIX", "Load", "Wish", "summary"]
