"""What orders make of the participants' answers, and what they write about it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any
from uuid import UUID

import psycopg2.errors
import pytest
from ecom_common.database import sql_state
from ecom_common.ids import new_id
from ecom_contracts.messages import (
    OrderCancelled,
    OrderConfirmed,
    OrderRejected,
    PaymentCharge,
    StockCommit,
)
from order_service import repository
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.support.databases import Databases
from tests.support.orders import (
    A_TRACE,
    Store,
    a_desk,
    a_wish,
    catalogue_of,
    emptied_stores,
    item_changed,
    payment,
    stock,
)

ANOTHER_TRACE = "00-11111111111111111111111111111111-2222222222222222-01"


@pytest.fixture(scope="module")
def empty_store(databases: Databases) -> Iterator[Callable[[], Store]]:
    with emptied_stores(databases) as stores:
        yield stores


@pytest.fixture
def store(empty_store: Callable[[], Store]) -> Store:
    return empty_store()


@pytest.fixture
def order_id(store: Store) -> UUID:
    """A fresh order, whose first messages have gone out."""
    found = store.place({"tea": 1}, traceparent=A_TRACE)
    store.published()
    return found


# ---- the way to an end


def test_an_order_asks_for_one_thing_after_the_other_until_it_is_confirmed(
    store: Store, order_id: UUID
) -> None:
    store.learn(stock(order_id, "held", 1))
    (charge,) = store.published()
    assert charge.data == PaymentCharge(
        order_id=order_id,
        customer_id="alice",
        currency="EUR",
        amount=500,
        method="pm_card_visa",
    )
    store.learn(payment(order_id, "processing", 1))
    assert store.said() == []
    store.learn(payment(order_id, "unknown", 2))
    assert store.said() == []
    store.learn(payment(order_id, "captured", 3))
    (commit,) = store.published()
    assert commit.data == StockCommit(order_id=order_id)
    store.learn(stock(order_id, "committed", 2))
    (told,) = store.published()
    assert told.data == OrderConfirmed(
        order_id=order_id, customer_id="alice", currency="EUR", total=500
    )
    order = store.order(order_id)
    assert (order.status, order.due_at) == ("confirmed", None)


def test_an_order_without_stock_is_rejected(store: Store, order_id: UUID) -> None:
    store.learn(stock(order_id, "refused", 1))
    (told,) = store.published()
    assert told.data == OrderRejected(
        order_id=order_id, customer_id="alice", reason="out_of_stock", currency="EUR", total=500
    )
    assert store.order(order_id).status == "rejected"


def test_a_declined_order_is_rejected_once_its_stock_is_released(
    store: Store, order_id: UUID
) -> None:
    store.learn(stock(order_id, "held", 1), payment(order_id, "declined", 1))
    assert store.order(order_id).status == "pending"
    assert store.said() == ["stock.release.v1"]
    store.learn(stock(order_id, "released", 2))
    assert store.order(order_id).reason == "payment_declined"
    assert store.said() == ["order.rejected.v1"]


def test_a_reservation_that_ran_out_gives_the_money_back(store: Store, order_id: UUID) -> None:
    store.learn(stock(order_id, "held", 1), payment(order_id, "captured", 2))
    store.learn(stock(order_id, "released", 2))
    assert store.said() == ["stock.commit.v1", "payment.cancel.v1"]
    store.learn(payment(order_id, "refunding", 3))
    store.learn(payment(order_id, "refunded", 4))
    order = store.order(order_id)
    assert (order.status, order.reason) == ("rejected", "reservation_expired")
    assert store.said() == ["order.rejected.v1"]


def test_a_whole_life_in_one_batch_asks_for_nothing_and_announces_the_end_once(
    store: Store, order_id: UUID
) -> None:
    store.learn(
        stock(order_id, "held", 1),
        payment(order_id, "processing", 1),
        payment(order_id, "captured", 2),
        stock(order_id, "committed", 2),
    )
    assert store.said() == ["order.confirmed.v1"]
    assert [entry.version for entry in store.history(order_id)] == [1, 2, 3, 4, 5]


def test_each_end_is_announced_once_also_when_one_follows_the_other(
    store: Store, order_id: UUID
) -> None:
    store.confirm(order_id)
    store.accepted(order_id)
    undone = [stock(order_id, "restocked", 3), payment(order_id, "refunded", 4)]
    store.learn(*undone)
    store.learn(*undone)
    told = [e.data for e in store.published() if e.type.startswith("order.")]
    assert told == [
        OrderConfirmed(order_id=order_id, customer_id="alice", currency="EUR", total=500),
        OrderCancelled(
            order_id=order_id,
            customer_id="alice",
            reason="cancelled_by_customer",
            currency="EUR",
            total=500,
        ),
    ]


# ---- late, twice, in any order


def test_what_is_said_twice_has_its_effect_once(store: Store, order_id: UUID) -> None:
    held = stock(order_id, "held", 1)
    store.learn(held, held)
    store.learn(held)
    store.learn(stock(order_id, "held", 1))  # the same news in another message
    assert store.changes(order_id) == ["placed", "stock_held"]
    assert store.said() == ["payment.charge.v1"]


def test_older_news_changes_nothing(store: Store, order_id: UUID) -> None:
    store.learn(stock(order_id, "released", 2))
    before = store.order(order_id).version
    store.learn(stock(order_id, "held", 1))
    order = store.order(order_id)
    assert (order.stock, order.version) == ("released", before)


def test_news_in_any_order_leads_to_the_same_end(store: Store) -> None:
    lives = [("held", 1), ("committed", 2), ("processing", 1), ("captured", 2)]
    for order in permutations(lives):
        order_id = store.place({"tea": 1})
        for state, version in order:
            tell = stock if state in ("held", "committed") else payment
            store.learn(tell(order_id, state, version))
        assert store.order(order_id).status == "confirmed", order
        versions = [entry.version for entry in store.history(order_id)]
        assert versions == list(range(1, len(versions) + 1))


def test_news_of_an_order_we_never_placed_is_passed_over(store: Store, order_id: UUID) -> None:
    store.learn(
        stock(new_id(), "held", 1), stock(order_id, "held", 1), payment(new_id(), "none", 0)
    )
    assert store.order(order_id).stock == "held"
    assert store.count("orders") == 1


def test_an_answer_that_there_is_nothing_changes_nothing(store: Store, order_id: UUID) -> None:
    store.learn(stock(order_id, "none", 0), payment(order_id, "none", 0))
    assert store.changes(order_id) == ["placed"]


def test_news_of_many_orders_in_one_batch_find_their_own(store: Store) -> None:
    ids = [store.place({"tea": 1}) for _ in range(20)]
    store.published()
    store.learn(*(stock(i, "held" if n % 2 else "refused", 1) for n, i in enumerate(ids)))
    assert [store.order(i).stock for i in ids] == ["refused", "held"] * 10
    assert sorted(store.said()) == ["order.rejected.v1"] * 10 + ["payment.charge.v1"] * 10


def test_workers_that_learn_of_the_same_orders_at_once_neither_deadlock_nor_repeat(
    store: Store,
) -> None:
    ids = [store.place({"tea": 1}) for _ in range(10)]
    store.published()
    stocks = [stock(i, "held", 1) for i in ids]
    payments = [payment(i, "captured", 2) for i in reversed(ids)]
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(store.learn, *news) for news in (stocks, payments) * 4]
        for future in done:
            future.result(10)
    assert {tuple(sorted(store.changes(i))) for i in ids} == {
        ("payment_captured", "placed", "stock_held")
    }
    assert store.said().count("stock.commit.v1") == 10


def test_a_restored_order_catches_up_with_what_had_happened(store: Store, order_id: UUID) -> None:
    # Its database was set back to the moment of placement; the participants have long been through.
    store.learn(stock(order_id, "committed", 2))
    assert store.order(order_id).status == "pending"
    assert store.said() == ["payment.charge.v1"]
    store.learn(payment(order_id, "captured", 2))
    assert store.order(order_id).status == "confirmed"


# ---- what is written


def test_history_names_each_change_its_actor_and_its_cause(store: Store, order_id: UUID) -> None:
    held = stock(order_id, "held", 1, traceparent=ANOTHER_TRACE)
    store.learn(held)
    store.accepted(order_id)
    placed, learnt, cancelled = store.history(order_id)
    assert (placed.kind, placed.actor, placed.message_id) == ("placed", "alice", None)
    assert placed.trace_id == A_TRACE[3:35]
    assert (learnt.kind, learnt.actor) == ("stock_held", "system")
    assert (learnt.message_id, learnt.message_topic) == (held.envelope.id, "inventory.events")
    assert (learnt.message_partition, learnt.message_offset) == (2, 7)
    assert learnt.trace_id == ANOTHER_TRACE[3:35]
    assert (learnt.status, learnt.stock, learnt.payment) == ("pending", "held", "requested")
    assert (cancelled.kind, cancelled.actor) == ("cancel_requested", "alice")
    assert (cancelled.goal, cancelled.reason) == ("abort", "cancelled_by_customer")
    assert store.order(order_id).version == cancelled.version == 3


def test_a_message_that_follows_names_the_one_that_caused_it(store: Store, order_id: UUID) -> None:
    held = stock(order_id, "held", 1)
    late = payment(order_id, "none", 0)  # in the same batch, but no cause of anything
    store.learn(held, late)
    (charge,) = store.published()
    assert charge.causation_id == str(held.envelope.id)
    assert (charge.correlation_id, charge.traceparent) == (str(order_id), A_TRACE)
    assert charge.sequence == 2


def test_the_database_refuses_a_second_change_by_one_message(store: Store, order_id: UUID) -> None:
    held = stock(order_id, "held", 1)
    store.learn(held)
    again = stock(order_id, "released", 2, id=held.envelope.id)
    with pytest.raises(DBAPIError) as caught:
        store.learn(again)
    assert isinstance(caught.value.orig, psycopg2.errors.UniqueViolation)
    assert caught.value.orig.diag.constraint_name == "uq_order_history_message_id"


@pytest.fixture(scope="module")
def paid(databases: Databases) -> Iterator[Store]:
    """A database with one order, held and captured; for what is refused and so changes nothing."""
    sessions = databases.sessions(databases.fresh("orderdb"), "order_service")
    catalogue_of(sessions, tea=500)
    store = Store(sessions)
    order_id = store.place({"tea": 1})
    store.learn(stock(order_id, "held", 1), payment(order_id, "captured", 2))
    yield store
    sessions.kw["bind"].dispose()


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'confirmed'", "ck_orders_confirmed"),
        ("status = 'confirmed', stock = 'committed', payment = 'unknown'", "ck_orders_confirmed"),
        (
            "status = 'confirmed', stock = 'committed', goal = 'abort', reason = 'timed_out'",
            "ck_orders_confirmed",
        ),
        ("status = 'rejected', goal = 'abort', reason = 'out_of_stock'", "ck_orders_closed"),
        (
            "status = 'cancelled', goal = 'abort', reason = 'timed_out', payment = 'none'",
            "ck_orders_closed",
        ),
        (
            "status = 'cancelled', goal = 'abort', reason = 'timed_out', stock = 'released'",
            "ck_orders_closed",
        ),
        ("goal = 'abort'", "ck_orders_reason"),
        ("reason = 'timed_out'", "ck_orders_reason"),
        ("status = 'shipped'", "ck_orders_status"),
        ("stock = 'lost'", "ck_orders_stock"),
        ("payment = 'free'", "ck_orders_payment"),
        ("total = 0", "ck_orders_total"),
    ],
)
def test_the_database_refuses_what_can_not_be(paid: Store, change: str, constraint: str) -> None:
    with pytest.raises(DBAPIError) as caught, paid.sessions.begin() as session:
        session.execute(text(f"UPDATE orders SET due_at = NULL, {change}"))
    assert isinstance(caught.value.orig, psycopg2.errors.CheckViolation)
    assert caught.value.orig.diag.constraint_name == constraint


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE order_lines SET unit_price = 1, total = 1",
        "DELETE FROM order_lines",
        "UPDATE order_history SET actor = 'nobody'",
        "DELETE FROM order_history",
        "DELETE FROM orders",
        "TRUNCATE orders CASCADE",
        "ALTER TABLE orders DROP CONSTRAINT ck_orders_confirmed",
        "CREATE TABLE mine (id integer)",
    ],
)
def test_the_services_role_can_not_rewrite_what_happened(paid: Store, statement: str) -> None:
    with pytest.raises(DBAPIError) as caught, paid.sessions.begin() as session:
        session.execute(text(statement))
    assert sql_state(caught.value) == "42501"  # insufficient privilege


# ---- the catalogue


def take_in(store: Store, *versions: tuple[int, dict[str, Any]]) -> None:
    with store.sessions.begin() as session:
        messages = [item_changed("cup", version, **changes) for version, changes in versions]
        store.desk.take_in_catalogue(session, messages)


def test_an_item_becomes_known_and_follows_its_changes(store: Store) -> None:
    take_in(store, (1, {"unit_price": 300}))
    assert store.place({"cup": 1})
    take_in(store, (2, {"unit_price": 400, "active": False}))
    with store.sessions() as session:
        cup = repository.load_catalogue(session, ["cup"])["cup"]
    assert (cup.name, cup.unit_price, cup.active, cup.version) == ("Cup", 400, False, 2)


def test_older_and_equal_versions_of_an_item_change_nothing(store: Store) -> None:
    take_in(store, (3, {"unit_price": 300}))
    take_in(store, (2, {"unit_price": 200}), (3, {"unit_price": 999}))
    assert _price(store) == 300


def test_of_several_versions_in_one_batch_the_newest_counts(store: Store) -> None:
    take_in(store, (2, {"unit_price": 200}), (5, {"unit_price": 500}), (4, {"unit_price": 400}))
    assert _price(store) == 500


def test_workers_that_take_in_the_same_items_at_once_agree(store: Store) -> None:
    def take(number: int) -> None:
        skus = [f"sku-{n}" for n in range(20)]
        with store.sessions.begin() as session:
            order = skus if number % 2 else skus[::-1]
            messages = [item_changed(sku, number + 1, unit_price=number + 1) for sku in order]
            store.desk.take_in_catalogue(session, messages)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(take, range(12)))
    with store.sessions() as session:
        prices = session.scalars(
            text("SELECT DISTINCT unit_price FROM catalogue_items WHERE sku LIKE 'sku-%'")
        ).all()
    assert list(prices) == [12]


def _price(store: Store) -> int:
    result = store.run(a_wish({"cup": 1}))
    return int(getattr(result, "order").total)  # noqa: B009 - a Placed, or the test fails


def test_what_becomes_of_an_order_is_logged_once_it_is_durable(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="order_service.reporting")
    order_id = store.place({"tea": 1})
    store.learn(stock(order_id, "refused", 1))
    said = [(record.getMessage(), vars(record)["order_id"]) for record in caplog.records]
    assert said == [("order placed", str(order_id)), ("order rejected", str(order_id))]


def test_nothing_is_said_of_a_change_that_was_rolled_back(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="order_service.reporting")
    with store.sessions() as session:
        a_desk().handle_commands(session, [a_wish({"tea": 1})])
        session.rollback()
    assert caplog.records == []
