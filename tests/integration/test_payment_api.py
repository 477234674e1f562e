"""Payments over HTTP, the app in this process on a database of its own."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ecom_common.database import Sessions
from ecom_common.ids import new_id
from ecom_local.instance import Instance
from ecom_local.tokens import AUDIENCE, ISSUER, jwks_path
from fastapi import FastAPI
from payment_service.app import create_app
from payment_service.settings import Settings
from pydantic import SecretStr

from tests.support.payments import AMOUNT, PaymentDesk, a_charge


class Client:
    """An HTTP client of an app in this process; each request runs the app's loop until its answer."""

    def __init__(self, app: FastAPI, *, headers: dict[str, str]) -> None:
        self._app = app
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://payments", headers=headers
        )

    def run(self, loop: asyncio.Runner) -> Iterator["Client"]:
        self._loop = loop
        lifespan = self._app.router.lifespan_context(self._app)
        loop.run(_started(lifespan))
        yield self
        loop.run(_ended(lifespan, self._http))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._loop.run(self._http.request(method, path, **options))


async def _started(lifespan: Any) -> None:
    await lifespan.__aenter__()


async def _ended(lifespan: Any, http: httpx.AsyncClient) -> None:
    await http.aclose()
    await lifespan.__aexit__(None, None, None)


@pytest.fixture
def desk(payment_sessions: Sessions, provider_url: str) -> PaymentDesk:
    return PaymentDesk(payment_sessions, provider_url)


@pytest.fixture
def http(instance: Instance, desk: PaymentDesk) -> Iterator[Client]:
    settings = Settings(
        environment="development",
        database_url=SecretStr(desk.database_url),
        database_pool_size=2,
        provider_database_url=SecretStr(desk.provider_url),
        jwt_jwks=str(jwks_path(instance.layout)),
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        http_port=1,
    )
    token = instance.token(sub="staff", scope="payments:read")
    client = Client(create_app(settings), headers={"Authorization": f"Bearer {token}"})
    with asyncio.Runner() as loop:
        yield from client.run(loop)


def problem_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_a_payment_shows_its_operations_and_its_ledger(desk: PaymentDesk, http: Client) -> None:
    order = desk.charge()
    desk.work()
    (payment,) = http.get("/v1/payments", params={"order_id": str(order)}).json()["items"]
    assert payment["order_id"] == str(order)
    assert (payment["state"], payment["version"]) == ("captured", 2)
    assert (payment["amount"], payment["captured"], payment["refunded"]) == (AMOUNT, AMOUNT, 0)
    (operation,) = payment["operations"]
    assert (operation["kind"], operation["state"]) == ("charge", "succeeded")
    (journal,) = payment["ledger"]
    assert journal["operation_id"] == operation["id"]
    assert journal["entries"] == [
        {"account": "provider_clearing", "amount": AMOUNT},
        {"account": "customer_receipts", "amount": -AMOUNT},
    ]
    assert http.get(f"/v1/payments/{payment['id']}").json() == payment


def test_neither_the_payment_method_nor_the_customer_is_shown(
    desk: PaymentDesk, http: Client
) -> None:
    order = desk.charge("pm_card_mastercard")
    text = http.get("/v1/payments", params={"order_id": str(order)}).text
    assert "pm_card" not in text
    assert "alice" not in text


def test_pages_go_from_the_newest_to_the_oldest_and_end(desk: PaymentDesk, http: Client) -> None:
    commands = [a_charge() for _ in range(5)]
    for command in commands:
        desk.give(command)
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        parameters = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = http.get("/v1/payments", params=parameters).json()
        seen += [item["order_id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert seen == [str(command.order_id) for command in reversed(commands)]


def test_the_etag_differs_whenever_the_representation_does(desk: PaymentDesk, http: Client) -> None:
    order = desk.charge("pm_sim_neverSeen")
    path = f"/v1/payments/{desk.intent(order).id}"
    tags = {http.get(path).headers["etag"] for _ in range(2)}
    assert len(tags) == 1
    desk.work()
    tags.add(http.get(path).headers["etag"])
    desk.cancel(order)
    tags.add(http.get(path).headers["etag"])
    assert len(tags) == 3


def test_what_is_not_there_or_not_valid_is_a_problem(http: Client) -> None:
    assert problem_of(http.get(f"/v1/payments/{new_id()}")) == (404, "not_found")
    assert problem_of(http.get("/v1/payments/nonsense")) == (422, "validation_failed")
    for query in ("limit=0", "limit=201", "cursor=nonsense", "order_id=nonsense"):
        assert problem_of(http.get(f"/v1/payments?{query}")) == (422, "validation_failed"), query
    assert problem_of(http.request("POST", "/v1/payments")) == (405, "method_not_allowed")
    assert http.get("/v1/payments", params={"order_id": str(new_id())}).json() == {
        "items": [],
        "next_cursor": None,
    }


def test_reading_needs_its_scope(instance: Instance, http: Client) -> None:
    other = instance.token(sub="alice", scope="orders:read")
    answer = http.get("/v1/payments", headers={"Authorization": f"Bearer {other}"})
    assert problem_of(answer) == (403, "forbidden")
    answer = http.get("/v1/payments", headers={"Authorization": ""})
    assert problem_of(answer) == (401, "unauthenticated")
