"""The order service as its clients meet it: status codes, headers, refusals."""

import json
import logging
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import pytest
from ecom_common.ids import new_id
from ecom_local.instance import Instance
from httpx import Response
from order_service import repository

from tests.support.databases import Databases
from tests.support.orders import (
    A_TRACE,
    STAFF,
    Api,
    a_body,
    an_api,
    an_item,
    catalogue_of,
    database_away,
    stock,
)
from tests.support.shop import until

CARD: Final = "4111 1111 1111 1111"
# A legal EAN-13 that passes the check of cards, too, and a short Visa number: SKUs are taken as they are.
EANS: Final = ("4006381330060", "4222222222222")


@pytest.fixture(scope="module")
def api(instance: Instance, databases: Databases) -> Iterator[Api]:
    """One for all tests here: each has customers of its own."""
    with an_api(instance, databases) as running:
        yield running


@pytest.fixture
def customer() -> str:
    return f"customer-{new_id()}"


def code(answer: Response, status: int) -> str:
    """The code of a problem document with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    return str(document["code"])


# ---- placing


def test_an_order_that_is_placed_has_an_address_a_version_and_its_prices(
    api: Api, customer: str
) -> None:
    lines = [{"sku": "mug", "quantity": 2}, {"sku": "tea", "quantity": 1}]
    answer = api.post(a_body(lines=lines, checkout_id="basket-1"), customer=customer)
    assert answer.status_code == 201
    order = answer.json()
    assert answer.headers["Location"] == f"/v1/orders/{order['id']}"
    assert answer.headers["ETag"] == '"1"'
    assert not {"Idempotency-Replayed", "Preference-Applied"} & set(answer.headers)
    assert UUID(order.pop("id")).version == 7
    assert order.pop("created_at") == order.pop("updated_at")
    assert order == {
        "checkout_id": "basket-1",
        "customer_id": customer,
        "status": "pending",
        "reason": None,
        "currency": "EUR",
        "total": 3000,
        "lines": [
            {"sku": "mug", "name": "Mug", "quantity": 2, "unit_price": 1250, "total": 2500},
            {"sku": "tea", "name": "Tea", "quantity": 1, "unit_price": 500, "total": 500},
        ],
        "stock": "none",
        "payment": "none",
        "version": 1,
        "resolved_at": None,
    }
    again = api.get(answer.headers["Location"], customer=customer)
    assert (again.status_code, again.headers["ETag"]) == (200, '"1"')
    assert again.json() == answer.json()


def test_a_replay_is_told_as_such_and_shows_the_order_as_it_is_now(api: Api, customer: str) -> None:
    first = api.post(a_body(), customer=customer, key="k")
    api.store.confirm(UUID(first.json()["id"]))
    again = api.post(a_body(), customer=customer, key="k")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.headers["Location"] == first.headers["Location"]
    assert (again.json()["status"], again.headers["ETag"]) == ("confirmed", '"5"')


def test_the_order_of_lines_and_members_does_not_make_another_request(
    api: Api, customer: str
) -> None:
    lines = [{"sku": "tea", "quantity": 3}, {"sku": "mug", "quantity": 1}]
    api.post(a_body(lines=lines), customer=customer, key="k")
    split = [{"quantity": 1, "sku": "mug"}, *[{"quantity": 1, "sku": "tea"}] * 3]
    again = api.post(a_body(lines=split), customer=customer, key="k")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert [line["quantity"] for line in again.json()["lines"]] == [3, 1]


@pytest.mark.parametrize(
    "other",
    [
        {"lines": [{"sku": "tea", "quantity": 2}]},
        {"payment_method": "pm_card_mastercard"},
        {"checkout_id": "basket"},
        {"expected_total": 500},
    ],
)
def test_a_key_is_good_for_one_request_only(api: Api, customer: str, other: dict[str, Any]) -> None:
    api.post(a_body(), customer=customer, key="k")
    answer = api.post(a_body(**other), customer=customer, key="k")
    assert code(answer, 422) == "idempotency_key_reused"


def test_a_refused_request_may_be_mended_and_sent_with_its_key(api: Api, customer: str) -> None:
    refused = api.post(a_body(expected_total=499), customer=customer, key="k")
    assert code(refused, 409) == "price_changed"
    assert refused.json()["total"] == 500
    mended = api.post(a_body(expected_total=500), customer=customer, key="k")
    assert mended.status_code == 201
    assert "Idempotency-Replayed" not in mended.headers


def test_a_double_click_finds_the_order_that_is_there(api: Api, customer: str) -> None:
    first = api.post(a_body(checkout_id="basket"), customer=customer)
    second = api.post(a_body(checkout_id="basket"), customer=customer)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    assert second.headers["Location"] == first.headers["Location"]
    other = a_body(checkout_id="basket", lines=[{"sku": "mug", "quantity": 1}])
    assert code(api.post(other, customer=customer), 409) == "checkout_reused"


def test_an_order_needs_a_key(api: Api) -> None:
    answer = api.http.post("/v1/orders", json=a_body(), headers=api.auth())
    assert code(answer, 400) == "idempotency_key_missing"
    empty = api.post(a_body(), headers={"Idempotency-Key": ""})
    assert code(empty, 400) == "idempotency_key_missing"


@pytest.mark.parametrize("key", ["é", "x" * 256, "a\tb"])
def test_a_key_is_short_and_printable(api: Api, key: str) -> None:
    given = {name.encode(): value.encode() for name, value in api.auth().items()}
    headers = given | {b"Idempotency-Key": key.encode()}
    answer = api.http.post("/v1/orders", json=a_body(), headers=headers)
    assert code(answer, 422) == "validation_failed"


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"lines": [{"sku": "cup", "quantity": 1}]}, "unknown_sku"),
        ({"lines": [{"sku": "old", "quantity": 1}]}, "item_inactive"),
        ({"currency": "USD"}, "currency_mismatch"),
        ({"lines": [{"sku": "car", "quantity": 101}]}, "validation_failed"),
        ({"lines": [{"sku": "tea", "quantity": 600_000}] * 2}, "validation_failed"),
    ],
)
def test_what_can_not_be_ordered_is_refused(api: Api, fields: dict[str, Any], refusal: str) -> None:
    with api.store.sessions.begin() as session:
        repository.save_catalogue(
            session, [an_item("old", active=False), an_item("car", price=10**13)]
        )
    assert code(api.post(a_body(**fields)), 422) == refusal


A_LINE: Final = {"sku": "tea", "quantity": 1}


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"lines": [A_LINE | {"unit_price": 1}]}, "body.lines.0.unit_price"),
        ({"total": 1}, "body.total"),
        ({"customer_id": "bob"}, "body.customer_id"),
        ({"lines": []}, "body.lines"),
        ({"lines": [A_LINE] * 101}, "body.lines"),
        ({"lines": [A_LINE | {"quantity": 0}]}, "body.lines.0.quantity"),
        ({"lines": [A_LINE | {"quantity": 1_000_001}]}, "body.lines.0.quantity"),
        ({"lines": [A_LINE | {"quantity": 1.0}]}, "body.lines.0.quantity"),
        ({"lines": [A_LINE | {"quantity": "1"}]}, "body.lines.0.quantity"),
        ({"lines": [A_LINE | {"quantity": True}]}, "body.lines.0.quantity"),
        ({"lines": [A_LINE | {"sku": "x" * 65}]}, "body.lines.0.sku"),
        ({"lines": [A_LINE | {"sku": ""}]}, "body.lines.0.sku"),
        ({"currency": "eur"}, "body.currency"),
        ({"currency": "EUX"}, "body.currency"),
        ({"expected_total": 0}, "body.expected_total"),
        ({"expected_total": 10**15 + 1}, "body.expected_total"),
        ({"checkout_id": ""}, "body.checkout_id"),
        ({"checkout_id": "x" * 129}, "body.checkout_id"),
        ({"payment_method": 7}, "body.payment_method"),
    ],
)
def test_a_request_that_is_not_valid_is_told_where(
    api: Api, changes: dict[str, Any], at: str
) -> None:
    answer = api.post(a_body(**changes))
    assert code(answer, 422) == "validation_failed"
    assert [error["at"] for error in answer.json()["errors"]] == [at]


@pytest.mark.parametrize("text", ["\\u0000", "a\\u0000b", "a\\nb", "\\u007f"])
@pytest.mark.parametrize("field", ["sku", "checkout_id", "payment_method", "currency", "a name"])
def test_control_characters_are_refused(api: Api, field: str, text: str) -> None:
    assert code(api.post(_raw_body(field, text)), 422) == "validation_failed"


@pytest.mark.parametrize("text", ["\\ud800", "a\\udfffb"])
@pytest.mark.parametrize("field", ["sku", "checkout_id", "payment_method", "currency", "a name"])
def test_half_a_character_is_no_text(api: Api, field: str, text: str) -> None:
    assert code(api.post(_raw_body(field, text)), 400) == "malformed_body"


def _raw_body(field: str, text: str) -> bytes:
    """An order with this piece of JSON text in the field, or as the name of one."""
    fields = {"sku": "tea", "checkout_id": "c", "payment_method": "p", "currency": "EUR"}
    fields[field] = text
    name = text if field == "a name" else "checkout_id"
    return (
        f'{{"currency": "{fields["currency"]}", "payment_method": "{fields["payment_method"]}", '
        f'"{name}": "{fields["checkout_id"]}", '
        f'"lines": [{{"sku": "{fields["sku"]}", "quantity": 1}}]}}'
    ).encode()


@pytest.mark.parametrize(
    ("body", "status", "refusal"),
    [
        (b"{", 400, "malformed_body"),
        (b"\xff\xfe", 400, "malformed_body"),
        (b"[" * 10_000, 400, "malformed_body"),
        (b"null", 422, "validation_failed"),
        (b"[]", 422, "validation_failed"),
        (b'"text"', 422, "validation_failed"),
        (b"{}", 422, "validation_failed"),
        (b'{"quantity": ' + b"9" * 5_000 + b"}", 400, "malformed_body"),
        (b"{" + b" " * 70_000 + b"}", 413, "body_too_large"),
    ],
)
def test_a_body_that_is_no_order_is_refused(
    api: Api, body: bytes, status: int, refusal: str
) -> None:
    assert code(api.post(body), status) == refusal


def test_an_order_is_sent_as_json(api: Api) -> None:
    headers = api.auth() | {"Idempotency-Key": "k", "Content-Type": "text/plain"}
    answer = api.http.post("/v1/orders", content=json.dumps(a_body()), headers=headers)
    assert code(answer, 415) == "unsupported_media_type"


@pytest.mark.parametrize(
    "changes",
    [
        {"checkout_id": f"basket {CARD}"},
        {"checkout_id": CARD},
        {"payment_method": CARD},
        {"payment_method": CARD.replace(" ", "")},
        {"payment_method": CARD.replace(" ", "-")},
    ],
)
def test_a_card_number_is_refused_and_goes_nowhere(
    api: Api, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = api.post(a_body(**changes))
    assert code(answer, 422) == "card_number_refused"
    assert not _hides_card(answer.text, _logged(caplog))


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({CARD: "x"}, "validation_failed"),
        ({"note": CARD}, "validation_failed"),
        ({"currency": CARD}, "validation_failed"),
        ({"expected_total": 4111111111111111}, "validation_failed"),
        ({"lines": [A_LINE | {"sku": CARD}]}, "unknown_sku"),
        ({"lines": [A_LINE | {"quantity": CARD}]}, "validation_failed"),
        ({"lines": [A_LINE | {CARD: 1}]}, "validation_failed"),
    ],
)
def test_a_card_number_in_the_wrong_place_is_never_repeated(
    api: Api, changes: dict[str, Any], refusal: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = api.post(a_body(**changes))
    assert code(answer, 422) == refusal
    assert not _hides_card(answer.text, _logged(caplog))


def test_a_card_number_as_key_cursor_or_address_is_never_repeated(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [
        api.post(a_body(), key=CARD),
        api.cancel(str(new_id()), **{"Idempotency-Key": CARD}),
        api.get("/v1/orders", params={"cursor": CARD}),
        api.get("/v1/orders", params={"status": CARD}),
        api.get(f"/v1/orders/{CARD}"),
        api.get(f"/v1/orders/{new_id()}/events", headers={"Last-Event-ID": CARD}),
        api.get(f"/{CARD}"),
    ]
    assert [code(a, a.status_code) for a in answers[:2]] == ["card_number_refused"] * 2
    assert [a.status_code for a in answers] == [422, 422, 422, 422, 422, 422, 404]
    assert not _hides_card(*(answer.text for answer in answers), _logged(caplog))


def _logged(caplog: pytest.LogCaptureFixture) -> str:
    """What the service logged; its client logs here too."""
    ours = [r for r in caplog.records if not r.name.startswith("http")]
    assert ours, "the middleware logs every request at this level"
    return "\n".join(f"{record.getMessage()} {vars(record)}" for record in ours)


def _hides_card(*texts: str) -> bool:
    digits = CARD.replace(" ", "")
    return any(digits in "".join(filter(str.isdecimal, text)) or CARD in text for text in texts)


@pytest.mark.parametrize("ean", EANS)
def test_a_sku_may_look_like_a_card_number(api: Api, ean: str) -> None:
    catalogue_of(api.store.sessions, **{ean: 700})
    order = api.place(lines=[{"sku": ean, "quantity": 1}])
    assert order["lines"][0]["sku"] == ean


# ---- who may do what


def test_without_a_token_nobody_is_served(api: Api) -> None:
    order_id = api.place()["id"]
    for method, path in [
        ("POST", "/v1/orders"),
        ("GET", "/v1/orders"),
        ("GET", f"/v1/orders/{order_id}"),
        ("GET", f"/v1/orders/{order_id}/timeline"),
        ("GET", f"/v1/orders/{order_id}/events"),
        ("POST", f"/v1/orders/{order_id}/cancel"),
    ]:
        answer = api.http.request(method, path)
        assert code(answer, 401) == "unauthenticated"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("scope", ["", "orders:read", "inventory:write"])
def test_who_may_only_read_can_not_order_or_cancel(api: Api, scope: str) -> None:
    headers = api.auth(scope=scope) | {"Idempotency-Key": "k"}
    assert code(api.http.post("/v1/orders", json=a_body(), headers=headers), 403) == "forbidden"
    order_id = api.place()["id"]
    assert code(api.cancel(order_id, scope=scope), 403) == "forbidden"


@pytest.mark.parametrize("path", ["", "/{id}", "/{id}/timeline", "/{id}/events"])
def test_who_may_only_write_can_not_read(api: Api, path: str) -> None:
    order_id = api.place()["id"]
    answer = api.get("/v1/orders" + path.format(id=order_id), scope="orders:write")
    assert code(answer, 403) == "forbidden"


@pytest.mark.parametrize("path", ["", "/timeline", "/events"])
def test_a_foreign_order_is_not_found(api: Api, customer: str, path: str) -> None:
    order_id = api.place(customer)["id"]
    for wanted in (order_id, str(new_id())):
        answer = api.get(f"/v1/orders/{wanted}{path}", customer="mallory")
        assert code(answer, 404) == "not_found"
    assert code(api.cancel(order_id, customer="mallory"), 404) == "not_found"
    assert api.get(f"/v1/orders/{order_id}", customer=customer).json()["status"] == "pending"


def test_staff_sees_and_cancels_everybodys_orders(api: Api, customer: str) -> None:
    order_id = api.place(customer)["id"]
    for path in (f"/v1/orders/{order_id}", f"/v1/orders/{order_id}/timeline"):
        assert api.get(path, customer="olga", scope=STAFF).status_code == 200
    listed = api.get("/v1/orders", customer="olga", scope=STAFF, params={"limit": 1}).json()
    assert listed["items"][0]["id"] == order_id
    answer = api.cancel(order_id, customer="olga", scope=STAFF)
    assert (answer.status_code, answer.json()["reason"]) == (202, "cancelled_by_operator")
    timeline = api.get(f"/v1/orders/{order_id}/timeline", customer=customer).json()["items"]
    assert timeline[-1]["actor"] == "olga"


def test_an_id_that_is_none_is_not_valid(api: Api) -> None:
    assert code(api.get("/v1/orders/none"), 422) == "validation_failed"


# ---- reading


def test_orders_are_listed_newest_first_page_by_page(api: Api, customer: str) -> None:
    api.place("somebody else")
    ids = [api.place(customer)["id"] for _ in range(5)]
    found: list[str] = []
    pages = 0
    cursor: str | None = None
    while pages == 0 or cursor:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = api.get("/v1/orders", customer=customer, params=params).json()
        found += [order["id"] for order in page["items"]]
        cursor = page["next_cursor"]
        pages += 1
        if pages == 1:
            api.place(customer)  # what comes later shifts nothing
    assert (found, pages) == (ids[::-1], 3)


def test_orders_are_listed_by_status(api: Api, customer: str) -> None:
    pending, rejected = (UUID(api.place(customer)["id"]) for _ in range(2))
    api.store.learn(stock(rejected, "refused", 1))

    def listed(status: str) -> list[str]:
        answer = api.get("/v1/orders", customer=customer, params={"status": status})
        return [order["id"] for order in answer.json()["items"]]

    assert listed("pending") == [str(pending)]
    assert listed("rejected") == [str(rejected)]
    assert listed("confirmed") == []


@pytest.mark.parametrize(
    "params",
    [
        {"status": "shipped"},
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "x"},
        {"cursor": "x"},
        {"cursor": "é"},
        {"cursor": "bnVsbA"},
        {"cursor": "IngeAAB4Ig"},
        {"cursor": "x" * 513},
    ],
)
def test_a_list_that_is_not_well_asked_for_is_refused(api: Api, params: dict[str, str]) -> None:
    assert code(api.get("/v1/orders", params=params), 422) == "validation_failed"


def test_the_timeline_tells_every_change_with_its_cause(api: Api, customer: str) -> None:
    answer = api.post(a_body(), customer=customer, headers={"traceparent": A_TRACE})
    order_id = UUID(answer.json()["id"])
    held = stock(order_id, "held", 1)
    api.store.learn(held)
    api.cancel(str(order_id), customer=customer)
    page = api.get(f"/v1/orders/{order_id}/timeline", customer=customer).json()
    assert page["next_cursor"] is None
    placed, learnt, cancelled = page["items"]
    assert (placed["version"], placed["kind"], placed["actor"]) == (1, "placed", customer)
    assert (placed["cause"], placed["trace_id"]) == (None, A_TRACE[3:35])
    assert learnt["summary"] == "Every line is reserved."
    assert (learnt["actor"], learnt["stock"], learnt["payment"]) == ("system", "held", "requested")
    assert learnt["cause"] == {
        "message_id": str(held.envelope.id),
        "topic": "inventory.events",
        "partition": 2,
        "offset": 7,
    }
    assert (cancelled["status"], cancelled["reason"]) == ("cancelling", "cancelled_by_customer")


def test_the_timeline_comes_in_pages(api: Api, customer: str) -> None:
    order_id = api.place(customer)["id"]
    api.store.confirm(UUID(order_id))
    path = f"/v1/orders/{order_id}/timeline"
    first = api.get(path, customer=customer, params={"limit": 3}).json()
    rest = api.get(path, customer=customer, params={"cursor": first["next_cursor"]}).json()
    assert [entry["version"] for entry in first["items"] + rest["items"]] == [1, 2, 3, 4, 5]
    assert rest["next_cursor"] is None


# ---- cancelling


def test_a_cancel_is_accepted_then_done(api: Api, customer: str) -> None:
    order_id = api.place(customer)["id"]
    accepted = api.cancel(order_id, customer=customer, **{"Idempotency-Key": "any"})
    assert (accepted.status_code, accepted.headers["ETag"]) == (202, '"2"')
    assert accepted.json()["status"] == "cancelling"
    assert api.cancel(order_id, customer=customer).status_code == 202
    api.store.learn(stock(UUID(order_id), "released", 1))
    done = api.cancel(order_id, customer=customer)
    assert (done.status_code, done.json()["status"]) == (200, "cancelled")


def test_a_rejected_order_is_not_cancellable(api: Api, customer: str) -> None:
    order_id = api.place(customer)["id"]
    api.store.learn(stock(UUID(order_id), "refused", 1))
    assert code(api.cancel(order_id, customer=customer), 409) == "not_cancellable"


# ---- when it is too much, or something is away


def test_beyond_the_limit_of_open_orders_new_ones_are_refused_for_a_while(
    instance: Instance, databases: Databases
) -> None:
    with an_api(instance, databases, max_open_orders=2) as api:
        ids = [UUID(api.place()["id"]) for _ in range(2)]
        refused = api.post(a_body(), key="k")
        assert code(refused, 503) == "overloaded"
        assert refused.json()["retryable"] is True
        assert int(refused.headers["Retry-After"]) >= 1
        assert api.get(f"/v1/orders/{ids[0]}").status_code == 200
        assert api.cancel(str(ids[1])).status_code == 202
        api.store.learn(stock(ids[0], "refused", 1))
        until(lambda: api.post(a_body(), key="k").status_code == 201, timeout_s=5)


def test_while_the_database_is_away_clients_are_asked_to_try_again(
    instance: Instance, databases: Databases
) -> None:
    with an_api(instance, databases) as api:
        order_id = api.place()["id"]
        with database_away(instance, api):
            for answer in (
                api.post(a_body(), key="k"),
                api.get("/v1/orders"),
                api.get(f"/v1/orders/{order_id}"),
                api.get(f"/v1/orders/{order_id}/timeline"),
                api.get(f"/v1/orders/{order_id}/events"),
                api.cancel(order_id),
            ):
                assert code(answer, 503) == "unavailable"
                assert int(answer.headers["Retry-After"]) >= 1
            assert api.http.get("/health/ready").status_code == 503
            assert api.http.get("/health/live").status_code == 200
        until(lambda: api.http.get("/health/ready").status_code == 200, timeout_s=5)
        assert api.post(a_body(), key="k").status_code == 201
        assert api.get(f"/v1/orders/{order_id}").json()["status"] == "pending"
