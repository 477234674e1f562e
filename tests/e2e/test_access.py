"""Who may do what, asked of the running services."""

import time
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.shop import Shop

CLAIMS: dict[str, Any] = {
    "sub": "mallory",
    "iss": "ecom-development",
    "aud": "ecom",
    "scope": "orders:read orders:write orders:admin",
}


def _get_orders(shop: Shop, token: str) -> tuple[int, str | None]:
    answer = shop.http.get(
        shop.url("order", "/v1/orders"), headers={"Authorization": f"Bearer {token}"}
    )
    return answer.status_code, answer.headers.get("WWW-Authenticate")


def test_a_foreign_order_does_not_exist(shop: Shop) -> None:
    order = shop.place({shop.item(stock=1): 1}, customer="alice")
    for path in ("", "/timeline", "/events"):
        answer = shop.http.get(
            shop.url("order", f"/v1/orders/{order['id']}{path}"), headers=shop.auth("bob")
        )
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert shop.cancel(order["id"], customer="bob").status_code == 404
    mine = shop.http.get(shop.url("order", "/v1/orders"), headers=shop.auth("bob")).json()
    assert order["id"] not in [item["id"] for item in mine["items"]]


@pytest.mark.parametrize(
    ("service", "method", "path"),
    [
        ("order", "GET", "/v1/orders"),
        ("inventory", "GET", "/v1/items/x/stock"),
        ("inventory", "GET", "/v1/items/x/movements"),
        ("inventory", "GET", f"/v1/reservations/{uuid4()}"),
        ("payment", "GET", "/v1/payments"),
        ("payment", "GET", f"/v1/payments/{uuid4()}"),
    ],
)
def test_a_missing_scope_is_forbidden_and_a_missing_token_unauthenticated(
    shop: Shop, service: str, method: str, path: str
) -> None:
    answer = shop.http.request(method, shop.url(service, path), headers=shop.auth("eve", "none"))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    answer = shop.http.request(method, shop.url(service, path))
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_expired_foreign_and_forged_tokens_are_refused(shop: Shop) -> None:
    good = {**CLAIMS, "exp": int(time.time()) + 600}
    stranger = Ed25519PrivateKey.generate()
    forged = jwt.encode(good, stranger, "EdDSA", headers={"kid": "development"})
    unsigned = jwt.encode(good, "", "none", headers={"kid": "development"})
    expired = shop.platform.token(sub="alice", scope="orders:read", lifetime_s=-3600)
    for token in (forged, unsigned, expired, "nonsense", "a.b.c"):
        status, challenge = _get_orders(shop, token)
        assert status == 401
        assert challenge is not None
    assert _get_orders(shop, shop.platform.token(sub="alice", scope="orders:read"))[0] == 200
