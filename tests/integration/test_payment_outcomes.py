"""Whatever the provider does or fails to do, money is moved once or not at all, and we know which."""

from uuid import UUID

import pytest
from ecom_common.database import Sessions
from ecom_contracts.messages import PaymentState as S
from payment_service.states import OperationState

from tests.support.payments import AMOUNT, Interrupted, PaymentDesk


@pytest.fixture
def desk(payment_sessions: Sessions, provider_url: str) -> PaymentDesk:
    return PaymentDesk(payment_sessions, provider_url)


def _taken(desk: PaymentDesk, order: UUID) -> int:
    """By the provider's book; our own books must agree with it."""
    book = desk.book(order)
    intent = desk.intent(order)
    in_the_book = (book.captured, book.refunded) if book else (0, 0)
    assert in_the_book == (intent.captured, intent.refunded)
    clearing = desk.booked(order).get("provider_clearing", 0)
    assert clearing == in_the_book[0] - in_the_book[1]
    return clearing


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("pm_card_chargeDeclined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedLostCard", "lost_card"),
        ("pm_nobody_knows_this", "invalid_payment_method"),
    ],
)
def test_a_decline_is_final_and_says_why(desk: PaymentDesk, method: str, code: str) -> None:
    order = desk.charge(method)
    desk.work()
    intent = desk.intent(order)
    assert (intent.state, intent.decline_code) == (S.DECLINED, code)
    assert desk.envelopes(order)[-1].data.decline_code == code
    assert _taken(desk, order) == 0
    desk.cancel(order)
    assert desk.work() == 0
    assert desk.said(order)[-1] == (S.DECLINED, 2)


@pytest.mark.parametrize(
    ("method", "final", "taken"),
    [
        ("pm_sim_timeoutThenSuccess", S.CAPTURED, AMOUNT),
        ("pm_sim_timeoutThenDecline", S.DECLINED, 0),
        ("pm_sim_neverSeen", S.CAPTURED, AMOUNT),
        ("pm_sim_error", S.CAPTURED, AMOUNT),
    ],
)
def test_a_missing_answer_is_unknown_and_asked_for_again_with_the_same_key(
    desk: PaymentDesk, method: str, final: S, taken: int
) -> None:
    order = desk.charge(method)
    desk.work()
    assert desk.state(order) is S.UNKNOWN
    charge = desk.operation(order, "charge:1")
    assert charge.state is OperationState.UNKNOWN
    assert charge.last_error
    desk.work()
    assert desk.state(order) is final
    assert desk.operation(order, "charge:1").attempts == 2
    assert desk.said(order) == [(S.UNKNOWN, 2), (final, 3)]
    assert _taken(desk, order) == taken


def test_a_late_success_is_waited_for(desk: PaymentDesk) -> None:
    order = desk.charge("pm_sim_lateSuccess")
    desk.work(rounds=3)
    assert desk.state(order) is S.UNKNOWN
    later = desk.later("10s")
    later.work()
    assert later.state(order) is S.CAPTURED
    assert _taken(later, order) == AMOUNT


def test_a_cancel_that_meets_a_charge_the_provider_never_saw_ends_uncharged(
    desk: PaymentDesk,
) -> None:
    order = desk.charge("pm_sim_neverSeen")
    desk.work()
    assert desk.state(order) is S.UNKNOWN
    assert desk.book(order) is None
    desk.cancel(order)
    desk.work()
    assert desk.state(order) is S.CANCELLED
    assert _taken(desk, order) == 0
    # The fence stands: nothing that was on its way can charge any more.
    reference = desk.intent(order).provider_reference
    assert reference is not None
    assert desk.simulator.confirm(reference).status == "cancelled"


def test_a_cancel_that_meets_an_unknown_capture_refunds_it(desk: PaymentDesk) -> None:
    order = desk.charge("pm_sim_timeoutThenSuccess")
    desk.work()
    desk.cancel(order)
    desk.work()
    assert desk.state(order) is S.REFUNDING
    assert desk.intent(order).captured == AMOUNT
    desk.work()
    assert desk.state(order) is S.REFUNDED
    assert _taken(desk, order) == 0


def test_a_cancel_that_meets_an_unknown_decline_ends_declined(desk: PaymentDesk) -> None:
    order = desk.charge("pm_sim_timeoutThenDecline")
    desk.work()
    desk.cancel(order)
    desk.work()
    assert desk.state(order) is S.DECLINED
    assert desk.operation(order, "void:1").is_settled
    assert desk.work() == 0


