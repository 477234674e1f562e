"""What the HTTP API shows of payments."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from ecom_contracts.messages import PaymentState
from pydantic import BaseModel, ConfigDict, Field

from payment_service.models import Entry, Journal, Operation, PaymentIntent
from payment_service.states import Account, JournalKind, OperationKind, OperationState

_ORDER_ID: Final = "01939f6e-1c1a-7b5e-9c3d-2f6a4e8b1d70"
_OPERATION_ID: Final = "01939f6e-2b41-7f02-b3a1-0c9d8e7f6a5b"

_EXAMPLE: Final[dict[str, Any]] = {
    "id": "01939f6e-2b40-7c11-8a52-6d0f3e9c4b15",
    "order_id": _ORDER_ID,
    "state": "captured",
    "currency": "EUR",
    "amount": 4497,
    "captured": 4497,
    "refunded": 0,
    "decline_code": None,
    "cancel_requested": False,
    "version": 2,
    "created_at": "2024-12-07T10:15:36.064Z",
    "updated_at": "2024-12-07T10:15:36.250Z",
    "operations": [
        {
            "id": _OPERATION_ID,
            "kind": "charge",
            "number": 1,
            "key": f"{_ORDER_ID}:charge:1",
            "amount": 4497,
            "state": "succeeded",
            "attempts": 1,
            "next_attempt_at": None,
            "last_error": None,
            "created_at": "2024-12-07T10:15:36.064Z",
            "updated_at": "2024-12-07T10:15:36.250Z",
        }
    ],
    "ledger": [
        {
            "operation_id": _OPERATION_ID,
            "kind": "capture",
            "currency": "EUR",
            "booked_at": "2024-12-07T10:15:36.250Z",
            "entries": [
                {"account": "provider_clearing", "amount": 4497},
                {"account": "customer_receipts", "amount": -4497},
            ],
        }
    ],
}


class OperationOut(BaseModel):
    """Something that is, or was, asked of the payment provider."""

    id: UUID
    kind: OperationKind
    number: int = Field(
        description="Counts refunds: a new one follows one that has failed for good."
    )
    key: str = Field(description="The idempotency key that the provider knows it by.")
    amount: int = Field(description="Minor units.")
    state: OperationState = Field(
        description="`unknown`: no answer came; it is asked again with the same key."
    )
    attempts: int
    next_attempt_at: datetime | None
    last_error: str | None = Field(description="Why it failed, or why no answer came.")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, operation: Operation) -> Self:
        return cls.model_validate(operation, from_attributes=True)


class EntryOut(BaseModel):
    account: Account
    amount: int = Field(description="Minor units; positive is a debit, negative a credit.")

    @classmethod
    def of(cls, entry: Entry) -> Self:
        return cls(account=entry.account, amount=entry.amount)


class JournalOut(BaseModel):
    """One booking; its entries sum to zero."""

    operation_id: UUID
    kind: JournalKind
    currency: str
    booked_at: datetime
    entries: list[EntryOut]

    @classmethod
    def of(cls, journal: Journal) -> Self:
        return cls(
            operation_id=journal.operation_id,
            kind=journal.kind,
            currency=journal.currency,
            booked_at=journal.booked_at,
            entries=[EntryOut.of(entry) for entry in journal.entries],
        )


class PaymentOut(BaseModel):
    """One order's payment, with what was asked of the provider and what is booked."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: UUID
    order_id: UUID
    state: PaymentState
    currency: str = Field(description="ISO 4217 code.")
    amount: int = Field(description="What the order asked for, minor units.")
    captured: int = Field(description="What was taken so far, minor units.")
    refunded: int = Field(description="What was given back so far, minor units.")
    decline_code: str | None = Field(description="The provider's reason, when declined.")
    cancel_requested: bool = Field(
        description="The order is off: this ends uncharged, or refunded in full."
    )
    version: int
    created_at: datetime
    updated_at: datetime
    operations: list[OperationOut]
    ledger: list[JournalOut]

    @classmethod
    def of(cls, intent: PaymentIntent, journals: Sequence[Journal]) -> Self:
        return cls(
            id=intent.id,
            order_id=intent.order_id,
            state=intent.state,
            currency=intent.currency,
            amount=intent.amount,
            captured=intent.captured,
            refunded=intent.refunded,
            decline_code=intent.decline_code,
            cancel_requested=intent.cancel_requested_at is not None,
            version=intent.version,
            created_at=intent.created_at,
            updated_at=intent.updated_at,
            operations=[OperationOut.of(operation) for operation in intent.operations],
            ledger=[JournalOut.of(journal) for journal in journals],
        )


class PaymentPage(BaseModel):
    """A page of payments, the newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [_EXAMPLE], "next_cursor": None}]}
    )

    items: list[PaymentOut]
    next_cursor: str | None = Field(
        description="Give it as `cursor` for the next page; null: none."
    )
