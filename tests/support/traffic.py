"""Customers who keep ordering whatever happens to the platform, and the books they check afterwards."""

import itertools
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import httpx
from ecom_local.platform import Shopfront

from tests.support.shop import Shop, until

METHODS: Final = (
    "pm_card_visa",
    "pm_card_visa",
    "pm_card_chargeDeclined",
    "pm_card_visa",
    "pm_sim_timeoutThenSuccess",
)
CANCEL_EVERY: Final = 7
STOCK: Final = 100_000
PRICE: Final = 500

PAUSE_S: Final = 0.1
REQUEST_TIMEOUT_S: Final = 10
# Longer than anything that is killed may take to come back.
GIVE_UP_AFTER_S: Final = 90
SETTLED_WITHIN_S: Final = 60


@dataclass
class Traffic:
    """Places one order after the other in a thread, each sent again with its key until it is acknowledged.

    Every seventh is cancelled at once, whatever comes of that. Leaving the `with` block stops it.
    """

    platform: Shopfront
    refused: Counter[str] = field(default_factory=Counter)
    """What kept customers waiting: status codes, and names of errors."""
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Key → order id."""

    def __post_init__(self) -> None:
        self.shop = Shop(self.platform, httpx.Client(timeout=REQUEST_TIMEOUT_S))
        self.customer = f"customer-{uuid4().hex[:12]}"
        self.sku = ""
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="traffic")

    def __enter__(self) -> Self:
        try:
            self.sku = self.shop.item(price=PRICE, stock=STOCK)
        except BaseException:
            self.shop.http.close()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(GIVE_UP_AFTER_S + REQUEST_TIMEOUT_S)
        self.shop.http.close()
        if kind is None and self._failure:
            raise self._failure

    def until_more(self, count: int) -> None:
        """Until so many further orders are acknowledged."""
        wanted = len(self.acknowledged) + count
        until(
            lambda: len(self.acknowledged) >= wanted or not self._thread.is_alive(),
            timeout_s=GIVE_UP_AFTER_S,
            about=lambda: f"{len(self.acknowledged)} of {wanted}; {self.refused}",
        )
        if self._failure:
            raise self._failure

    def check(self) -> int:
        """After the end: every order is final, and stock and money are what the orders say; how many."""
        with httpx.Client(timeout=REQUEST_TIMEOUT_S) as http:
            shop = Shop(self.platform, http)
            orders = [
                shop.until_final(order_id, timeout_s=SETTLED_WITHIN_S)
                for order_id in self.acknowledged.values()
            ]
            # Nothing lost, and nothing made twice.
            assert Counter(self._listed(shop)) == Counter(order["id"] for order in orders)
            assert len(orders) == len({order["id"] for order in orders})
            for order in orders:
                wanted = order["total"] if order["status"] == "confirmed" else 0
                assert shop.taken(order["id"]) == wanted, order
            self._check_stock(shop, orders)
        return len(orders)

    def _check_stock(self, shop: Shop, orders: list[dict[str, Any]]) -> None:
        sold = sum(order["status"] == "confirmed" for order in orders)
        wanted = {"on_hand": STOCK - sold, "reserved": 0, "available": STOCK - sold}

        def found() -> Mapping[str, int]:
            stock = shop.stock(self.sku)
            return {name: stock[name] for name in wanted}

        until(
            lambda: found() == wanted,
            timeout_s=SETTLED_WITHIN_S,
            about=lambda: f"{found()}, must be {wanted}",
        )

    def _listed(self, shop: Shop) -> list[str]:
        """The ids of all orders that the customer has, whether we know of them or not."""
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            answer = shop.http.get(
                shop.url("order", "/v1/orders"),
                params={"limit": 100, **cursor},
                headers=shop.auth(self.customer),
            )
            page = answer.raise_for_status().json()
            found += [order["id"] for order in page["items"]]
            if not page["next_cursor"]:
                return found
            cursor = {"cursor": page["next_cursor"]}

    def _run(self) -> None:
        try:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                order_id = self._place(METHODS[number % len(METHODS)])
                if number % CANCEL_EVERY == CANCEL_EVERY - 1:
                    self._cancel(order_id)
                self._stop.wait(PAUSE_S)
        except Exception as error:
            self._failure = error

    def _place(self, method: str) -> str:
        key = uuid4().hex

        def placed() -> bool:
            answer = self._send(key, method)
            if answer is None:
                return False
            assert answer.status_code == 201, answer.text
            self.acknowledged[key] = answer.json()["id"]
            return True

        until(placed, timeout_s=GIVE_UP_AFTER_S, about=lambda: self.refused, every_s=0.1)
        return self.acknowledged[key]

    def _send(self, key: str, method: str) -> httpx.Response | None:
        """None when it is to be sent again."""
        try:
            answer = self.shop.post(
                {self.sku: 1}, customer=self.customer, key=key, payment_method=method
            )
        except httpx.TransportError as error:
            self.refused[type(error).__name__] += 1
            return None
        if answer.status_code >= 500:
            self.refused[str(answer.status_code)] += 1
            return None
        return answer

    def _cancel(self, order_id: str) -> None:
        try:
            self.shop.cancel(order_id, customer=self.customer)
        except httpx.TransportError as error:
            self.refused[type(error).__name__] += 1
