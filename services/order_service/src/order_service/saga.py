"""The saga: a goal, two facts, and what follows from them. Pure: no I/O, no clock, no ids.

An order stores its goal and the last known state of each participant with that participant's version.
Answers that are not newer are ignored, and what to ask next is derived from what is known. So duplicated,
late and reordered messages need no special case: `tests/unit/test_saga.py` walks every state that any of
them can lead to.

The commands, by goal and facts:

    goal    stock                       payment                                        asks for
    fulfil  none                                                                       stock.reserve
    fulfil  held, committed             none, requested, processing, unknown           payment.charge
    fulfil  held                        captured                                       stock.commit
    fulfil  committed                   captured                                       nothing: confirmed
    abort   none, held, committed                                                      stock.release
    abort                               requested … captured, refunding, refund_failed payment.cancel
    abort   closed                      closed                                         nothing: closed

Committed but not captured is what only an order that was restored from a backup can see: asked again, the
payment says that it was captured long ago.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ecom_common.safeguards import is_off
from ecom_contracts.messages import ReservationState

Stock = ReservationState
"""What inventory says of the order's reservation; `none` means that it never answered."""


class Goal(StrEnum):
    """What the order is being driven to. It turns once, from fulfil to abort, and never back."""

    FULFIL = "fulfil"
    ABORT = "abort"


class Payment(StrEnum):
    """The payment as the order knows it: the participant's states, and `requested`, the order's own word
    for having asked without an answer yet. `none` means never asked."""

    NONE = "none"
    REQUESTED = "requested"
    PROCESSING = "processing"
    UNKNOWN = "unknown"
    CAPTURED = "captured"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    REFUNDING = "refunding"
    REFUNDED = "refunded"
    REFUND_FAILED = "refund_failed"


class Reason(StrEnum):
    """Why an order was given up."""

    OUT_OF_STOCK = "out_of_stock"
    PAYMENT_DECLINED = "payment_declined"
    CANCELLED_BY_CUSTOMER = "cancelled_by_customer"
    CANCELLED_BY_OPERATOR = "cancelled_by_operator"
    TIMED_OUT = "timed_out"
    RESERVATION_EXPIRED = "reservation_expired"


class Status(StrEnum):
    """What the public is told; derived, never set."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Ask(StrEnum):
    """The commands, by the type of their message."""

    RESERVE = "stock.reserve.v1"
    COMMIT = "stock.commit.v1"
    RELEASE = "stock.release.v1"
    CHARGE = "payment.charge.v1"
    CANCEL = "payment.cancel.v1"


FINAL: Final = frozenset({Status.CONFIRMED, Status.CANCELLED, Status.REJECTED})
CANCELLATIONS: Final = frozenset(
    {Reason.CANCELLED_BY_CUSTOMER, Reason.CANCELLED_BY_OPERATOR, Reason.TIMED_OUT}
)
# Whoever asked was answered that the order is being cancelled, so that is what must become of it.
_PROMISED: Final = frozenset({Reason.CANCELLED_BY_CUSTOMER, Reason.CANCELLED_BY_OPERATOR})
STOCK_CLOSED: Final = frozenset({Stock.REFUSED, Stock.RELEASED, Stock.RESTOCKED})
PAYMENT_CLOSED: Final = frozenset(
    {Payment.NONE, Payment.DECLINED, Payment.CANCELLED, Payment.REFUNDED}
)
_CHARGEABLE: Final = frozenset(
    {Payment.NONE, Payment.REQUESTED, Payment.PROCESSING, Payment.UNKNOWN}
)

# What a participant can say that ends the attempt to fulfil.
_STOCK_ENDS: Final = {
    Stock.REFUSED: Reason.OUT_OF_STOCK,
    Stock.RELEASED: Reason.RESERVATION_EXPIRED,
    Stock.RESTOCKED: Reason.RESERVATION_EXPIRED,
}
_PAYMENT_ENDS: Final = dict.fromkeys(
    (
        Payment.DECLINED,
        Payment.CANCELLED,
        Payment.REFUNDING,
        Payment.REFUNDED,
        Payment.REFUND_FAILED,
    ),
    Reason.PAYMENT_DECLINED,
)


@dataclass(frozen=True, slots=True)
class Saga:
    """Everything the next step depends on."""

    goal: Goal = Goal.FULFIL
    reason: Reason | None = None
    stock: Stock = Stock.NONE
    stock_version: int = 0
    payment: Payment = Payment.NONE
    payment_version: int = 0


def asks(saga: Saga) -> frozenset[Ask]:
    """The commands whose answers the order waits for; none when it is at its goal."""
    if saga.goal is Goal.ABORT:
        release = {Ask.RELEASE} if saga.stock not in STOCK_CLOSED else set()
        cancel = {Ask.CANCEL} if saga.payment not in PAYMENT_CLOSED else set()
        return frozenset(release | cancel)
    if saga.stock is Stock.NONE:
        return frozenset({Ask.RESERVE})
    if saga.stock in (Stock.HELD, Stock.COMMITTED) and saga.payment in _CHARGEABLE:
        return frozenset({Ask.CHARGE})
    if saga.stock is Stock.HELD and saga.payment is Payment.CAPTURED:
        return frozenset({Ask.COMMIT})
    return frozenset()


def learn_stock(saga: Saga, state: Stock, version: int) -> Saga:
    """Take in the reservation's state; the same saga when that is not news."""
    if not _is_news(version, saga.stock_version):
        return saga
    return _concluded(replace(saga, stock=state, stock_version=version))


