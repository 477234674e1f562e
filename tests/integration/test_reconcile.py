"""After a restore: what the orders ask for again, and what the inventory does before it goes on."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from ecom_common.batch import Failed, apply_batch
from ecom_common.bulk import send
from ecom_common.database import Sessions
from ecom_common.ids import new_id
from ecom_contracts.messages import ItemChanged, PaymentCancel
from inventory_service import reconcile as inventory
from inventory_service.commands import PutItem
from inventory_service.models import ItemContent
from inventory_service.service import handle_commands
from order_service import reconcile as orders
from order_service.commands import Intervention, Verb
from order_service.reconcile import Unknown
from sqlalchemy import text

from tests.support.databases import Databases
from tests.support.orders import Store, emptied_stores, payment
from tests.support.orders import stock as stock_changed

DEADLINE_S = 900


@pytest.fixture(scope="module")
def empty_store(databases: Databases) -> Iterator[Callable[[], Store]]:
    with emptied_stores(databases) as stores:
        yield stores


@pytest.fixture
def store(empty_store: Callable[[], Store]) -> Store:
    return empty_store()


@pytest.fixture
def stock(databases: Databases) -> Iterator[Sessions]:
    sessions = databases.sessions(databases.fresh("inventorydb"), "inventory_service")
    yield sessions
    sessions.kw["bind"].dispose()


def repeat(store: Store) -> None:
    """What the command does, by the store's clock."""
    for ids in orders.all_orders(store.sessions):
        with store.sessions.begin() as session:
            store.shift(session)
            orders.repeat_steps(session, ids, deadline=timedelta(seconds=DEADLINE_S))


def test_a_confirmed_order_asks_for_all_its_steps_in_their_order(store: Store) -> None:
    store.confirm(store.place({"tea": 1}))
    store.published()

    repeat(store)

    assert store.said() == ["stock.reserve.v1", "stock.commit.v1", "payment.charge.v1"]


def test_a_refund_that_was_made_elsewhere_is_not_asked_for_again(store: Store) -> None:
    order_id = store.place({"tea": 1})
    store.confirm(order_id)
    store.accepted(order_id)
    store.learn(payment(order_id, "refund_failed", 4), stock_changed(order_id, "restocked", 3))
    store.published()
    with store.sessions.begin() as session:
        wish = Intervention(Verb.RESOLVE, order_id, "olga", "bank transfer 4711")
        store.desk.intervene(session, [wish])

    repeat(store)

    assert store.said() == ["stock.release.v1", "payment.charge.v1"]


def test_an_open_order_whose_deadline_passed_while_it_was_away_is_not_given_up(
    store: Store,
) -> None:
    order_id = store.place({"tea": 1})
    store.published()
    store.wait(DEADLINE_S + 3600)

    repeat(store)
    assert store.said() == ["stock.reserve.v1"]
    store.wait(1)
    store.sweep()

    assert store.order(order_id).status == "pending"
    assert "timed_out" not in store.changes(order_id)


def test_every_order_is_found_however_many_there_are(store: Store) -> None:
    placed = [store.place({"tea": 1}) for _ in range(5)]

    assert [i for page in orders.all_orders(store.sessions, at_once=2) for i in page] == placed


def test_what_is_unknown_is_given_back_and_what_is_ours_is_not(store: Store) -> None:
    ours = store.place({"tea": 1})
    store.published()
    paid = Unknown(order_id=new_id(), customer_id="alice", currency="EUR", amount=500)
    only_held = Unknown(order_id=new_id())

    outcomes = apply_batch(
        store.sessions, orders.undo, [paid, only_held, Unknown(order_id=ours)], name="tests"
    )

    assert not [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    said = store.published()
    assert [(envelope.type, envelope.subject) for envelope in said] == [
        ("stock.release.v1", str(paid.order_id)),
        ("payment.cancel.v1", str(paid.order_id)),
        ("stock.release.v1", str(only_held.order_id)),
    ]
    assert isinstance(said[1].data, PaymentCancel)
    assert said[1].data.amount == 500


def test_what_is_held_is_held_on_and_nothing_else_is_touched(stock: Sessions) -> None:
    held, released = new_id(), new_id()
    with stock.begin() as session:
        for order_id, state, until in ((held, "held", "db_now()"), (released, "released", "NULL")):
            session.execute(
                text(
                    f"INSERT INTO reservations VALUES (:id, :s, 1, '[]', {until}, db_now(), db_now())"
                ),
                {"id": order_id, "s": state},
            )

    apply_batch(stock, inventory.hold_on, [timedelta(minutes=20)], name="tests")

    with stock() as session:
        left = session.execute(
            text("SELECT order_id, expires_at > db_now() + interval '19 minutes' FROM reservations")
        )
        assert {row[0]: row[1] for row in left} == {held: True, released: None}


def test_items_are_published_as_news_to_whoever_knows_newer_ones(stock: Sessions) -> None:
    content = ItemContent(name="Tea", description=None, unit_price=100, currency="EUR", active=True)
    with stock.begin() as session:
        handle_commands(session, [PutItem(sku="tea", content=content)])
        send(session)
        session.execute(text("DELETE FROM outbox"))

    (skus,) = inventory.all_skus(stock)
    apply_batch(stock, inventory.publish_again, skus, name="tests")

    with stock() as session:
        stored = session.scalar(text("SELECT version FROM items WHERE sku = 'tea'"))
        payload = session.scalar(text("SELECT convert_from(payload, 'UTF8') FROM outbox"))
    assert stored == 1 + inventory.VERSIONS_LOST
    assert f'"version":{stored}' in payload
    assert ItemChanged.TYPE in payload
