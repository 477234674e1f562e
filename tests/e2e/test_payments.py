"""What only happens with providers that misbehave."""

from tests.support.shop import Shop


def test_a_cancel_that_meets_a_charge_the_provider_never_saw_ends_uncharged(shop: Shop) -> None:
    sku = shop.item(stock=1)
    order = shop.place({sku: 1}, payment_method="pm_sim_neverSeen")
    shop.until(order["id"], lambda o: o["payment"] in ("processing", "unknown", "requested"))
    assert shop.cancel(order["id"]).status_code == 202

    order = shop.until(order["id"], lambda o: o["status"] == "cancelled")
    assert order["payment"] in ("cancelled", "none", "refunded")
    assert shop.taken(order["id"]) == 0
    assert shop.stock(sku)["available"] == 1


def test_a_success_that_comes_after_the_cancel_is_given_back(shop: Shop) -> None:
    sku = shop.item(stock=1)
    order = shop.place({sku: 1}, payment_method="pm_sim_lateSuccess")
    shop.until(order["id"], lambda o: o["payment"] in ("processing", "unknown"))
    assert shop.cancel(order["id"]).status_code == 202

    order = shop.until(order["id"], lambda o: o["status"] == "cancelled")
    assert order["payment"] in ("cancelled", "refunded")
    assert shop.taken(order["id"]) == 0


def test_a_refund_that_fails_waits_for_an_operator_who_can_ask_again(shop: Shop) -> None:
    sku = shop.item(stock=1)
    order = shop.until_final(shop.place({sku: 1}, payment_method="pm_sim_refundFailsOnce")["id"])
    assert order["status"] == "confirmed"
    assert shop.cancel(order["id"]).status_code == 202
    order = shop.until(order["id"], lambda o: o["payment"] == "refund_failed")
    assert order["status"] == "cancelling"
    # A customer asking again changes nothing; an operator has it tried again.
    assert shop.cancel(order["id"]).status_code == 202
    answer = shop.http.post(
        shop.url("order", f"/v1/orders/{order['id']}/cancel"), headers=shop.staff
    )
    assert answer.status_code == 202
    order = shop.until(order["id"], lambda o: o["status"] == "cancelled")
    assert order["payment"] == "refunded"
    assert shop.taken(order["id"]) == 0
    assert "flag_lifted" in [entry["kind"] for entry in shop.timeline(order["id"])]
