"""A shop in front of the running platform: what a client of the three HTTP APIs does."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx
from ecom_local.platform import Shopfront

FINAL: Final = ("confirmed", "rejected", "cancelled")
STAFF_SCOPES: Final = (
    "orders:read orders:write orders:admin inventory:read inventory:write payments:read"
)
CUSTOMER_SCOPES: Final = "orders:read orders:write"


@dataclass
class Shop:
    """Talks to one platform as customers and as staff. Not for use by several threads at once,
    except for `place` and `cancel`: httpx clients are thread-safe."""

    platform: Shopfront
    http: httpx.Client = field(
        default_factory=lambda: httpx.Client(
            timeout=40, limits=httpx.Limits(max_connections=150, max_keepalive_connections=150)
        )
    )
    _tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    def url(self, service: str, path: str) -> str:
        return self.platform.url(service) + path

    def auth(self, sub: str, scope: str = CUSTOMER_SCOPES) -> dict[str, str]:
        if (sub, scope) not in self._tokens:
            self._tokens[sub, scope] = self.platform.token(sub=sub, scope=scope)
        return {"Authorization": f"Bearer {self._tokens[sub, scope]}"}

    @property
    def staff(self) -> dict[str, str]:
        return self.auth("staff", STAFF_SCOPES)

    def item(self, *, price: int = 500, stock: int = 0, prefix: str = "SKU", **fields: Any) -> str:
        """A new item with so much stock, known to the order service; its SKU."""
        sku = fields.pop("sku", None) or f"{prefix}-{uuid4().hex[:12]}"
        body = {"name": f"Item {sku[:20]}", "unit_price": price, "currency": "EUR", **fields}
        answer = self.http.put(
            self.url("inventory", f"/v1/items/{sku}"), json=body, headers=self.staff
        )
        assert answer.status_code in (200, 201), answer.text
        if stock:
            self.receive(sku, stock)
        self.wait_until_orderable(sku)
        return sku

    def receive(self, sku: str, quantity: int) -> None:
        answer = self.http.post(
            self.url("inventory", f"/v1/items/{sku}/movements"),
            json={"kind": "received", "quantity": quantity},
            headers=self.staff | {"Idempotency-Key": uuid4().hex},
        )
        assert answer.status_code == 201, answer.text

    def wait_until_orderable(self, sku: str) -> None:
        """Until the catalogue has reached the order service: an order that nobody can pay says so."""

        def known() -> bool:
            answer = self.post({sku: 1}, customer="catalogue-probe", expected_total=10**15)
            assert answer.status_code in (409, 422), answer.text
            return bool(answer.json()["code"] != "unknown_sku")

        until(known, timeout_s=15)

    def post(
        self,
        quantities: dict[str, int],
        *,
        customer: str = "alice",
        key: str | None = None,
        prefer: str | None = None,
        **fields: Any,
    ) -> httpx.Response:
        """POST /v1/orders, whatever comes of it."""
        headers = self.auth(customer) | {"Idempotency-Key": key or uuid4().hex}
        if prefer:
            headers["Prefer"] = prefer
        body = {
            "currency": "EUR",
            "lines": [{"sku": sku, "quantity": count} for sku, count in quantities.items()],
            "payment_method": "pm_card_visa",
            **fields,
        }
        return self.http.post(self.url("order", "/v1/orders"), json=body, headers=headers)

    def place(self, quantities: dict[str, int], **options: Any) -> dict[str, Any]:
        answer = self.post(quantities, **options)
        assert answer.status_code == 201, answer.text
        order: dict[str, Any] = answer.json()
        return order

    def order(self, order_id: str) -> dict[str, Any]:
        return self._get("order", f"/v1/orders/{order_id}")

    def timeline(self, order_id: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._get("order", f"/v1/orders/{order_id}/timeline")[
            "items"
        ]
        return entries

    def cancel(self, order_id: str, *, customer: str = "alice") -> httpx.Response:
        return self.http.post(
            self.url("order", f"/v1/orders/{order_id}/cancel"), headers=self.auth(customer)
        )

    def stock(self, sku: str) -> dict[str, Any]:
        return self._get("inventory", f"/v1/items/{sku}/stock")

    def reservation(self, order_id: str) -> dict[str, Any]:
        return self._get("inventory", f"/v1/reservations/{order_id}")

    def payments(self, order_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self._get("payment", f"/v1/payments?order_id={order_id}")[
            "items"
        ]
        return items

    def taken(self, order_id: str) -> int:
        """What the customer has paid in the end: captured less refunded."""
        return sum(p["captured"] - p["refunded"] for p in self.payments(order_id))

    def until_final(self, order_id: str, *, timeout_s: float = 30) -> dict[str, Any]:
        return self.until(order_id, lambda o: o["status"] in FINAL, timeout_s=timeout_s)

    def until(
        self, order_id: str, condition: Callable[[dict[str, Any]], bool], *, timeout_s: float = 30
    ) -> dict[str, Any]:
        until(
            lambda: condition(self.order(order_id)),
            timeout_s=timeout_s,
            about=lambda: self.order(order_id),
        )
        return self.order(order_id)

    def _get(self, service: str, path: str) -> dict[str, Any]:
        answer = self.http.get(self.url(service, path), headers=self.staff)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document


def until(
    condition: Callable[[], bool],
    *,
    timeout_s: float,
    about: Callable[[], object] = lambda: "",
    every_s: float = 0.02,
) -> None:
    """Wait for `condition` with a deadline; what is `about` it goes into the failure."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {about()}"
        time.sleep(every_s)
