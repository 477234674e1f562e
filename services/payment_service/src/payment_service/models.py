"""The payment intent with its operations, and the ledger: tables, plain rows, and the verbs of the business.

An intent and its operations are one aggregate: they are loaded, locked, changed and written together. No
session and no I/O here. The tables are made by the migrations, where their CHECKs stand.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self
from uuid import UUID

from ecom_common.errors import IllegalTransition
from ecom_common.ids import new_id
from ecom_common.tables import NAMING
from ecom_contracts.messages import PaymentState
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from payment_service.states import (
    TRANSITIONS,
    Account,
    Backoff,
    Cause,
    Happening,
    JournalKind,
    OperationKind,
    OperationState,
)

SERVICE: Final = "payment_service"
SCHEMA_VERSION: Final = "3"
MAX_ERROR_CHARS: Final = 500
REFUND_AGAIN: Final = Backoff()
"""A new refund after one that has failed waits for this, however often it is asked for."""

metadata: Final = MetaData(naming_convention=NAMING)


OPERATIONS: Final = Table(
    "operations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("payment_id", Uuid, ForeignKey("payments.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("amount", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", DateTime(timezone=True)),
    Column("leased_until", DateTime(timezone=True)),
    Column("last_error", Text),
    Column("cause_id", Uuid, nullable=False),
    Column("correlation_id", Text),
    Column("traceparent", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("payment_id", "kind", "number"),
    # Never two refunds at once, and none after one that has succeeded.
    Index(
        None,
        "payment_id",
        unique=True,
        postgresql_where=text("kind = 'refund' AND state <> 'failed'"),
    ),
    Index(None, "next_attempt_at", postgresql_where=text("next_attempt_at IS NOT NULL")),
)


@dataclass(slots=True, eq=False)
class Operation:
    """Something asked of the provider. Its key, kind and amount are fixed before the first call.

    Its fields are the columns of `OPERATIONS`.
    """

    id: UUID
    payment_id: UUID
    kind: OperationKind
    number: int
    key: str
    amount: int
    state: OperationState
    attempts: int
    next_attempt_at: datetime | None
    leased_until: datetime | None
    last_error: str | None
    cause_id: UUID
    correlation_id: str | None
    traceparent: str | None
    created_at: datetime
    updated_at: datetime
    stored: tuple[object, ...] | None = None
    """What of it may change, as it stands in the database, for whoever has locked it; None when it is new."""

    def __post_init__(self) -> None:
        self.kind = OperationKind(self.kind)
        self.state = OperationState(self.state)

    @property
    def cause(self) -> Cause:
        return Cause(self.cause_id, self.correlation_id, self.traceparent)

    @property
    def is_settled(self) -> bool:
        return self.state in (OperationState.SUCCEEDED, OperationState.FAILED)

    def is_due(self, now: datetime) -> bool:
        """Whether the provider is to be asked now."""
        return self.next_attempt_at is not None and self.next_attempt_at <= now

    def lease(self, *, until: datetime) -> None:
        """From now on it is its caller's to ask the provider."""
        self.attempts += 1
        self.leased_until = until

    def give_back(self, *, attempt: int, now: datetime) -> None:
        """The caller of this attempt did not ask after all: somebody else may, at once."""
        if not self.is_settled and attempt == self.attempts:
            self.leased_until = None
            self.updated_at = now

    def settle(self, state: OperationState, *, now: datetime, error: str | None = None) -> None:
        """Succeeded or failed, for good."""
        if self.is_settled:
            raise IllegalTransition(f"the {self.kind} has {self.state} already")
        self.state = state
        self.next_attempt_at = None
        self.leased_until = None
        self.last_error = error
        self.updated_at = now

    def leave_unknown(self, error: str, *, now: datetime, again: timedelta | None) -> None:
        """No answer came: to be asked for again, with the same key, or not at all by this operation."""
        self.state = OperationState.UNKNOWN
        self.next_attempt_at = None if again is None else now + again
        self.leased_until = None
        self.last_error = error[:MAX_ERROR_CHARS]
        self.updated_at = now


