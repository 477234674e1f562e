"""Placing and cancelling, batch by batch, against a real database."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ecom_common.batch import Batcher
from ecom_common.bulk import send
from ecom_common.errors import Problem
from ecom_contracts.messages import (
    OrderedLine,
    OrderPlaced,
    PaymentCancel,
    StockLine,
    StockReserve,
)
from order_service import repository
from order_service.commands import Cancelled, CancelOrder, Command, Placed, PlaceOrder, Result
from sqlalchemy import text

from tests.support.databases import Databases
from tests.support.orders import (
    A_TRACE,
    Store,
    a_desk,
    a_wish,
    an_item,
    catalogue_of,
    emptied_stores,
    item_changed,
    payment,
    stock,
)
from tests.support.shop import until


@pytest.fixture(scope="module")
def empty_store(databases: Databases) -> Iterator[Callable[[], Store]]:
    with emptied_stores(databases) as stores:
        yield stores


@pytest.fixture
def store(empty_store: Callable[[], Store]) -> Store:
    return empty_store()


def placed(result: Result) -> Placed:
    assert isinstance(result, Placed), result
    return result


def refusal(result: Result) -> Problem:
    assert isinstance(result, Problem), result
    return result


# ---- placing


def test_an_order_has_the_catalogues_names_and_prices(store: Store) -> None:
    order = placed(store.run(a_wish({"mug": 3, "tea": 2}))).order
    found = store.order(order.id)
    assert [
        (li.position, li.sku, li.name, li.quantity, li.unit_price, li.total) for li in found.lines
    ] == [
        (1, "mug", "Mug", 3, 1250, 3750),
        (2, "tea", "Tea", 2, 500, 1000),
    ]
    assert (found.total, found.currency, found.status, found.version) == (4750, "EUR", "pending", 1)


def test_an_order_announces_itself_and_asks_for_its_stock(store: Store) -> None:
    order_id = store.place({"mug": 1, "tea": 2}, checkout_id="basket", traceparent=A_TRACE)
    told, asked = store.published()
    assert told.data == OrderPlaced(
        order_id=order_id,
        checkout_id="basket",
        customer_id="alice",
        currency="EUR",
        total=2250,
        lines=(
            OrderedLine(sku="mug", name="Mug", quantity=1, unit_price=1250, total=1250),
            OrderedLine(sku="tea", name="Tea", quantity=2, unit_price=500, total=1000),
        ),
    )
    lines = (StockLine(sku="mug", quantity=1), StockLine(sku="tea", quantity=2))
    assert asked.data == StockReserve(order_id=order_id, lines=lines)
    for envelope in (told, asked):
        assert envelope.source == "order_service"
        assert envelope.sequence == 1
        assert envelope.correlation_id == str(order_id)
        assert envelope.traceparent == A_TRACE


def test_an_order_keeps_its_price_when_the_catalogue_changes(store: Store) -> None:
    order_id = store.place({"tea": 1})
    with store.sessions.begin() as session:
        store.desk.take_in_catalogue(session, [item_changed("tea", 2, unit_price=900, name="T")])
    assert store.order(order_id).lines[0].unit_price == 500
    assert placed(store.run(a_wish({"tea": 1}))).order.total == 900


def test_one_bad_command_of_fifty_costs_the_others_nothing(store: Store) -> None:
    wishes = [a_wish({"tea": 1}) for _ in range(50)]
    wishes[17] = a_wish({"tea": 1, "unheard-of": 1})
    results = store.run_all(wishes)
    assert refusal(results[17]).code == "unknown_sku"
    assert {placed(r).order.id for i, r in enumerate(results) if i != 17} == {
        w.order_id for i, w in enumerate(wishes) if i != 17
    }
    assert (store.count("orders"), store.count("order_history")) == (49, 49)
    assert (store.count("outbox"), store.count("idempotency_keys")) == (98, 49)


@pytest.mark.parametrize(
    ("wish", "code", "members"),
    [
        (a_wish({"tea": 1, "x": 1, "y": 1}), "unknown_sku", {"skus": ["x", "y"]}),
        (a_wish({"tea": 1, "old": 1}), "item_inactive", {"skus": ["old"]}),
        (a_wish({"tea": 1}, currency="USD"), "currency_mismatch", {"skus": ["tea"]}),
        (a_wish({"tea": 1, "yen": 1}), "currency_mismatch", {"skus": ["yen"]}),
        (a_wish({"tea": 2}, expected_total=999), "price_changed", {"total": 1000}),
        (a_wish({"tea": 1_000_001}), "validation_failed", {"skus": ["tea"]}),
        (a_wish({"car": 100, "tea": 1}), "validation_failed", {}),
    ],
)
def test_what_cannot_be_ordered_is_refused_with_the_reason(
    store: Store, wish: PlaceOrder, code: str, members: dict[str, Any]
) -> None:
    with store.sessions.begin() as session:
        rows = [
            an_item("old", active=False),
            an_item("yen", currency="JPY"),
            an_item("car", price=10**13),
        ]
        repository.save_catalogue(session, rows)
    problem = refusal(store.run(wish))
    assert (problem.code, problem.members) == (code, members)
    assert (store.count("orders"), store.count("outbox")) == (0, 0)


def test_a_card_number_in_place_of_a_sku_is_not_repeated(store: Store) -> None:
    problem = refusal(store.run(a_wish({"4111111111111111": 1, "x": 1})))
    assert problem.code == "unknown_sku"
    assert problem.members["skus"] == ["<card number>", "x"]


def test_an_order_may_cost_exactly_the_most_there_is(store: Store) -> None:
    catalogue_of(store.sessions, car=10**13)
    assert placed(store.run(a_wish({"car": 100}))).order.total == 10**15


def test_the_expected_total_is_welcome_when_it_is_right(store: Store) -> None:
    assert placed(store.run(a_wish({"tea": 2}, expected_total=1000))).order.total == 1000


# ---- the same again


def test_the_same_key_and_body_lead_to_the_same_order(store: Store) -> None:
    first = a_wish({"tea": 1}, idempotency_key="k")
    order_id = store.place({"tea": 1}, idempotency_key="k")
    again = placed(
        store.run(a_wish({"tea": 1}, idempotency_key="k", fingerprint=first.fingerprint))
    )
    assert (again.order.id, again.replayed, again.existed) == (order_id, True, False)
    assert (store.count("orders"), store.count("outbox")) == (1, 2)


def test_a_replay_shows_the_order_as_it_is_now(store: Store) -> None:
    order_id = store.place({"tea": 1}, idempotency_key="k")
    store.confirm(order_id)
    again = placed(store.run(a_wish({"tea": 1}, idempotency_key="k")))
    assert (again.order.id, again.order.status) == (order_id, "confirmed")


@pytest.mark.parametrize("batches", [1, 2])
def test_the_same_key_with_another_body_is_refused(store: Store, batches: int) -> None:
    wishes = [a_wish({"tea": n}, idempotency_key="k") for n in (1, 2)]
    results = store.run_all(wishes) if batches == 1 else [store.run(wish) for wish in wishes]
    assert placed(results[0])
    assert refusal(results[1]).code == "idempotency_key_reused"
    assert store.count("orders") == 1


def test_a_refusal_is_not_stored_so_the_mended_request_may_use_its_key(store: Store) -> None:
    assert refusal(store.run(a_wish({"cup": 1}, idempotency_key="k"))).code == "unknown_sku"
    catalogue_of(store.sessions, cup=100)
    assert placed(store.run(a_wish({"cup": 1}, idempotency_key="k"))).replayed is False
    assert placed(store.run(a_wish({"cup": 1}, idempotency_key="k"))).replayed is True


def test_two_customers_may_choose_the_same_key_and_checkout(store: Store) -> None:
    wishes = [
        a_wish({"tea": 1}, idempotency_key="k", checkout_id="c", customer_id=name)
        for name in ("alice", "bob")
    ]
    first, second = map(placed, store.run_all(wishes))
    assert first.order.id != second.order.id
    assert (second.replayed, second.existed) == (False, False)


@pytest.mark.parametrize("batches", [1, 2])
def test_a_double_click_with_two_keys_is_one_order(store: Store, batches: int) -> None:
    wishes = [a_wish({"tea": 1}, checkout_id="basket") for _ in range(2)]
    results = store.run_all(wishes) if batches == 1 else [store.run(wish) for wish in wishes]
    first, second = map(placed, results)
    assert first.order.id == second.order.id
    assert [first.existed, second.existed] == [False, True]
    assert store.count("orders") == 1
    # The second key is as good as the first one from now on.
    again = placed(store.run(a_wish({"tea": 1}, idempotency_key=wishes[1].idempotency_key)))
    assert (again.order.id, again.replayed, again.existed) == (first.order.id, True, True)


@pytest.mark.parametrize(
    "other",
    [{"quantities": {"tea": 2}}, {"quantities": {"tea": 1, "mug": 1}}, {"currency": "USD"}],
)
def test_another_basket_with_the_same_checkout_is_refused(
    store: Store, other: dict[str, Any]
) -> None:
    store.place({"tea": 1}, checkout_id="basket")
    wish = a_wish(**({"quantities": {"tea": 1}, "checkout_id": "basket"} | other))
    assert refusal(store.run(wish)).code == "checkout_reused"
    assert (store.count("orders"), store.count("idempotency_keys")) == (1, 1)


# ---- at the same time


def test_fifty_placements_with_one_key_from_many_threads_are_one_order(store: Store) -> None:
    gate = threading.Barrier(8)

    def place(number: int) -> list[Placed]:
        gate.wait(10)
        rounds = range(number, 50, 8)
        return [placed(store.run(a_wish({"tea": 1}, idempotency_key="k"))) for _ in rounds]

    with ThreadPoolExecutor(8) as threads:
        results = [result for many in threads.map(place, range(8)) for result in many]
    assert len(results) == 50
    assert len({result.order.id for result in results}) == 1
    assert [result.replayed for result in results].count(False) == 1
    assert (store.count("orders"), store.count("outbox")) == (1, 2)


def test_clicks_on_two_processes_are_one_order(store: Store) -> None:
    async def click() -> list[Result]:
        batchers: list[Batcher[Command, Result]] = [
            Batcher(store.sessions, a_desk().handle_commands, name="tests", max_batch=10)
            for _ in range(2)
        ]
        wishes = [a_wish({"tea": 1}, checkout_id="basket") for _ in range(40)]
        clicks = [batchers[i % 2].submit(wish) for i, wish in enumerate(wishes)]
        results = await asyncio.gather(*clicks)
        for batcher in batchers:
            await batcher.close()
        return results

    results = [placed(result) for result in asyncio.run(click())]
    assert len({result.order.id for result in results}) == 1
    assert [result.existed for result in results].count(False) == 1
    assert (store.count("orders"), store.count("idempotency_keys")) == (1, 40)


@pytest.mark.parametrize("shared", [{"idempotency_key": "k"}, {"checkout_id": "basket"}])
def test_a_twin_waits_for_the_first_and_finds_its_order(
    store: Store, shared: dict[str, str]
) -> None:
    first = a_wish({"tea": 1}, **shared)
    with ThreadPoolExecutor(1) as thread:
        with store.sessions.begin() as session:
            store.desk.handle_commands(session, [first])
            send(session)
            twin = thread.submit(store.run, a_wish({"tea": 1}, **shared))
            until(lambda: _somebody_waits(store), timeout_s=10)
        found = placed(twin.result(10))
    assert found.order.id == first.order_id
    assert (found.replayed, found.existed) == ("idempotency_key" in shared, "checkout_id" in shared)


def test_the_twin_of_one_that_fails_places_its_own(store: Store) -> None:
    first, second = (a_wish({"tea": 1}, idempotency_key="k") for _ in range(2))
    with ThreadPoolExecutor(1) as thread:
        with store.sessions() as session:  # never committed
            store.desk.handle_commands(session, [first])
            send(session)
            twin = thread.submit(store.run, second)
            until(lambda: _somebody_waits(store), timeout_s=10)
        assert placed(twin.result(10)).order.id == second.order_id
    assert store.count("orders") == 1


def _somebody_waits(store: Store) -> bool:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock'"
    )
    with store.sessions() as session:
        return bool(session.scalar(text(query)))


# ---- cancelling


def test_a_customers_cancel_is_accepted_and_undoes_what_was_begun(store: Store) -> None:
    order_id = store.place({"tea": 1})
    store.learn(stock(order_id, "held", 1))
    store.published()
    order = store.accepted(order_id)
    assert (order.status, order.reason) == ("cancelling", "cancelled_by_customer")
    release, cancel = sorted(store.published(), key=lambda e: e.type, reverse=True)
    assert release.type == "stock.release.v1"
    assert cancel.data == PaymentCancel(
        order_id=order_id, customer_id="alice", currency="EUR", amount=500
    )
    store.learn(stock(order_id, "released", 2), payment(order_id, "cancelled", 1))
    assert store.order(order_id).status == "cancelled"


def test_what_was_never_charged_only_has_its_stock_released(store: Store) -> None:
    order_id = store.place({"tea": 1})
    store.published()
    store.accepted(order_id)
    assert store.said() == ["stock.release.v1"]
    store.learn(stock(order_id, "released", 1))
    assert store.order(order_id).status == "cancelled"


def test_a_confirmed_order_can_be_cancelled_and_is_refunded_and_restocked(store: Store) -> None:
    order_id = store.place({"tea": 1})
    store.confirm(order_id)
    store.published()
    assert store.accepted(order_id).status == "cancelling"
    assert store.said() == ["payment.cancel.v1", "stock.release.v1"]
    store.learn(stock(order_id, "restocked", 3), payment(order_id, "refunding", 3))
    assert store.order(order_id).status == "cancelling"
    store.learn(payment(order_id, "refunded", 4))
    assert store.order(order_id).status == "cancelled"
    assert store.said() == ["order.cancelled.v1"]


@pytest.mark.parametrize("batches", [1, 2])
def test_cancelling_twice_changes_nothing_more(store: Store, batches: int) -> None:
    order_id = store.place({"tea": 1})
    wishes = [CancelOrder(order_id, "alice", actor="alice")] * 2
    results = store.run_all(wishes) if batches == 1 else [store.run(wish) for wish in wishes]
    assert [type(result) for result in results] == [Cancelled, Cancelled]
    assert store.changes(order_id) == ["placed", "cancel_requested"]
    assert store.said().count("stock.release.v1") == 1


def test_what_is_cancelled_can_be_cancelled_again_to_no_effect(store: Store) -> None:
    order_id = store.place({"tea": 1})
    store.accepted(order_id)
    store.learn(stock(order_id, "released", 1))
    before = store.order(order_id).version
    order = store.accepted(order_id)
    assert (order.status, order.version) == ("cancelled", before)


def test_a_rejected_order_can_not_be_cancelled(store: Store) -> None:
    order_id = store.place({"tea": 1})
    store.learn(stock(order_id, "refused", 1))
    assert refusal(store.cancel(order_id)).code == "not_cancellable"


def test_an_order_that_is_failing_anyway_ends_cancelled_once_somebody_cancels(store: Store) -> None:
    order_id = store.place({"tea": 1})
    store.learn(stock(order_id, "held", 1), payment(order_id, "declined", 1))
    assert store.order(order_id).status == "pending"
    store.published()
    assert store.accepted(order_id).status == "cancelling"
    assert store.said() == []  # the release is asked for already
    store.learn(stock(order_id, "released", 2))
    order = store.order(order_id)
    assert (order.status, order.reason) == ("cancelled", "cancelled_by_customer")


def test_an_operator_may_cancel_any_order_and_is_named(store: Store) -> None:
    order_id = store.place({"tea": 1})
    assert store.accepted(order_id, customer=None).reason == "cancelled_by_operator"
    assert store.history(order_id)[-1].actor == "olga"


def test_foreign_and_unheard_of_orders_are_not_found(store: Store) -> None:
    order_id = store.place({"tea": 1})
    for result in (store.cancel(order_id, customer="mallory"), store.cancel(a_wish({}).order_id)):
        assert refusal(result).code == "not_found"
    assert store.changes(order_id) == ["placed"]


def test_a_batch_places_and_cancels_side_by_side(store: Store) -> None:
    order_id = store.place({"tea": 1})
    results = store.run_all(
        [
            CancelOrder(order_id, "alice", actor="alice"),
            a_wish({"tea": 1}),
            CancelOrder(order_id, "mallory", actor="mallory"),
            a_wish({"nothing": 1}),
        ]
    )
    assert [type(result) for result in results] == [Cancelled, Placed, Problem, Problem]
    assert store.count("orders") == 2


def test_cancels_from_many_threads_are_one_change(store: Store) -> None:
    order_id = store.place({"tea": 1})
    with ThreadPoolExecutor(8) as threads:
        orders = list(threads.map(lambda _: store.accepted(order_id), range(16)))
    assert {order.status for order in orders} == {"cancelling"}
    assert store.changes(order_id) == ["placed", "cancel_requested"]
