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
    assert desk.said(order) == [(S.PROCESSING, 1), (S.CAPTURED, 2)]
    book = desk.book(order)
    assert book is not None
    assert (book.captured, book.refunded) == (AMOUNT, 0)


def test_a_result_carries_the_cause_and_the_trace_of_its_command(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.work()
    answer, event = desk.envelopes(order)
    assert answer.causation_id == event.causation_id
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
    assert desk.said(order)[2:] == [(S.REFUNDING, 3), (S.REFUNDED, 4)]


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
    assert desk.said(order) == [(S.PROCESSING, 1)] * 3


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
    assert desk.said(one) == [(S.PROCESSING, 1)] * 2
    assert desk.said(other) == [(S.CANCELLED, 1)] * 2
    assert desk.said(third) == [(S.PROCESSING, 1)] * 3
    assert len(desk.intent(one).operations) == 1
    desk.work()
    assert [desk.state(order) for order in (one, other, third)] == [
        S.CAPTURED,
        S.CANCELLED,
        S.CANCELLED,
    ]


def test_another_amount_for_the_same_order_changes_nothing(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.give(a_charge(order, amount=AMOUNT + 1))
    desk.work()
    book = desk.book(order)
    assert book is not None
    assert book.captured == desk.intent(order).amount == AMOUNT
