"""Asking again, giving up at the deadline, and the orders that wait for an operator."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from uuid import UUID

import pytest
from ecom_common.clock import database_time
from order_service import repository

from tests.support.databases import Databases
from tests.support.orders import Store, a_desk, emptied_stores, payment, stock

DEADLINE_S = 900


@pytest.fixture(scope="module")
def empty_store(databases: Databases) -> Iterator[Callable[[], Store]]:
    with emptied_stores(databases) as stores:
        yield stores


@pytest.fixture
def store(empty_store: Callable[[], Store]) -> Store:
    return empty_store()


@pytest.fixture
def order_id(store: Store) -> UUID:
    """A fresh order, whose first messages have gone out and were not answered."""
    found = store.place({"tea": 1})
    store.published()
    return found


def is_due_in(store: Store, order_id: UUID, seconds: float) -> bool:
    """Whether the sweeper was told, a moment ago, to look after so many seconds."""
    due_at = store.order(order_id).due_at
    with store.sessions.begin() as session:
        store.shift(session)
        now = database_time(session)
    assert due_at is not None
    return seconds - 1 < (due_at - now).total_seconds() <= seconds


def flag(store: Store, order_id: UUID) -> None:
    """Leave the order without an answer until it is flagged."""
    store.desk = a_desk(max_asks=2)
    while store.order(order_id).flagged_at is None:
        store.wait(10)
        assert store.sweep() == 1
        store.published()


# ---- asking again


def test_while_answers_come_late_nobody_is_asked_again_before_they_can_be_there(
    store: Store,
) -> None:
    others = [store.place({"tea": 1}) for _ in range(60)]
    store.wait(5)
    store.learn(*(stock(other, "held", 1) for other in others))
    fresh = store.place({"tea": 1})
    store.published()
    store.wait(3)  # of two, and a half more by jitter
    assert (store.sweep(), store.said()) == (0, [])
    store.wait(5)
    assert store.sweep() == 61
    assert "stock.reserve.v1" in store.said()
    assert store.order(fresh).asks == 1


def test_one_late_answer_makes_nobody_patient(store: Store, order_id: UUID) -> None:
    store.wait(600)
    store.learn(stock(order_id, "held", 1))
    store.published()
    store.wait(3)
    assert store.sweep() == 1


def test_nothing_is_asked_again_before_its_time(store: Store, order_id: UUID) -> None:
    store.wait(1)  # of two; the rest is for a machine that is busy
    assert (store.sweep(), store.said()) == (0, [])


def test_what_was_not_answered_is_asked_again_with_a_new_message_id(store: Store) -> None:
    store.place({"tea": 1})
    first = store.published()[-1]
    store.wait(2.1)
    assert store.sweep() == 1
    (again,) = store.published()
    assert again.data == first.data
    assert again.id != first.id


def test_the_waits_double_up_to_their_limit(store: Store, order_id: UUID) -> None:
    store.desk = a_desk(ask_again_after_s=2, ask_again_at_most_s=30)
    assert is_due_in(store, order_id, 2)
    for wait, following in pairwise([2, 4, 8, 16, 30, 30, 30]):
        store.wait(wait)
        assert store.sweep() == 1
        assert is_due_in(store, order_id, following)
        store.published()


def test_an_answer_begins_the_waits_anew(store: Store, order_id: UUID) -> None:
    for _ in range(3):
        store.wait(20)
        assert store.sweep() == 1
        store.published()
    assert store.order(order_id).asks == 3
    store.learn(stock(order_id, "held", 1))
    assert store.order(order_id).asks == 0
    assert is_due_in(store, order_id, 2)


def test_asking_again_is_no_change_of_the_order(store: Store, order_id: UUID) -> None:
    store.wait(3)
    store.sweep()
    assert store.changes(order_id) == ["placed"]
    assert store.order(order_id).version == 1


def test_what_is_still_unsent_is_not_asked_again(store: Store) -> None:
    order_id = store.place({"tea": 1})
    store.wait(100)
    assert store.sweep() == 0
    assert store.said() == ["order.placed.v1", "stock.reserve.v1"]
    assert store.sweep() == 1
    assert store.order(order_id).asks == 1


def test_everything_outstanding_is_asked_again(store: Store, order_id: UUID) -> None:
    store.learn(stock(order_id, "held", 1))
    store.accepted(order_id)
    store.published()
    store.wait(3)
    store.sweep()
    assert store.said() == ["payment.cancel.v1", "stock.release.v1"]


@pytest.mark.parametrize("end", ["confirmed", "rejected", "cancelled"])
def test_final_orders_are_left_alone(store: Store, order_id: UUID, end: str) -> None:
    if end == "confirmed":
        store.confirm(order_id)
    elif end == "rejected":
        store.learn(stock(order_id, "refused", 1))
    else:
        store.accepted(order_id)
        store.learn(stock(order_id, "released", 1))
    store.published()
    store.wait(DEADLINE_S * 2)
    assert (store.order(order_id).status, store.order(order_id).due_at) == (end, None)
    assert (store.sweep(), store.said()) == (0, [])


def test_a_round_takes_the_longest_due_and_no_more_than_it_may(store: Store) -> None:
    store.desk = a_desk(ask_again_after_s=5)
    patient = [store.place({"tea": 1}) for _ in range(2)]
    store.desk = a_desk(ask_again_after_s=2)
    hasty = [store.place({"tea": 1}) for _ in range(3)]
    store.published()
    store.wait(6)
    assert store.sweep(most=3) == 3
    assert {e.subject for e in store.published()} == {str(i) for i in hasty}
    assert store.sweep(most=3) == 2
    assert {e.subject for e in store.published()} == {str(i) for i in patient}
    assert store.sweep(most=3) == 0


def test_two_sweepers_at_once_ask_each_order_once(store: Store) -> None:
    ids = [store.place({"tea": 1}) for _ in range(30)]
    store.published()
    store.wait(3)
    with ThreadPoolExecutor(4) as threads:
        done = sum(threads.map(lambda _: store.sweep(most=10), range(12)))
    assert done == 30
    assert sorted(e.subject for e in store.published()) == sorted(map(str, ids))


def test_a_sweeper_passes_over_an_order_that_is_being_changed(store: Store, order_id: UUID) -> None:
    store.wait(3)
    with store.sessions.begin() as session:
        repository.lock_orders(session, [order_id])
        assert store.sweep() == 0
    assert store.sweep() == 1


# ---- the deadline


def test_an_order_is_given_up_at_its_deadline(store: Store, order_id: UUID) -> None:
    store.learn(stock(order_id, "held", 1))
    store.published()
    store.wait(DEADLINE_S + 1)
    store.sweep()
    order = store.order(order_id)
    assert (order.status, order.reason) == ("cancelling", "timed_out")
    assert store.said() == ["payment.cancel.v1", "stock.release.v1"]
    store.learn(stock(order_id, "released", 2), payment(order_id, "cancelled", 1))
    assert store.order(order_id).status == "cancelled"
    assert store.history(order_id)[1].actor == "system"
    assert store.said() == ["order.cancelled.v1"]


def test_the_sweeper_looks_at_the_deadline_even_between_two_waits(
    store: Store, order_id: UUID
) -> None:
    store.desk = a_desk(ask_again_after_s=60)
    store.wait(DEADLINE_S - 2)
    store.sweep()
    assert is_due_in(store, order_id, 2)


def test_the_deadline_holds_while_nothing_can_be_sent(store: Store) -> None:
    order_id = store.place({"tea": 1})  # its messages stay in the outbox
    store.wait(DEADLINE_S + 1)
    assert (store.sweep(), store.sweep()) == (1, 0)
    assert store.order(order_id).reason == "timed_out"
    assert store.said() == ["order.placed.v1", "stock.reserve.v1", "stock.release.v1"]


def test_an_order_that_is_being_given_up_keeps_its_reason_beyond_the_deadline(
    store: Store, order_id: UUID
) -> None:
    store.learn(stock(order_id, "held", 1), payment(order_id, "declined", 1))
    store.published()
    store.wait(DEADLINE_S + 1)
    store.sweep()
    assert store.said() == ["stock.release.v1"]
    store.learn(stock(order_id, "released", 2))
    order = store.order(order_id)
    assert (order.status, order.reason) == ("rejected", "payment_declined")


# ---- for an operator


def test_an_order_that_nobody_answers_is_flagged_and_not_asked_again(
    store: Store, order_id: UUID
) -> None:
    flag(store, order_id)
    assert store.changes(order_id) == ["placed", "flagged"]
    assert store.order(order_id).status == "pending"
    store.wait(DEADLINE_S / 2)
    assert (store.sweep(), store.said()) == (0, [])


def test_a_flagged_order_is_given_up_at_its_deadline_all_the_same(
    store: Store, order_id: UUID
) -> None:
    flag(store, order_id)
    store.wait(DEADLINE_S)
    store.sweep()
    order = store.order(order_id)
    assert (order.reason, order.flagged_at) == ("timed_out", None)
    assert store.said() == ["stock.release.v1"]


def test_an_answer_lifts_the_flag(store: Store, order_id: UUID) -> None:
    flag(store, order_id)
    store.learn(stock(order_id, "held", 1))
    assert store.order(order_id).flagged_at is None
    assert store.said() == ["payment.charge.v1"]
    store.wait(3)
    assert store.sweep() == 1


def test_an_operator_lifts_the_flag_and_everything_is_asked_again(
    store: Store, order_id: UUID
) -> None:
    flag(store, order_id)
    assert store.lift_flag(order_id, note="inventory is back")
    assert store.said() == ["stock.reserve.v1"]
    entry = store.history(order_id)[-1]
    assert (entry.kind, entry.actor, entry.note) == ("flag_lifted", "olga", "inventory is back")
    assert (store.order(order_id).asks, store.order(order_id).flagged_at) == (0, None)
    assert is_due_in(store, order_id, 2)


def test_only_a_flagged_order_has_a_flag_to_lift(store: Store, order_id: UUID) -> None:
    assert store.lift_flag(order_id) is False
    assert store.changes(order_id) == ["placed"]


def test_a_failed_refund_waits_for_an_operator(store: Store, order_id: UUID) -> None:
    _fail_the_refund(store, order_id)
    assert store.order(order_id).flagged_at is not None
    store.wait(DEADLINE_S * 2)
    assert (store.sweep(), store.said()) == (0, [])


def test_other_news_do_not_take_a_failed_refund_from_its_operator(
    store: Store, order_id: UUID
) -> None:
    _fail_the_refund(store, order_id)
    store.learn(stock(order_id, "restocked", 3))
    assert store.order(order_id).flagged_at is not None
    store.wait(DEADLINE_S)
    assert (store.sweep(), store.said()) == (0, [])


def test_an_operator_who_cancels_has_a_failed_refund_asked_for_again(
    store: Store, order_id: UUID
) -> None:
    _fail_the_refund(store, order_id)
    store.learn(stock(order_id, "restocked", 3))
    store.accepted(order_id)
    assert store.said() == []  # its customer may ask, to no effect
    store.accepted(order_id, customer=None)
    assert store.said() == ["payment.cancel.v1"]
    assert store.changes(order_id)[-1] == "flag_lifted"
    store.learn(payment(order_id, "refunding", 5), payment(order_id, "refunded", 6))
    assert store.order(order_id).status == "cancelled"


def test_an_operator_who_cancels_what_was_failing_has_its_refund_asked_for_again(
    store: Store, order_id: UUID
) -> None:
    store.learn(stock(order_id, "held", 1), payment(order_id, "captured", 2))
    store.learn(stock(order_id, "released", 2), payment(order_id, "refund_failed", 4))
    store.published()
    order = store.accepted(order_id, customer=None)
    assert (order.status, order.flagged_at) == ("cancelling", None)
    assert store.changes(order_id)[-2:] == ["cancel_requested", "flag_lifted"]
    assert store.said() == ["payment.cancel.v1"]


def test_flagged_and_stuck_orders_are_counted(store: Store, order_id: UUID) -> None:
    store.place({"tea": 1})
    flag_me = order_id
    _fail_the_refund(store, flag_me)
    with store.sessions.begin() as session:
        assert repository.count_open(session, most=100) == 2
        assert repository.count_open(session, most=1) == 1
        assert (repository.count_flagged(session), repository.count_stuck(session)) == (1, 0)
        store.wait(DEADLINE_S + 61)
        store.shift(session)
        assert repository.count_stuck(session) == 2


def _fail_the_refund(store: Store, order_id: UUID) -> None:
    store.confirm(order_id)
    store.accepted(order_id)
    store.learn(payment(order_id, "refunding", 3), payment(order_id, "refund_failed", 4))
    store.published()
