"""Why an order does not get on, and what an operator can do about it. Pure: no SQL, no clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from order_service import saga
from order_service.models import Order
from order_service.saga import Goal, Payment

ASKED_OFTEN: Final = 4
"""Asked for again so often, by default for half a minute, an answer is more than late."""
GRACE: Final = timedelta(minutes=1)


class Trouble(StrEnum):
    REFUND_FAILED = "refund_failed"
    FLAGGED = "flagged"
    RESOLVED = "resolved"
    UNSENT = "unsent"
    OVERDUE = "overdue"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is the matter, and the command that helps, without the program's name."""

    trouble: Trouble
    why: str
    next: str


def diagnose(order: Order, *, unsent: int, now: datetime) -> Diagnosis | None:
    """What is the matter with the order; None when it is final or simply on its way.

    `unsent` messages of it still wait in the outbox.
    """
    if not order.is_open:
        return None
    waits_for = ", ".join(sorted(saga.asks(order.saga)))
    if order.resolved_at is not None:
        why = "its refund failed, and an operator gave the money back outside of the system"
        return Diagnosis(Trouble.RESOLVED, why, "")
    if order.flagged_at is not None:
        return _flagged(order, waits_for)
    if unsent and order.asks == 0 and now - order.updated_at <= GRACE:
        return None
    if unsent:
        why = f"{unsent} of its messages are not sent"
        return Diagnosis(Trouble.UNSENT, why, "glance")
    if now - max(order.deadline_at, order.updated_at) > GRACE:
        why = f"its deadline has passed, and {waits_for} is not answered"
        return Diagnosis(Trouble.OVERDUE, why, f"retry {order.id}")
    if order.asks >= ASKED_OFTEN:
        why = f"{waits_for} was asked for again {order.asks} times without an answer"
        return Diagnosis(Trouble.NO_ANSWER, why, "glance")
    return None


def _flagged(order: Order, waits_for: str) -> Diagnosis:
    if order.payment == Payment.REFUND_FAILED and order.asks == 0:
        why = "the provider would not give the money back"
        return Diagnosis(Trouble.REFUND_FAILED, why, f"retry {order.id}, or resolve {order.id}")
    why = f"nobody answered {waits_for}, asked for again {order.asks} times; it is not asked for any more"
    way_out = f"lift {order.id}" + (f", or cancel {order.id}" if order.goal == Goal.FULFIL else "")
    return Diagnosis(Trouble.FLAGGED, why, way_out)
