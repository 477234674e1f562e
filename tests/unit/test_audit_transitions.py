"""What the auditor takes for a legal step: all that can happen to an order, and not much else."""

import pytest
from ecom_audit.transitions import Facts, objection
from order_service import saga
from order_service.saga import Saga

from tests.support.saga_model import Space


def _facts(order: Saga) -> Facts:
    status = saga.status(order).value
    reason = order.reason.value if order.reason else "-"
    return Facts(status, order.goal.value, reason, order.stock.value, order.payment.value)


def _kind(what: str) -> str:
    """The kind of the history's entry for a move of the model."""
    if what.startswith("order learns: "):
        return what.removeprefix("order learns: ").replace(" ", "_")
    return "timed_out" if what == "the deadline passes" else "cancel_requested"


def test_every_step_that_an_order_can_make_is_legal() -> None:
    steps = {
        (_facts(world.order), _kind(move.what), _facts(move.after.order))
        for world, move in Space().edges
        if world.order != move.after.order
    }
    assert len(steps) > 100
    objections = {step: said for step in steps if (said := objection(*step)) is not None}
    assert objections == {}


HELD = "pending fulfil - held requested"
CAPTURED = "pending fulfil - held captured"
CONFIRMED = "confirmed fulfil - committed captured"
CANCELLING = "cancelling abort cancelled_by_customer committed captured"
REJECTED = "rejected abort out_of_stock refused none"
UNREFUNDED = "cancelling abort cancelled_by_customer restocked refund_failed"
DECLINED = "pending abort payment_declined held declined"


@pytest.mark.parametrize(
    ("before", "kind", "after", "said"),
    [
        ("", "placed", HELD, "a history begins with placed"),
        ("", "flagged", "pending fulfil - none none", "a history begins with placed"),
        (HELD, "payment_captured", "confirmed fulfil - held captured", "its status must be pending"),
        (HELD, "flagged", "pending fulfil out_of_stock held requested", "these facts do not go together"),
        (HELD, "flagged", "pending abort bored held requested", "these facts do not go together"),
        (REJECTED, "flagged", REJECTED, "nothing closed goes on"),
        (CONFIRMED, "flagged", CONFIRMED, "what is confirmed can only be cancelled"),
        (CAPTURED, "payment_processing", HELD.replace("requested", "processing"), "payment_processing cannot follow"),
        ("pending fulfil - none none", "payment_captured", "pending fulfil - none captured", "these facts do not go together"),
        (HELD, "baked", HELD, "baked cannot follow"),
        (HELD, "flagged", CAPTURED, "flagged does not do this"),
        (HELD, "payment_captured", CONFIRMED, "payment_captured does not do this"),
        (CANCELLING, "stock_restocked", "cancelling abort cancelled_by_customer restocked refunding",
         "stock_restocked does not do this"),
        (CAPTURED, "timed_out", CAPTURED, "timed_out gives an order up"),
        (HELD, "timed_out", "cancelling abort cancelled_by_customer held requested", "timed_out is no such reason"),
        (HELD, "flagged", "cancelling abort timed_out held requested", "flagged is no such reason"),
        (CANCELLING, "flagged", CONFIRMED, "what is given up stays so, for its first reason"),
        (CANCELLING, "cancel_requested", CANCELLING.replace("customer", "operator"),
         "what is given up stays so, for its first reason"),
        (HELD, "asked_again", CAPTURED, "asked_again does not do this"),
        (CONFIRMED, "asked_again", CONFIRMED, "what is confirmed can only be cancelled"),
        (HELD, "resolved", HELD, "resolved cannot follow"),
        (CANCELLING, "resolved", CANCELLING, "resolved cannot follow"),
        (UNREFUNDED, "resolved", UNREFUNDED.replace("cancelling", "cancelled").replace("refund_failed", "refunded"),
         "resolved does not do this"),
        (UNREFUNDED.replace("restocked", "committed"), "resolved", UNREFUNDED.replace("restocked", "committed"),
         "resolved cannot follow"),
        (DECLINED, "timed_out", "cancelling abort timed_out held declined",
         "what is given up stays so, for its first reason"),
    ],
)  # fmt: skip
def test_other_steps_are_not(before: str, kind: str, after: str, said: str) -> None:
    known = Facts(*before.split()) if before else None
    assert objection(known, kind, Facts(*after.split())) == said


def test_an_order_that_has_forgotten_the_way_may_leap_to_where_its_stock_is() -> None:
    before, after = "pending fulfil - none none", "pending fulfil - committed requested"
    assert objection(Facts(*before.split()), "stock_committed", Facts(*after.split())) is None


def test_a_failing_order_can_still_be_cancelled_by_somebody() -> None:
    after = DECLINED.replace("pending", "cancelling").replace(
        "payment_declined", "cancelled_by_customer"
    )
    assert objection(Facts(*DECLINED.split()), "cancel_requested", Facts(*after.split())) is None


@pytest.mark.parametrize(
    ("kind", "facts"),
    [("asked_again", HELD), ("asked_again", DECLINED), ("resolved", UNREFUNDED)],
)
def test_what_operators_do_changes_no_fact(kind: str, facts: str) -> None:
    known = Facts(*facts.split())
    assert objection(known, kind, known) is None