PAYMENTS: Final = Table(
    "payments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("order_id", Uuid, nullable=False, unique=True),
    Column("customer_id", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("method", Text),
    Column("state", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("captured", BigInteger, nullable=False),
    Column("refunded", BigInteger, nullable=False),
    Column("decline_code", Text),
    Column("provider_reference", Text),
    Column("cancel_requested_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Index(
        None,
        "state",
        postgresql_where=text("state IN ('unknown', 'refunding', 'refund_failed')"),
    ),
)


@dataclass(slots=True, eq=False)
class PaymentIntent:
    """What one order is to pay, and how far that has come. Its fields are the columns of `PAYMENTS`.

    Its verbs do nothing where `TRANSITIONS` names nothing, so saying anything twice is harmless. The
    version grows when, and only when, others would see a change.
    """

    id: UUID
    order_id: UUID
    customer_id: str
    currency: str
    amount: int
    method: str | None
    state: PaymentState
    version: int
    captured: int
    refunded: int
    decline_code: str | None
    provider_reference: str | None
    cancel_requested_at: datetime | None
    created_at: datetime
    updated_at: datetime
    operations: list[Operation] = field(default_factory=list)
    """In the order in which they were made."""
    stored: tuple[object, ...] | None = None
    """What of it may change, as it stands in the database, for whoever has locked it; None when it is new."""

    def __post_init__(self) -> None:
        self.state = PaymentState(self.state)

    @classmethod
    def unasked(
        cls, *, order_id: UUID, customer_id: str, currency: str, amount: int, now: datetime
    ) -> Self:
        """The intent of an order that nobody has asked for yet; the first command brings it to life."""
        return cls(
            id=new_id(),
            order_id=order_id,
            customer_id=customer_id,
            currency=currency,
            amount=amount,
            method=None,
            state=PaymentState.NONE,
            version=0,
            captured=0,
            refunded=0,
            decline_code=None,
            provider_reference=None,
            cancel_requested_at=None,
            created_at=now,
            updated_at=now,
        )

    @property
    def is_tombstone(self) -> bool:
        """Whether it was cancelled before anything was asked for."""
        return self.state is PaymentState.CANCELLED and not self.operations

    def charge(self, *, method: str, cause: Cause, now: datetime) -> None:
        """Charge the amount, once."""
        if self._happens(Happening.CHARGE, now):
            self.method = method
            self._ask(OperationKind.CHARGE, cause, now)

    def cancel(self, *, cause: Cause, now: datetime) -> None:
        """Never charge, or refund in full; while the charge is under way this is remembered."""
        if not self._happens(Happening.CANCEL, now):
            return
        if self.state in (PaymentState.PROCESSING, PaymentState.UNKNOWN):
            self._void(cause, now)
        elif self.state is PaymentState.REFUNDING:
            self._refund(cause, now)

    def capture(self, *, now: datetime) -> "Journal | None":
        """The provider has taken the money. What to book, the first time."""
        late = self.cancel_requested_at is not None
        if not self._happens(Happening.CAPTURED_AFTER_CANCEL if late else Happening.CAPTURED, now):
            return None
        charge = self._only(OperationKind.CHARGE)
        charge.settle(OperationState.SUCCEEDED, now=now)
        self.captured = charge.amount
        if late:
            void = self._only(OperationKind.VOID)
            void.settle(OperationState.FAILED, now=now, error="captured")
            self._refund(void.cause, now)
        return Journal.of_capture(charge, self.currency, now)

    def decline(self, *, code: str, now: datetime) -> None:
        """The provider will not take the money."""
        if self._happens(Happening.DECLINED, now):
            self.decline_code = code
            self._only(OperationKind.CHARGE).settle(OperationState.FAILED, now=now, error=code)
            for void in self._of_kind(OperationKind.VOID):
                void.settle(OperationState.FAILED, now=now, error="declined")

    def close(self, *, now: datetime) -> None:
        """The provider says that the charge is cancelled: none can succeed any more."""
        if self._happens(Happening.VOIDED, now):
            charge = self._only(OperationKind.CHARGE)
            charge.settle(OperationState.FAILED, now=now, error="cancelled")
            for void in self._of_kind(OperationKind.VOID):
                void.settle(OperationState.SUCCEEDED, now=now)

    def complete_refund(self, operation: Operation, *, now: datetime) -> "Journal | None":
        """The provider has given the money back. What to book, the first time."""
        if operation.is_settled or not self._happens(Happening.REFUNDED, now):
            return None
        operation.settle(OperationState.SUCCEEDED, now=now)
        self.refunded += operation.amount
        return Journal.of_refund(operation, self.currency, now)

    def fail_refund(self, operation: Operation, *, code: str, now: datetime) -> None:
        """The provider will not give the money back; another cancel asks anew, with a new key."""
        if not operation.is_settled and self._happens(Happening.REFUND_FAILED, now):
            operation.settle(OperationState.FAILED, now=now, error=code)

    def miss_answer(
        self, operation: Operation, *, attempt: int, error: str, backoff: Backoff, now: datetime
    ) -> None:
        """The caller of this attempt got no usable answer. Ignored when others have asked since."""
        if operation.is_settled or attempt != operation.attempts:
            return
        # Once a void asks, the charge does not: the void's answer is about both.
        superseded = operation.next_attempt_at is None
        again = None if superseded else backoff.after(attempt)
        operation.leave_unknown(error, now=now, again=again)
        if operation.kind is not OperationKind.REFUND:
            self._happens(Happening.NO_ANSWER, now)

    def operation(self, operation_id: UUID) -> Operation:
        return next(o for o in self.operations if o.id == operation_id)

    def _happens(self, happening: Happening, now: datetime) -> bool:
        """Go where the table says; whether it says anything."""
        state = TRANSITIONS.get((self.state, happening))
        if state is None:
            return False
        if state is not self.state:
            self.state = state
            self.version += 1
            self.updated_at = now
        return True

    def _void(self, cause: Cause, now: datetime) -> None:
        if self.cancel_requested_at is None:
            self.cancel_requested_at = now
            self.updated_at = now
            # At once, even while a confirm is under way: the provider decides which came first.
            self._only(OperationKind.CHARGE).next_attempt_at = None
            self._ask(OperationKind.VOID, cause, now)

    def _refund(self, cause: Cause, now: datetime) -> None:
        failed = len(self._of_kind(OperationKind.REFUND))
        wait = REFUND_AGAIN.after(failed) if failed else timedelta(0)
        self._ask(OperationKind.REFUND, cause, now, wait=wait)

    def _ask(
        self, kind: OperationKind, cause: Cause, now: datetime, *, wait: timedelta = timedelta(0)
    ) -> None:
        number = len(self._of_kind(kind)) + 1
        self.operations.append(
            Operation(
                id=new_id(),
                payment_id=self.id,
                kind=kind,
                number=number,
                key=_key(self.order_id, kind, number),
                amount=self.amount,
                state=OperationState.PENDING,
                attempts=0,
                next_attempt_at=now + wait,
                leased_until=None,
                last_error=None,
                cause_id=cause.id,
                correlation_id=cause.correlation_id,
                traceparent=cause.traceparent,
                created_at=now,
                updated_at=now,
            )
        )

    def _of_kind(self, kind: OperationKind) -> list[Operation]:
        return [operation for operation in self.operations if operation.kind is kind]

    def _only(self, kind: OperationKind) -> Operation:
        (operation,) = self._of_kind(kind)
        return operation


def charge_key(order_id: UUID) -> str:
    """The key that the provider knows the charge of this order by.

    Made from the order, not from the intent's row: a database that was set back to a backup, and is asked
    again, finds the charge it has forgotten instead of making a second one.
    """
    return _key(order_id, OperationKind.CHARGE, 1)


def _key(order_id: UUID, kind: OperationKind, number: int) -> str:
    return f"{order_id}:{kind}:{number}"


JOURNALS: Final = Table(
    "ledger_journals",
    metadata,
    # The key is the operation's, so that none can ever be booked twice.
    Column("operation_id", Uuid, ForeignKey("operations.id"), primary_key=True),
    Column("payment_id", Uuid, ForeignKey("payments.id"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("booked_at", DateTime(timezone=True), nullable=False),
)
ENTRIES: Final = Table(
    "ledger_entries",
    metadata,
    Column("operation_id", Uuid, ForeignKey("ledger_journals.operation_id"), primary_key=True),
    Column("account", Text, primary_key=True),
    Column("amount", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a journal: a positive amount is a debit of the account, a negative one a credit."""

    operation_id: UUID
    account: str
    amount: int


@dataclass(slots=True)
class Journal:
    """What one operation did to the ledger. Written once; its entries sum to zero."""

    operation_id: UUID
    payment_id: UUID
    kind: str
    currency: str
    booked_at: datetime
    entries: list[Entry] = field(default_factory=list)
    """The debit first."""

    @classmethod
    def of_capture(cls, charge: Operation, currency: str, now: datetime) -> Self:
        """The provider owes us what the customer has paid."""
        return cls._between(
            JournalKind.CAPTURE,
            charge,
            currency,
            now,
            debit=Account.PROVIDER_CLEARING,
            credit=Account.CUSTOMER_RECEIPTS,
        )

    @classmethod
    def of_refund(cls, refund: Operation, currency: str, now: datetime) -> Self:
        """The same the other way round."""
        return cls._between(
            JournalKind.REFUND,
            refund,
            currency,
            now,
            debit=Account.CUSTOMER_RECEIPTS,
            credit=Account.PROVIDER_CLEARING,
        )

    @classmethod
    def _between(
        cls,
        kind: JournalKind,
        operation: Operation,
        currency: str,
        now: datetime,
        *,
        debit: Account,
        credit: Account,
    ) -> Self:
        entries = [
            Entry(operation_id=operation.id, account=debit, amount=operation.amount),
            Entry(operation_id=operation.id, account=credit, amount=-operation.amount),
        ]
        return cls(
            operation_id=operation.id,
            payment_id=operation.payment_id,
            kind=kind,
            currency=currency,
            booked_at=now,
            entries=entries,
        )
