"""The platform's public HTTP APIs as the demo uses them: one method per request, errors as one exception."""

from __future__ import annotations

import uuid
from typing import Any

import httpx

from ecom_local.errors import LocalError
from ecom_local.platform import Shopfront

CUSTOMER_SCOPES = "orders:read orders:write"
OPERATOR_SCOPES = "inventory:read inventory:write"

_TIMEOUT_S = 10

Json = dict[str, Any]


class Refused(LocalError):
    """An API answered with a problem (RFC 9457)."""

    def __init__(self, answer: httpx.Response) -> None:
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        self.code = str(problem.get("code", ""))
        text = problem.get("detail") or problem.get("title") or answer.text[:300]
        request = answer.request
        super().__init__(
            f"{request.method} {request.url} answered {answer.status_code} {self.code}: {text}"
        )


class Shop:
    """A customer's view of the order service and an operator's view of the inventory."""

    def __init__(self, platform: Shopfront, *, customer: str) -> None:
        # Proxies of the environment are not meant for 127.0.0.1.
        self._http = httpx.Client(timeout=_TIMEOUT_S, trust_env=False)
        self._orders = f"{platform.url('order')}/v1/orders"
        self._items = f"{platform.url('inventory')}/v1/items"
        self._customer = _bearer(platform.token(sub=customer, scope=CUSTOMER_SCOPES))
        self._operator = _bearer(platform.token(sub="demo-operator", scope=OPERATOR_SCOPES))

    def close(self) -> None:
        self._http.close()

    # ---- orders

    def place(self, *, lines: dict[str, int], payment_method: str, currency: str, key: str) -> Json:
        body = {
            "currency": currency,
            "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()],
            "payment_method": payment_method,
        }
        return self._send("POST", self._orders, self._customer, json=body, key=key)

    def order(self, order_id: str) -> Json:
        return self._send("GET", f"{self._orders}/{order_id}", self._customer)

    def cancel(self, order_id: str) -> Json:
        return self._send(
            "POST", f"{self._orders}/{order_id}/cancel", self._customer, key=new_key()
        )

    def timeline(self, order_id: str) -> list[Json]:
        """All of it so far, oldest first."""
        items: list[Json] = []
        cursor: str | None = None
        while True:
            parameters = {"cursor": cursor} if cursor else {}
            page = self._send(
                "GET", f"{self._orders}/{order_id}/timeline", self._customer, params=parameters
            )
            items += page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return sorted(items, key=lambda item: int(item["version"]))

    # ---- inventory

    def put_item(self, sku: str, body: Json) -> Json:
        return self._send("PUT", f"{self._items}/{sku}", self._operator, json=body)

    def stock(self, sku: str) -> Json:
        return self._send("GET", f"{self._items}/{sku}/stock", self._operator)

    def receive(self, sku: str, quantity: int) -> None:
        body = {"kind": "received", "quantity": quantity}
        self._send(
            "POST", f"{self._items}/{sku}/movements", self._operator, json=body, key=new_key()
        )

    def _send(
        self,
        method: str,
        url: str,
        authorization: dict[str, str],
        *,
        key: str | None = None,
        **options: Any,
    ) -> Json:
        headers = authorization | ({"Idempotency-Key": key} if key else {})
        answer = self._http.request(method, url, headers=headers, **options)
        if answer.is_error:
            raise Refused(answer)
        content: Json = answer.json() if answer.content else {}
        return content


def new_key() -> str:
    return str(uuid.uuid4())


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