def learn_payment(saga: Saga, state: Payment, version: int) -> Saga:
    """Take in the payment intent's state; the same saga when that is not news."""
    if not _is_news(version, saga.payment_version):
        return saga
    return _concluded(replace(saga, payment=state, payment_version=version))


def abort(saga: Saga, reason: Reason) -> Saga:
    """Give the order up. The first reason stays, unless somebody cancels what was failing anyway.

    Whoever is told that their order is being cancelled must find it cancelled in the end, not rejected.
    """
    if saga.goal is Goal.FULFIL:
        return replace(saga, goal=Goal.ABORT, reason=reason)
    if is_open(saga) and reason in _PROMISED and saga.reason not in CANCELLATIONS:
        return replace(saga, reason=reason)
    return saga


def time_out(saga: Saga) -> Saga:
    """Give up what is not confirmed by its deadline; what is being given up already keeps its reason."""
    if saga.goal is Goal.FULFIL and is_open(saga):
        return abort(saga, Reason.TIMED_OUT)
    return saga


def status(saga: Saga) -> Status:
    """The public status."""
    if saga.goal is Goal.FULFIL:
        return Status.PENDING if asks(saga) else Status.CONFIRMED
    if saga.reason in CANCELLATIONS:
        return Status.CANCELLING if asks(saga) else Status.CANCELLED
    return Status.PENDING if asks(saga) else Status.REJECTED


def is_open(saga: Saga) -> bool:
    """Whether something is still to come."""
    return bool(asks(saga))


def is_left_with_a_failed_refund(saga: Saga) -> bool:
    """Whether the order is given up, holds nothing, and its money is what the provider will not give back."""
    return (
        saga.goal is Goal.ABORT
        and saga.stock in STOCK_CLOSED
        and saga.payment is Payment.REFUND_FAILED
    )


def _is_news(version: int, known: int) -> bool:
    return version > known or is_off("versions")


def _concluded(saga: Saga) -> Saga:
    """Draw the conclusions: give up when a participant has, note that a charge is being asked for."""
    if saga.goal is Goal.FULFIL:
        reason = _STOCK_ENDS.get(saga.stock) or _PAYMENT_ENDS.get(saga.payment)
        if reason is not None:
            return abort(saga, reason)
    if saga.payment is Payment.NONE and Ask.CHARGE in asks(saga):
        return replace(saga, payment=Payment.REQUESTED)
    return saga
