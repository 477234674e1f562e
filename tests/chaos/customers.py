"""What customers do at the door: ask, again until they are answered, and note everything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from ecom_local.platform import Shopfront

from tests.chaos.history import Answer, History, Operation
from tests.support.shop import Shop

REQUEST_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 0.2
GIVE_UP_AFTER_S: Final = 180.0
"""Longer than any fault lasts: nobody goes away without an answer."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to order."""

    customer: str
    key: str
    lines: Mapping[str, int]
    method: str
    checkout: str = ""


class Customers:
    """What customers do at the door: ask, until they are answered, and note it. Threads share it."""

    def __init__(self, platform: Shopfront, history: History) -> None:
        self.shop = Shop(
            platform,
            httpx.Client(
                timeout=REQUEST_TIMEOUT_S,
                limits=httpx.Limits(max_connections=150, max_keepalive_connections=150),
            ),
        )
        self.history = history
        self.given_up = threading.Event()
        """Set: nobody asks again any more."""

    def place(self, wish: Wish) -> str:
        """Order until it is answered; the order's id, or "" when it was refused or given up."""
        answer = self._until_answered(lambda: self.place_once(wish))
        return str(answer.document["id"]) if answer.is_promise else ""

    def place_once(self, wish: Wish, *, prefer: str | None = None) -> Answer:
        extra = {"checkout_id": wish.checkout} if wish.checkout else {}
        return self._ask(
            "place",
            lambda: self.shop.post(
                dict(wish.lines),
                customer=wish.customer,
                key=wish.key,
                prefer=prefer,
                payment_method=wish.method,
                **extra,
            ),
            customer=wish.customer,
            key=wish.key,
            checkout=wish.checkout,
            lines=wish.lines,
            method=wish.method,
        )

    def cancel(self, customer: str, order_id: str) -> Answer:
        """Cancel until that is answered."""
        return self._until_answered(
            lambda: self._ask(
                "cancel",
                lambda: self.shop.cancel(order_id, customer=customer),
                customer=customer,
                order_id=order_id,
            )
        )

    def look(self, customer: str, order_id: str) -> Answer:
        def get() -> httpx.Response:
            url = self.shop.url("order", f"/v1/orders/{order_id}")
            return self.shop.http.get(url, headers=self.shop.auth(customer))

        return self._ask("look", get, customer=customer, order_id=order_id)

    def _until_answered(self, ask: Callable[[], Answer]) -> Answer:
        deadline = time.monotonic() + GIVE_UP_AFTER_S
        while (answer := ask()).is_open and time.monotonic() < deadline:
            if self.given_up.wait(RETRY_S):
                break
        return answer

    def _ask(
        self,
        operation: Operation,
        send: Callable[[], httpx.Response],
        *,
        customer: str,
        **about: Any,
    ) -> Answer:
        begin = time.monotonic()
        try:
            response = send()
            status, document = response.status_code, response.json()
        except httpx.TransportError as error:
            status, document = 0, {"code": type(error).__name__}
        except ValueError:
            document = {"code": "no JSON"}
        answer = Answer(operation, customer, begin, time.monotonic(), status, document, **about)
        self.history.add(answer)
        return answer
