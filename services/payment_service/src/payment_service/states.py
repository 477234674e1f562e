"""The payment intent's state machine, and the words of this service.

`TRANSITIONS` is the whole machine; the diagram in the README is the same, and a test compares them. What
the table does not name changes nothing: every message may come late, twice or never.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from ecom_contracts.messages import PaymentState


class Happening(StrEnum):
    """What can happen to an intent: two commands, and what the provider answers."""

    CHARGE = "charge"
    CANCEL = "cancel"
    CAPTURED = "captured"
    CAPTURED_AFTER_CANCEL = "captured_after_cancel"
    DECLINED = "declined"
    VOIDED = "voided"
    NO_ANSWER = "no_answer"
    REFUNDED = "refunded"
    REFUND_FAILED = "refund_failed"


_S = PaymentState
_H = Happening

# A state that leads to itself: remembered, but nothing that anybody else would see.
TRANSITIONS: Final[Mapping[tuple[PaymentState, Happening], PaymentState]] = {
    (_S.NONE, _H.CHARGE): _S.PROCESSING,
    (_S.NONE, _H.CANCEL): _S.CANCELLED,
    (_S.PROCESSING, _H.CANCEL): _S.PROCESSING,
    (_S.PROCESSING, _H.CAPTURED): _S.CAPTURED,
    (_S.PROCESSING, _H.CAPTURED_AFTER_CANCEL): _S.REFUNDING,
    (_S.PROCESSING, _H.DECLINED): _S.DECLINED,
    (_S.PROCESSING, _H.VOIDED): _S.CANCELLED,
    (_S.PROCESSING, _H.NO_ANSWER): _S.UNKNOWN,
    (_S.UNKNOWN, _H.CANCEL): _S.UNKNOWN,
    (_S.UNKNOWN, _H.CAPTURED): _S.CAPTURED,
    (_S.UNKNOWN, _H.CAPTURED_AFTER_CANCEL): _S.REFUNDING,
    (_S.UNKNOWN, _H.DECLINED): _S.DECLINED,
    (_S.UNKNOWN, _H.VOIDED): _S.CANCELLED,
    (_S.CAPTURED, _H.CANCEL): _S.REFUNDING,
    (_S.REFUNDING, _H.REFUNDED): _S.REFUNDED,
    (_S.REFUNDING, _H.REFUND_FAILED): _S.REFUND_FAILED,
    (_S.REFUND_FAILED, _H.CANCEL): _S.REFUNDING,
}


class OperationKind(StrEnum):
    CHARGE = "charge"
    VOID = "void"
    REFUND = "refund"


class OperationState(StrEnum):
    """Where one operation stands. `unknown`: asked, and no answer came."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class JournalKind(StrEnum):
    CAPTURE = "capture"
    REFUND = "refund"


class Account(StrEnum):
    """The ledger's accounts."""

    PROVIDER_CLEARING = "provider_clearing"
    """What the provider owes us."""
    CUSTOMER_RECEIPTS = "customer_receipts"
    """What customers have paid us."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The command that led to something, and the trace that it belongs to."""

    id: UUID
    correlation_id: str | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before asking again: `first_s`, doubled with each attempt, up to `most_s`.

    No jitter: how many calls run at once is limited anyway.
    """

    first_s: float = 1.0
    most_s: float = 60.0

    def after(self, attempts: int) -> timedelta:
        return timedelta(seconds=min(self.most_s, self.first_s * 2.0 ** min(attempts - 1, 30)))