def test_a_late_success_that_is_cancelled_in_time_never_takes_place(desk: PaymentDesk) -> None:
    order = desk.charge("pm_sim_lateSuccess")
    desk.work()
    desk.cancel(order)
    desk.work()
    assert desk.state(order) is S.CANCELLED
    later = desk.later("1h")
    assert later.work() == 0
    assert _taken(later, order) == 0


def test_a_late_success_that_was_faster_than_the_cancel_is_refunded(desk: PaymentDesk) -> None:
    order = desk.charge("pm_sim_lateSuccess")
    desk.work()
    desk.cancel(order)
    later = desk.later("10s")
    later.work(rounds=2)
    assert later.state(order) is S.REFUNDED
    assert _taken(later, order) == 0


def test_a_cancel_that_comes_while_the_confirm_is_under_way_leads_to_a_refund(
    desk: PaymentDesk,
) -> None:
    order = desk.charge()
    desk.provider = Interrupted(desk.simulator, after=lambda: desk.cancel(order))
    (job,) = desk.claim()
    desk.record(desk.ask(job))
    intent = desk.intent(order)
    assert (intent.state, intent.captured) == (S.REFUNDING, AMOUNT)
    assert desk.work() == 1
    assert desk.state(order) is S.REFUNDED
    assert _taken(desk, order) == 0


def test_a_void_that_overtakes_the_confirm_wins(desk: PaymentDesk) -> None:
    order = desk.charge()
    (charge,) = desk.claim()

    def overtake() -> None:
        desk.cancel(order)
        (void,) = desk.claim()
        desk.record(desk.ask(void))

    desk.provider = Interrupted(desk.simulator, before=overtake)
    desk.record(desk.ask(charge))
    assert desk.state(order) is S.CANCELLED
    assert desk.said(order)[-1] == (S.CANCELLED, 2)
    assert _taken(desk, order) == 0


def test_a_void_that_finds_the_capture_first_books_it_and_the_charges_own_answer_adds_nothing(
    desk: PaymentDesk,
) -> None:
    order = desk.charge()
    (charge,) = desk.claim()

    def void() -> None:
        desk.cancel(order)
        (job,) = desk.claim()
        desk.record(desk.ask(job))

    desk.provider = Interrupted(desk.simulator, after=void)
    late = desk.ask(charge)
    assert desk.state(order) is S.REFUNDING
    desk.record(late)
    desk.work()
    assert desk.state(order) is S.REFUNDED
    assert len(desk.shown(order).journals) == 2
    assert _taken(desk, order) == 0


def test_a_refund_that_failed_for_good_is_asked_again_with_a_new_key(desk: PaymentDesk) -> None:
    order = desk.charge("pm_sim_refundFailsOnce")
    desk.work()
    desk.cancel(order)
    desk.work()
    assert desk.state(order) is S.REFUND_FAILED
    assert desk.operation(order, "refund:1").last_error == "refund_rejected"
    assert _taken(desk, order) == AMOUNT
    desk.cancel(order)
    desk.cancel(order)
    assert desk.state(order) is S.REFUNDING
    # Not at once: who asks in a loop must not make us call in a loop.
    assert desk.work() == 0
    later = desk.later("5s")
    assert later.work() == 1
    assert later.state(order) is S.REFUNDED
    assert [o.key.split(":", 1)[1] for o in later.intent(order).operations] == [
        "charge:1",
        "refund:1",
        "refund:2",
    ]
    assert _taken(later, order) == 0


def test_a_refund_that_keeps_failing_stays_visible_and_can_be_asked_again(
    desk: PaymentDesk,
) -> None:
    order = desk.charge("pm_sim_refundFails")
    desk.work()
    for _ in range(3):
        desk.cancel(order)
        assert desk.later("1h").work() == 1
        assert desk.state(order) is S.REFUND_FAILED
    assert len(desk.intent(order).operations) == 4
    assert _taken(desk, order) == AMOUNT


def test_a_refund_whose_answer_was_lost_is_asked_again_with_the_same_key(
    desk: PaymentDesk,
) -> None:
    order = desk.charge("pm_sim_refundTimeoutThenSuccess")
    desk.work()
    desk.cancel(order)
    desk.work()
    assert desk.state(order) is S.REFUNDING
    desk.cancel(order)
    desk.work()
    assert desk.state(order) is S.REFUNDED
    assert desk.operation(order, "refund:1").attempts == 2
    assert _taken(desk, order) == 0
