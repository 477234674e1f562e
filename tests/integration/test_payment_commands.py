"""Charges and cancels as they come: in any order, repeated, and many in a batch."""

import pytest
from ecom_common.database import Sessions
from ecom_common.ids import new_id
from ecom_contracts.messages import PaymentState as S

from tests.support.payments import AMOUNT, TRACE, PaymentDesk, a_cancel, a_charge


@pytest.fixture
def desk(payment_sessions: Sessions, provider_url: str) -> PaymentDesk:
    return PaymentDesk(payment_sessions, provider_url)


def test_a_charge_is_captured_booked_and_told(desk: PaymentDesk) -> None:
    order = desk.charge()
    assert desk.work() == 1
    intent = desk.intent(order)
    assert (intent.state, intent.captured, intent.refunded) == (S.CAPTURED, AMOUNT, 0)
    assert desk.booked(order) == {"provider_clearing": AMOUNT, "customer_receipts": -AMOUNT}
    assert desk.said(order) == [(S.CAPTURED, 2)], (
        "a charge is answered when something has come of it"
    )
    book = desk.book(order)
    assert book is not None
    assert (book.captured, book.refunded) == (AMOUNT, 0)


def test_a_result_carries_the_cause_and_the_trace_of_its_command(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.work()
    (event,) = desk.envelopes(order)
    assert event.causation_id == str(desk.intent(order).operations[0].cause_id)
    assert (event.correlation_id, event.traceparent) == ("a-correlation", TRACE)
    assert event.sequence == event.data.version == 2
    assert event.data.payment_id == desk.intent(order).id


def test_a_cancel_of_a_captured_charge_refunds_in_full(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.work()
    desk.cancel(order)
    assert desk.state(order) is S.REFUNDING
    desk.work()
    assert desk.state(order) is S.REFUNDED
    assert desk.booked(order) == {"provider_clearing": 0, "customer_receipts": 0}
    assert desk.said(order)[1:] == [(S.REFUNDING, 3), (S.REFUNDED, 4)]


def test_a_cancel_before_the_charge_leaves_a_tombstone(desk: PaymentDesk) -> None:
    order = new_id()
    desk.cancel(order)
    desk.charge(order_id=order)
    assert desk.work() == 0
    intent = desk.intent(order)
    assert (intent.state, intent.amount, intent.operations) == (S.CANCELLED, AMOUNT, [])
    assert desk.said(order) == [(S.CANCELLED, 1), (S.CANCELLED, 1)]
    assert desk.book(order) is None


@pytest.mark.parametrize(
    ("method", "final"),
    [("pm_card_visa", S.CAPTURED), ("pm_card_chargeDeclined", S.DECLINED)],
)
def test_a_command_that_comes_again_is_answered_with_the_stored_state(
    desk: PaymentDesk, method: str, final: S
) -> None:
    order = desk.charge(method)
    desk.work()
    desk.charge(method, order_id=order)
    assert desk.work() == 0
    assert desk.said(order)[-1] == (final, 2)
    assert len(desk.intent(order).operations) == 1


def test_a_cancel_while_the_charge_is_under_way_is_remembered_once(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.cancel(order)
    desk.cancel(order)
    intent = desk.intent(order)
    assert (intent.state, intent.version) == (S.PROCESSING, 1)
    assert intent.cancel_requested_at is not None
    assert [o.kind for o in intent.operations] == ["charge", "void"]
    assert desk.said(order) == [(S.PROCESSING, 1)] * 2


def test_commands_about_one_order_in_one_batch_are_applied_in_order(desk: PaymentDesk) -> None:
    one, other, third = new_id(), new_id(), new_id()
    desk.give(
        a_charge(one),
        a_cancel(other),
        a_charge(one),
        a_charge(other),
        a_charge(third),
        a_cancel(third),
        a_cancel(third),
    )
    assert desk.said(one) == [(S.PROCESSING, 1)]
    assert desk.said(other) == [(S.CANCELLED, 1)] * 2
    assert desk.said(third) == [(S.PROCESSING, 1)] * 2
    assert len(desk.intent(one).operations) == 1
    desk.work()
    assert [desk.state(order) for order in (one, other, third)] == [
        S.CAPTURED,
        S.CANCELLED,
        S.CANCELLED,
    ]


def test_new_operations_are_leased_with_the_command_as_far_as_there_is_room(
    desk: PaymentDesk,
) -> None:
    commands = [a_charge() for _ in range(3)]
    leased = desk.give(*commands, most=2)
    assert {job.order_id for job in leased} <= {c.order_id for c in commands}
    assert [(job.attempt, job.key) for job in leased] == [
        (1, f"{job.order_id}:charge:1") for job in leased
    ]
    (left,) = desk.claim()
    assert {job.order_id for job in [*leased, left]} == {c.order_id for c in commands}
    desk.record(*(desk.ask(job) for job in [*leased, left]))
    assert {desk.state(c.order_id) for c in commands} == {S.CAPTURED}


def test_a_lease_that_came_with_the_command_ends(desk: PaymentDesk) -> None:
    command = a_charge()
    (job,) = desk.give(command, most=1)
    assert desk.claim() == []
    (again,) = desk.later("2min").claim()
    assert (again.operation_id, again.key, again.attempt) == (job.operation_id, job.key, 2)


def test_what_was_settled_by_the_same_batch_is_not_leased(desk: PaymentDesk) -> None:
    order = new_id()
    assert desk.give(a_cancel(order), a_charge(order), most=5) == []


def test_another_amount_for_the_same_order_changes_nothing(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.give(a_charge(order, amount=AMOUNT + 1))
    desk.work()
    book = desk.book(order)
    assert book is not None
    assert book.captured == desk.intent(order).amount == AMOUNT
