"""The inventory's HTTP API, as its clients meet it, over a real database."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecom_common import idempotency
from ecom_common.database import Sessions
from ecom_common.ids import new_id
from ecom_contracts.envelope import decode
from fastapi import FastAPI
from httpx import Client, Response
from inventory_service.app import create_app
from inventory_service.models import MAX_ON_HAND
from inventory_service.settings import Settings
from pydantic import SecretStr
from sqlalchemy import Engine, text

MUG = {"name": "Blue mug", "unit_price": 1249, "currency": "EUR"}
CARD = "4111 1111 1111 1111"
# A legal EAN-13 that passes the check of cards, too, and sixteen digits that are a test card's number: SKUs are taken as they are.
DIGIT_SKUS = ["4006381330060", "4111111111111111"]


class Api:
    """The api, with tokens for whatever a test asks."""

    def __init__(self, client: Client, key: Ed25519PrivateKey) -> None:
        self._client = client
        self._key = key

    def token(self, scope: str, subject: str = "seller") -> str:
        claims = {"iss": "tests", "aud": "ecom", "sub": subject, "scope": scope, "exp": 2**32}
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": "tests"})

    def call(
        self,
        method: str,
        path: str,
        *,
        scope: str | None = "inventory:read inventory:write",
        subject: str = "seller",
        headers: dict[str, str] | None = None,
        **sent: Any,
    ) -> Response:
        given = dict(headers or {})
        if scope is not None:
            given["Authorization"] = f"Bearer {self.token(scope, subject)}"
        return self._client.request(method, path, headers=given, **sent)

    def put(self, sku: str, **changes: Any) -> Response:
        return self.call("PUT", f"/v1/items/{sku}", json=MUG | changes)

    def move(
        self, sku: str, kind: str, quantity: int, *, key: str | None = None, **more: Any
    ) -> Response:
        subject = more.pop("subject", "seller")
        return self.call(
            "POST",
            f"/v1/items/{sku}/movements",
            subject=subject,
            headers={"Idempotency-Key": key or str(new_id())},
            json={"kind": kind, "quantity": quantity} | more,
        )

    def get(self, path: str, **more: Any) -> Response:
        return self.call("GET", path, **more)

    def stock(self, sku: str) -> tuple[int, int, int]:
        found = self.get(f"/v1/items/{sku}/stock").json()
        return found["on_hand"], found["reserved"], found["available"]


@pytest.fixture
def api(inventory_sessions: Sessions, tmp_path: Path) -> Iterator[Api]:
    key = Ed25519PrivateKey.generate()
    public = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key()))
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [public | {"kid": "tests"}]}))
    engine = inventory_sessions.kw["bind"]
    assert isinstance(engine, Engine)
    database = engine.url.set(drivername="postgresql")
    settings = Settings(
        environment="development",
        database_url=SecretStr(database.render_as_string(hide_password=False)),
        jwt_jwks=str(tmp_path / "jwks.json"),
        jwt_issuer="tests",
        jwt_audience="ecom",
        http_port=1,
    )
    with served(create_app(settings)) as url, Client(base_url=url, timeout=30) as client:
        yield Api(client, key)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of the app, which is served by a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert server.started
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def code(answer: Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def hold(sessions: Sessions, sku: str, quantity: int) -> None:
    with sessions.begin() as session:
        session.execute(
            text("UPDATE stock_levels SET reserved = :reserved WHERE sku = :sku"),
            {"reserved": quantity, "sku": sku},
        )


# ---- items


def test_an_item_is_listed_changed_and_left_alone(api: Api, inventory_sessions: Sessions) -> None:
    new = api.put("MUG", description="Stoneware.\n\tDishwasher safe.")
    assert (new.status_code, new.headers["etag"]) == (201, '"1"')
    assert new.json()["version"] == 1
    assert new.json()["active"] is True
    changed = api.put("MUG", unit_price=1300, active=False)
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert changed.json()["description"] is None, "what is left out is emptied"
    same = api.put("MUG", unit_price=1300, active=False)
    assert (same.status_code, same.json()) == (200, changed.json())
    assert api.get("/v1/items/MUG", scope=None).json() == changed.json(), "reading is public"
    assert api.stock("MUG") == (0, 0, 0)
    with inventory_sessions() as session:
        rows = session.execute(text("SELECT topic, key, payload FROM outbox ORDER BY id")).all()
    assert {(row.topic, row.key) for row in rows} == {("catalog", "MUG")}
    published = [decode(bytes(row.payload)) for row in rows]
    assert [message.sequence for message in published] == [1, 2]
    assert [message.data.active for message in published] == [True, False]  # type: ignore[attr-defined]


def test_if_match_guards_a_change(api: Api) -> None:
    def put(tag: str, sku: str = "MUG") -> Response:
        return api.call("PUT", f"/v1/items/{sku}", json=MUG, headers={"If-Match": tag})

    assert code(put('"1"')) == (412, "precondition_failed")
    assert code(put("*")) == (412, "precondition_failed")
    api.put("MUG", unit_price=1)
    assert put('"1"').status_code == 200
    assert code(put('"1"')) == (412, "precondition_failed")
    assert put("*").status_code == 200
    for never_ours in ('"x"', "2", 'W/"2"', '"2", "3"', '"-1"', '"' + "9" * 30 + '"'):
        assert code(put(never_ours)) == (412, "precondition_failed")


MALFORMED_CHANGES: list[dict[str, Any]] = [
    {"unit_price": 0},
    {"unit_price": "1"},
    {"unit_price": 1.5},
    {"unit_price": True},
    {"unit_price": 10**30},
    {"currency": "EURO"},
    {"currency": "XXX"},
    {"name": ""},
    {"name": "   "},
    {"name": "x" * 256},
    {"name": "a\0b"},
    {"name": "a\nb"},
    {"name": "a\x85b"},
    {"description": "a\0b"},
    {"description": "x" * 10_001},
    {"active": 1},
    {"active": None},
    {"price": 5},
]


def test_a_malformed_item_is_refused(api: Api) -> None:
    for change in MALFORMED_CHANGES:
        body = json.dumps(MUG | change)
        answer = api.call(
            "PUT", "/v1/items/MUG", content=body, headers={"Content-Type": "application/json"}
        )
        assert code(answer) == (422, "validation_failed"), change


def test_what_is_no_json_or_no_text_is_refused(api: Api) -> None:
    api.put("MUG")
    headers = {"Content-Type": "application/json", "Idempotency-Key": "1"}
    half_a_pair = json.dumps(MUG | {"description": "\ud800"})
    for body in (b"", b"{", b"\xff", half_a_pair, '{"kind": "received", "quantity": NaN}'):
        for method, path in (("PUT", "/v1/items/MUG"), ("POST", "/v1/items/MUG/movements")):
            answer = api.call(method, path, content=body, headers=headers)
            expected = (400, "malformed_body") if body else (422, "validation_failed")
            assert code(answer) == expected, (method, body)
    assert code(api.put("a%00b")) == (404, "not_found")
    assert api.get("/v1/items/MUG").json()["version"] == 1


def test_a_malformed_sku_is_refused(api: Api) -> None:
    for sku in ["a b", ".hidden", "-x", "x" * 65, "caf%C3%A9", "a%0Ab"]:
        assert code(api.put(sku)) == (422, "validation_failed")
        assert code(api.get(f"/v1/items/{sku}")) == (422, "validation_failed")


def test_a_legal_sku_is_taken(api: Api) -> None:
    for sku in ["a", "x" * 64, "A.b_c~d-e", *DIGIT_SKUS]:
        assert api.put(sku).status_code == 201
        assert api.get(f"/v1/items/{sku}").json()["sku"] == sku
        assert api.get("/v1/items", params={"q": sku}).json()["items"][0]["sku"] == sku


def test_card_numbers_are_refused_in_texts_and_never_repeated(api: Api) -> None:
    api.put("MUG")
    refused = [
        api.put("MUG", name=f"Mug {CARD}"),
        api.put("MUG", description=CARD),
        api.move("MUG", "received", 1, reason=f"paid with {CARD}"),
        api.move("MUG", "received", 1, key=CARD.replace(" ", "")),
    ]
    for answer in refused:
        assert code(answer) == (422, "card_number_refused")
        assert "4111" not in answer.text


def test_items_are_found_by_a_part_of_sku_or_name_page_by_page(api: Api) -> None:
    for sku, name in [("b-1", "Tea"), ("A-1", "Mug"), ("c_1", "Teapot"), ("cx1", "100% Wool")]:
        api.put(sku, name=name)

    def skus(**query: Any) -> list[str]:
        return [item["sku"] for item in api.get("/v1/items", params=query).json()["items"]]

    assert skus() == ["A-1", "b-1", "c_1", "cx1"]
    assert skus(q="tEA") == ["b-1", "c_1"]
    assert skus(q="a-") == ["A-1"]
    assert skus(q="_") == ["c_1"], "not a wildcard"
    assert skus(q="%") == ["cx1"]
    assert skus(q="\\") == []
    first = api.get("/v1/items", params={"limit": 3}, scope=None).json()
    assert [item["sku"] for item in first["items"]] == ["A-1", "b-1", "c_1"]
    rest = api.get("/v1/items", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert ([item["sku"] for item in rest["items"]], rest["next_cursor"]) == (["cx1"], None)
    for bad in ({"cursor": "x"}, {"limit": 0}, {"limit": 201}, {"q": "a\0"}, {"cursor": "MQ"}):
        assert code(api.get("/v1/items", params=bad)) == (422, "validation_failed")


# ---- stock


def test_movements_change_stock_and_are_listed_newest_first(api: Api) -> None:
    api.put("MUG")
    received = api.move("MUG", "received", 100)
    assert received.status_code == 201
    assert received.json()["on_hand_after"] == 100
    assert received.json()["actor"] == "seller"
    assert api.move("MUG", "adjusted", -2, reason="two broken").json()["on_hand_after"] == 98
    assert api.move("MUG", "counted", 97).json()["quantity"] == -1
    assert api.move("MUG", "counted", 97).json()["quantity"] == 0
    assert api.stock("MUG") == (97, 0, 97)
    first = api.get("/v1/items/MUG/movements", params={"limit": 3}).json()
    assert [(m["kind"], m["quantity"]) for m in first["items"]] == [
        ("counted", 0),
        ("counted", -1),
        ("adjusted", -2),
    ]
    query = {"limit": 3, "cursor": first["next_cursor"]}
    rest = api.get("/v1/items/MUG/movements", params=query).json()
    assert rest == {"items": [received.json()], "next_cursor": None}
    assert "key" not in json.dumps(first), "somebody else's idempotency keys are not shown"


MALFORMED_MOVEMENTS: list[Any] = [
    {"kind": "received", "quantity": 0},
    {"kind": "received", "quantity": -1},
    {"kind": "received", "quantity": MAX_ON_HAND + 1},
    {"kind": "received", "quantity": "1"},
    {"kind": "received", "quantity": 1.0},
    {"kind": "received", "quantity": True},
    {"kind": "received"},
    {"kind": "adjusted", "quantity": 0, "reason": "x"},
    {"kind": "adjusted", "quantity": 1},
    {"kind": "adjusted", "quantity": 1, "reason": ""},
    {"kind": "adjusted", "quantity": 1, "reason": " "},
    {"kind": "adjusted", "quantity": 1, "reason": None},
    {"kind": "counted", "quantity": -1},
    {"kind": "committed", "quantity": -1},
    {"kind": "stolen", "quantity": 1},
    {"quantity": 1},
    {"kind": "counted", "quantity": 1, "reason": "a\0"},
    {"kind": "counted", "quantity": 1, "cause": "x"},
    [],
    None,
]


def test_a_malformed_movement_is_refused(api: Api) -> None:
    api.put("MUG")
    for body in MALFORMED_MOVEMENTS:
        answer = api.call(
            "POST",
            "/v1/items/MUG/movements",
            content=json.dumps(body),
            headers={"Content-Type": "application/json", "Idempotency-Key": "1"},
        )
        assert code(answer) == (422, "validation_failed"), body
    assert api.stock("MUG") == (0, 0, 0)


def test_stock_never_falls_below_what_is_reserved(api: Api, inventory_sessions: Sessions) -> None:
    api.put("MUG")
    api.move("MUG", "received", 10)
    hold(inventory_sessions, "MUG", 4)
    assert code(api.move("MUG", "adjusted", -7, reason="x")) == (409, "stock_in_use")
    assert code(api.move("MUG", "counted", 3)) == (409, "stock_in_use")
    assert api.stock("MUG") == (10, 4, 6)
    assert api.move("MUG", "counted", 4).status_code == 201
    assert api.stock("MUG") == (4, 4, 0)


def test_stock_has_an_upper_bound(api: Api) -> None:
    api.put("MUG")
    assert api.move("MUG", "received", MAX_ON_HAND).status_code == 201
    assert code(api.move("MUG", "received", 1)) == (422, "validation_failed")
    assert api.stock("MUG") == (MAX_ON_HAND, 0, MAX_ON_HAND)


def test_a_retried_movement_is_recorded_once(api: Api, inventory_sessions: Sessions) -> None:
    api.put("MUG")
    first = api.move("MUG", "received", 5, key="k")
    assert "idempotency-replayed" not in first.headers
    again = api.move("MUG", "received", 5, key="k")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    reused = (422, "idempotency_key_reused")
    assert code(api.move("MUG", "received", 6, key="k")) == reused
    assert code(api.move("MUG", "counted", 5, key="k")) == reused
    assert code(api.move("MUG", "received", 5, key="k", reason="x")) == reused
    api.put("HAT")
    assert code(api.move("HAT", "received", 5, key="k")) == reused
    assert api.stock("MUG") == (5, 0, 5)
    assert api.move("MUG", "received", 5, key="k", subject="another").status_code == 201
    assert api.stock("MUG") == (10, 0, 10)


def test_the_ledger_remembers_keys_that_were_forgotten(
    api: Api, inventory_sessions: Sessions
) -> None:
    api.put("MUG")
    api.move("MUG", "received", 7)
    first = api.move("MUG", "counted", 5, key="k")
    with inventory_sessions.begin() as session:
        assert idempotency.prune(session, older_than=timedelta(0), most=100) == 2
    api.move("MUG", "received", 1)
    again = api.move("MUG", "counted", 5, key="k")
    assert (again.status_code, again.json()) == (201, first.json())
    assert code(api.move("MUG", "counted", 6, key="k")) == (422, "idempotency_key_reused")
    assert api.stock("MUG") == (6, 0, 6)


def test_a_refused_movement_can_be_mended_and_sent_with_its_key(api: Api) -> None:
    api.put("MUG")
    assert code(api.move("MUG", "adjusted", -1, reason="x", key="k")) == (409, "stock_in_use")
    assert api.move("MUG", "adjusted", 1, reason="x", key="k").status_code == 201


def test_twins_with_one_key_and_many_others_are_all_answered(api: Api) -> None:
    """Many at once share a few transactions; a bad one among them disturbs nobody."""
    api.put("MUG")
    answers: list[Response] = []

    def send(number: int) -> None:
        if number % 5 == 0:
            answers.append(api.move("MUG", "adjusted", -(10**9), reason="x"))
        elif number % 5 == 1:
            answers.append(api.move("NONE", "received", 1))
        elif number % 5 == 2:
            answers.append(api.move("MUG", "received", 1, key="twin"))
        else:
            answers.append(api.move("MUG", "received", 1))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [201] * 30 + [404] * 10 + [409] * 10
    assert api.stock("MUG") == (21, 0, 21)
    replays = [a for a in answers if "idempotency-replayed" in a.headers]
    assert len(replays) == 9


def test_a_movement_needs_a_key(api: Api) -> None:
    api.put("MUG")
    missing: tuple[dict[str, str], ...] = ({}, {"Idempotency-Key": ""})
    for key in missing:
        answer = api.call(
            "POST",
            "/v1/items/MUG/movements",
            json={"kind": "received", "quantity": 1},
            headers=key,
        )
        assert code(answer) == (400, "idempotency_key_missing")


# ---- the rest


def test_what_does_not_exist_is_not_found(api: Api) -> None:
    missing = [
        api.get("/v1/items/NONE"),
        api.get("/v1/items/NONE/stock"),
        api.get("/v1/items/NONE/movements"),
        api.move("NONE", "received", 1),
        api.get(f"/v1/reservations/{new_id()}"),
        api.get("/v1/nothing"),
    ]
    assert {code(answer) for answer in missing} == {(404, "not_found")}
    api.put("MUG")
    assert api.get("/v1/items/MUG/movements").json() == {"items": [], "next_cursor": None}


PROTECTED = [
    ("PUT", "/v1/items/MUG", "inventory:read"),
    ("POST", "/v1/items/MUG/movements", "inventory:read"),
    ("GET", "/v1/items/MUG/movements", "inventory:write"),
    ("GET", "/v1/items/MUG/stock", "inventory:write"),
    ("GET", "/v1/reservations/01939f6e-1c1a-7b5e-9c3d-2f6a4e8b1d70", "inventory:write"),
]


def test_a_token_with_the_right_scope_is_needed(api: Api) -> None:
    for method, path, other_scope in PROTECTED:
        assert code(api.call(method, path, scope=None)) == (401, "unauthenticated")
        assert code(api.call(method, path, scope=other_scope)) == (403, "forbidden")


def test_a_reservation_is_shown_whole(api: Api, inventory_sessions: Sessions) -> None:
    order = new_id()
    with inventory_sessions.begin() as session:
        session.execute(
            text(
                "INSERT INTO reservations (order_id, state, version, shortages) VALUES "
                """(:order, 'refused', 1, '[{"sku": "TEA", "requested": 2, "available": 1}]')"""
            ),
            {"order": order},
        )
        session.execute(
            text("INSERT INTO reservation_lines VALUES (:order, 'TEA', 2), (:order, 'MUG', 1)"),
            {"order": order},
        )
    shown = api.get(f"/v1/reservations/{order}").json()
    assert shown["order_id"] == str(order)
    assert (shown["state"], shown["version"], shown["expires_at"]) == ("refused", 1, None)
    assert shown["lines"] == [{"sku": "MUG", "quantity": 1}, {"sku": "TEA", "quantity": 2}]
    assert shown["shortages"] == [{"sku": "TEA", "requested": 2, "available": 1}]


def test_the_api_is_ready_when_the_schema_is_there(api: Api) -> None:
    ready = api.get("/health/ready", scope=None)
    assert (ready.status_code, ready.json()["checks"]) == (200, {"database": "ok"})
