"""Builders for the order service's tests."""

from typing import Any

from ecom_common.database import Sessions
from ecom_common.idempotency import fingerprint
from ecom_common.ids import new_id
from order_service import repository
from order_service.commands import PlaceOrder
from order_service.service import OrderDesk
from order_service.settings import Settings


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "environment": "development",
        "database_url": "postgresql://nobody@127.0.0.1/none",
        "jwt_jwks": "none",
        "jwt_issuer": "tests",
        "jwt_audience": "tests",
        "http_port": 1,
    }
    return Settings(**(values | changes))


def a_desk(**changes: Any) -> OrderDesk:
    return OrderDesk(settings(**changes))


def a_wish(quantities: dict[str, int], **changes: Any) -> PlaceOrder:
    """A placement with fresh ids and keys; `changes` overrides any field."""
    values: dict[str, Any] = {
        "order_id": new_id(),
        "customer_id": "alice",
        "idempotency_key": str(new_id()),
        "fingerprint": fingerprint(quantities),
        "currency": "EUR",
        "quantities": quantities,
        "payment_method": "pm_card_visa",
        "checkout_id": None,
        "expected_total": None,
        "traceparent": None,
    }
    return PlaceOrder(**(values | changes))


def catalogue_of(sessions: Sessions, **prices: int) -> None:
    """Make these SKUs known, at these prices."""
    with sessions.begin() as session:
        repository.save_catalogue(
            session,
            [
                {
                    "sku": sku,
                    "name": sku.title(),
                    "unit_price": price,
                    "currency": "EUR",
                    "active": True,
                    "version": 1,
                }
                for sku, price in prices.items()
            ],
        )
