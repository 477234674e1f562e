"""The history finds every lie that a platform could tell, and none where all is true."""

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.history import Answer, Books, lies

ORDER = "order-1"
SKU = "MUG"


def an_order(**changes: Any) -> dict[str, Any]:
    """As the API shows it; confirmed, of one unit."""
    return {
        "id": ORDER,
        "customer_id": "alice",
        "status": "confirmed",
        "total": 500,
        "stock": "committed",
        "payment": "captured",
        "lines": [{"sku": SKU, "quantity": 1}],
        **changes,
    }


def placed(**changes: Any) -> Answer:
    """An acknowledged order, pending as it was then."""
    document = an_order(status="pending", **changes.pop("document", {}))
    fields = {"key": "k1", "lines": {SKU: 1}} | changes
    return Answer("place", "alice", 1.0, 2.0, fields.pop("status", 201), document, **fields)


def cancelled(status: int, *, at: float = 5.0, **document: Any) -> Answer:
    return Answer("cancel", "alice", at, at, status, document, order_id=ORDER)


def looked(status: str, *, at: float) -> Answer:
    return Answer("look", "alice", at, at, 200, an_order(status=status), order_id=ORDER)


def refused(status: int, code: str, **fields: Any) -> Answer:
    return Answer("place", "alice", 1.0, 2.0, status, {"code": code}, key="k1", **fields)


def books(*orders: dict[str, Any], **changes: Any) -> Books:
    """Those of an honest shop with these orders, before `changes`."""
    sold = sum(
        line["quantity"]
        for order in orders
        for line in order["lines"]
        if order["status"] == "confirmed"
    )
    honest = Books(
        listed={"alice": list(orders)},
        taken={order["id"]: order["total"] for order in orders if order["status"] == "confirmed"},
        stock={SKU: {"on_hand": 10 - sold, "reserved": 0}},
        received={SKU: 10},
    )
    return replace(honest, **changes)


CLOSED = {"status": "cancelled", "stock": "released", "payment": "none"}


def test_a_true_history_has_no_lies() -> None:
    history = [
        placed(),
        placed(document={"id": "order-2"}, key="k2", checkout="c"),
        placed(document={"id": "order-2"}, key="k3", checkout="c", status=200),
        looked("confirmed", at=3.0),
        refused(503, "unavailable"),
        refused(0, "ConnectError"),
        refused(409, "request_in_progress"),
    ]
    assert lies(history, books(an_order(), an_order(id="order-2"))) == []


def test_a_confirmed_order_may_be_cancelled_later() -> None:
    history = [placed(), looked("confirmed", at=3.0), cancelled(202)]
    assert lies(history, books(an_order(**CLOSED))) == []


@pytest.mark.parametrize(
    ("history", "found", "words"),
    [
        ([placed()], books(), "does not exist"),
        ([placed(), placed(document={"id": "order-2"})], books(an_order(), an_order(id="order-2")), "key k1"),
        (
            [placed(checkout="c"), placed(document={"id": "order-2"}, key="k2", checkout="c")],
            books(an_order(), an_order(id="order-2")),
            "checkout c",
        ),
        ([placed(), placed(key="k2")], books(an_order()), "different requests"),
        ([placed(lines={SKU: 2})], books(an_order()), "not what was ordered"),
        ([placed(document={"total": 400})], books(an_order()), "acknowledged were 400"),
        ([placed()], books(an_order(customer_id="bob")), "belongs to bob"),
        ([placed()], books(an_order(), an_order(id="order-2")), "nobody was told of"),
        ([placed()], books(an_order(), an_order()), "twice"),
        ([placed()], books(an_order(status="pending"), taken={}), "still pending"),
        ([placed(), looked("rejected", at=3.0)], books(an_order()), "said to be rejected"),
        ([placed(), looked("confirmed", at=3.0)], books(an_order(**CLOSED)), "said to be confirmed"),
        ([placed(), cancelled(202)], books(an_order()), "was to be cancelled"),
        ([placed(), cancelled(200)], books(an_order(**CLOSED | {"status": "rejected"})), "was to be cancelled"),
        ([placed(), cancelled(409, code="not_cancellable")], books(an_order()), "said to be rejected (409)"),
        ([placed(), refused(422, "unknown_sku")], books(an_order()), "422 unknown_sku"),
        ([placed(), refused(500, "internal")], books(an_order()), "500 internal"),
        ([placed()], books(an_order(), taken={}), "0 were taken, not 500"),
        ([placed()], books(an_order(), taken={ORDER: 1000}), "1000 were taken, not 500"),
        ([placed()], books(an_order(**CLOSED), taken={ORDER: 500}), "500 were taken, not 0"),
        ([placed()], books(an_order(), stock={SKU: {"on_hand": 10, "reserved": 0}}), "9 must be left"),
        ([placed()], books(an_order(), stock={SKU: {"on_hand": 9, "reserved": 1}}), "none reserved"),
        (
            [placed()],
            books(an_order(), received={SKU: 0}, stock={SKU: {"on_hand": -1, "reserved": 0}}),
            "1 were sold of 0",
        ),
    ],
)  # fmt: skip
def test_a_lie_is_found_and_named(history: list[Answer], found: Books, words: str) -> None:
    assert [lie for lie in lies(history, found) if words in lie], lies(history, found)


def test_a_request_without_an_answer_may_have_made_its_order_and_no_other() -> None:
    history = [refused(0, "ReadTimeout")]
    assert lies(history, books(an_order())) == []
    assert lies(history, books(an_order(), an_order(id="order-2"))) != []


def test_an_unanswered_request_whose_retry_was_answered_excuses_nothing() -> None:
    history = [refused(0, "ReadTimeout"), placed()]
    assert lies(history, books(an_order())) == []
    assert lies(history, books(an_order(), an_order(id="order-2"))) != []
