"""Orders from HTTP to their end, through three services."""

from uuid import uuid4

import pytest

from tests.support.shop import Shop


def test_an_order_is_bought(shop: Shop) -> None:
    tea, cup = shop.item(price=450, stock=5), shop.item(price=1200, stock=3)
    order = shop.until_final(shop.place({tea: 2, cup: 1})["id"])

    assert (order["status"], order["stock"], order["payment"]) == (
        "confirmed",
        "committed",
        "captured",
    )
    assert (order["total"], order["reason"]) == (2100, None)
    assert shop.stock(tea)["on_hand"] == 3
    assert shop.stock(cup) | {"version": 0} == {
        "sku": cup, "on_hand": 2, "reserved": 0, "available": 2, "version": 0,
    }  # fmt: skip
    assert shop.taken(order["id"]) == 2100


def test_an_order_without_stock_is_rejected_and_never_charged(shop: Shop) -> None:
    plenty, scarce = shop.item(stock=10), shop.item(stock=1)
    order = shop.until_final(shop.place({plenty: 1, scarce: 2})["id"])

    assert (order["status"], order["reason"]) == ("rejected", "out_of_stock")
    assert (order["stock"], order["payment"]) == ("refused", "none")
    assert shop.stock(plenty)["available"] == 10
    assert shop.payments(order["id"]) == []


def test_a_declined_card_releases_the_stock(shop: Shop) -> None:
    sku = shop.item(stock=2)
    order = shop.until_final(shop.place({sku: 2}, payment_method="pm_card_chargeDeclined")["id"])

    assert (order["status"], order["reason"]) == ("rejected", "payment_declined")
    assert (order["stock"], order["payment"]) == ("released", "declined")
    assert shop.stock(sku)["available"] == 2
    assert shop.taken(order["id"]) == 0


def test_a_confirmed_order_can_be_cancelled_and_is_restocked_and_refunded(shop: Shop) -> None:
    sku = shop.item(stock=4)
    order = shop.until_final(shop.place({sku: 3})["id"])
    assert shop.stock(sku)["on_hand"] == 1

    answer = shop.cancel(order["id"])
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    order = shop.until(order["id"], lambda o: o["status"] == "cancelled")
    assert (order["reason"], order["stock"], order["payment"]) == (
        "cancelled_by_customer", "restocked", "refunded",
    )  # fmt: skip
    assert shop.stock(sku)["on_hand"] == 4
    assert shop.taken(order["id"]) == 0
    assert shop.cancel(order["id"]).status_code == 200


@pytest.mark.parametrize(
    ("method", "status", "taken"),
    [
        ("pm_sim_timeoutThenSuccess", "confirmed", 500),
        ("pm_sim_timeoutThenDecline", "rejected", 0),
        ("pm_sim_neverSeen", "confirmed", 500),
        ("pm_sim_error", "confirmed", 500),
    ],
)
def test_a_provider_that_does_not_answer_is_asked_again_and_charges_once(
    shop: Shop, method: str, status: str, taken: int
) -> None:
    sku = shop.item(stock=1)
    order = shop.until_final(shop.place({sku: 1}, payment_method=method)["id"])

    assert order["status"] == status
    assert shop.taken(order["id"]) == taken
    [payment] = shop.payments(order["id"])
    assert [operation["kind"] for operation in payment["operations"]].count("charge") == 1


def test_the_timeline_tells_every_change_with_its_cause_in_one_trace(shop: Shop) -> None:
    sku = shop.item(stock=1)
    order = shop.until_final(shop.place({sku: 1})["id"])
    entries = shop.timeline(order["id"])

    assert [entry["version"] for entry in entries] == list(range(1, order["version"] + 1))
    kinds = [entry["kind"] for entry in entries]
    assert kinds[0] == "placed"
    assert kinds[-1] == "stock_committed"
    assert {"stock_held", "payment_captured"} <= set(kinds)
    assert entries[0]["cause"] is None
    assert all(entry["cause"]["message_id"] for entry in entries[1:])
    assert len({entry["trace_id"] for entry in entries}) == 1


def test_waiting_for_the_final_status_answers_with_it(shop: Shop) -> None:
    sku = shop.item(stock=1)
    answer = shop.post({sku: 1}, prefer="wait=20")

    assert (answer.status_code, answer.json()["status"]) == (201, "confirmed")
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.headers["ETag"] == f'"{answer.json()["version"]}"'


def test_a_replayed_key_answers_with_the_order_as_it_is_now(shop: Shop) -> None:
    sku = shop.item(stock=1)
    key = uuid4().hex
    first = shop.post({sku: 1}, key=key)
    shop.until_final(first.json()["id"])
    again = shop.post({sku: 1}, key=key)

    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json()["status"] == "confirmed"
    other = shop.post({sku: 2}, key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_sku_that_is_an_ean_which_passes_the_check_of_cards_can_be_ordered(shop: Shop) -> None:
    sku = shop.item(sku="4006381330060", stock=1)
    assert shop.until_final(shop.place({sku: 1})["id"])["status"] == "confirmed"


def test_ordering_an_inactive_item_is_refused(shop: Shop) -> None:
    sku = shop.item(stock=1, active=False)
    answer = shop.post({sku: 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "item_inactive")
