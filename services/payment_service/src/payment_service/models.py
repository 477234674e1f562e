"""The payment intent with its operations, and the ledger: mapped classes with the verbs of the business.

An intent and its operations are one aggregate: they are loaded, locked, changed and written together. No
session and no I/O here. The tables are made by the migrations.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Self, TypeVar
from uuid import UUID

from ecom_common.errors import IllegalTransition
from ecom_common.ids import new_id
from ecom_common.tables import NAMING
from ecom_contracts.messages import MAX_AMOUNT, PaymentState
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

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
SCHEMA_VERSION: Final = "2"
MAX_ERROR_CHARS: Final = 500
REFUND_AGAIN: Final = Backoff()
"""A new refund after one that has failed waits for this, however often it is asked for."""

E = TypeVar("E", bound=StrEnum)


class _EnumText(TypeDecorator[E]):
    """A StrEnum in a text column; the column's CHECK knows the same words."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[E]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: E | None, dialect: Dialect) -> Any:
        return None if value is None else value.value

    def process_result_value(self, value: Any, dialect: Dialect) -> E | None:
        return None if value is None else self.kind(value)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy wants it so
        str: Text,
        datetime: DateTime(timezone=True),
        PaymentState: _EnumText(PaymentState),
        OperationKind: _EnumText(OperationKind),
        OperationState: _EnumText(OperationState),
        JournalKind: _EnumText(JournalKind),
        Account: _EnumText(Account),
    }


metadata: Final = Base.metadata


class Operation(Base):
    """Something asked of the provider. Its key, kind and amount are fixed before the first call."""

    __tablename__ = "operations"
    __table_args__ = (
        UniqueConstraint("payment_id", "kind", "number"),
        CheckConstraint("kind IN ('charge', 'void', 'refund')", name="kind"),
        CheckConstraint("number = 1 OR (number > 1 AND kind = 'refund')", name="number"),
        CheckConstraint(f"amount BETWEEN 1 AND {MAX_AMOUNT}", name="amount"),
        CheckConstraint("state IN ('pending', 'succeeded', 'failed', 'unknown')", name="state"),
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint(
            "next_attempt_at IS NULL OR state IN ('pending', 'unknown')", name="next_attempt_at"
        ),
        # Never two refunds at once, and none after one that has succeeded.
        Index(
            None,
            "payment_id",
            unique=True,
            postgresql_where=text("kind = 'refund' AND state <> 'failed'"),
        ),
        Index(None, "next_attempt_at", postgresql_where=text("next_attempt_at IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments.id"))
    kind: Mapped[OperationKind]
    number: Mapped[int]
    key: Mapped[str] = mapped_column(unique=True)
    amount: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[OperationState]
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime | None]
    leased_until: Mapped[datetime | None]
    last_error: Mapped[str | None]
    cause_id: Mapped[UUID]
    correlation_id: Mapped[str | None]
    traceparent: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    @property
    def cause(self) -> Cause:
        return Cause(self.cause_id, self.correlation_id, self.traceparent)

    @property
    def is_settled(self) -> bool:
        return self.state in (OperationState.SUCCEEDED, OperationState.FAILED)

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


class PaymentIntent(Base):
    """What one order is to pay, and how far that has come.

    Its verbs do nothing where `TRANSITIONS` names nothing, so saying anything twice is harmless. The
    version grows when, and only when, others would see a change.
    """

    __tablename__ = "payments"
    __table_args__ = (
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint(f"amount BETWEEN 1 AND {MAX_AMOUNT}", name="amount"),
        CheckConstraint(
            "state IN ('processing', 'unknown', 'captured', 'declined', 'cancelled', 'refunding', "
            "'refunded', 'refund_failed')",
            name="state",
        ),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint(
            "0 <= refunded AND refunded <= captured AND captured <= amount", name="money"
        ),
        CheckConstraint(
            "(captured > 0) = (state IN ('captured', 'refunding', 'refunded', 'refund_failed'))",
            name="captured",
        ),
        CheckConstraint(
            "(refunded > 0 AND refunded = captured) = (state = 'refunded')", name="refunded"
        ),
        CheckConstraint("(decline_code IS NOT NULL) = (state = 'declined')", name="decline_code"),
        Index(
            None,
            "state",
            postgresql_where=text("state IN ('unknown', 'refunding', 'refund_failed')"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    order_id: Mapped[UUID] = mapped_column(unique=True)
    customer_id: Mapped[str]
    currency: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    method: Mapped[str | None]
    state: Mapped[PaymentState]
    version: Mapped[int]
    captured: Mapped[int] = mapped_column(BigInteger)
    refunded: Mapped[int] = mapped_column(BigInteger)
    decline_code: Mapped[str | None]
    provider_reference: Mapped[str | None]
    cancel_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    # Viewonly: the repository writes operations in bulk, never the unit of work.
    operations: Mapped[list[Operation]] = relationship(
        viewonly=True, lazy="raise", order_by=(Operation.created_at, Operation.id)
    )

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
            operations=[],
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


class Entry(Base):
    """One side of a journal: a positive amount is a debit of the account, a negative one a credit."""

    __tablename__ = "ledger_entries"
    __table_args__ = (
        CheckConstraint("account IN ('provider_clearing', 'customer_receipts')", name="account"),
        CheckConstraint(
            f"amount <> 0 AND amount BETWEEN -{MAX_AMOUNT} AND {MAX_AMOUNT}", name="amount"
        ),
    )

    operation_id: Mapped[UUID] = mapped_column(
        ForeignKey("ledger_journals.operation_id"), primary_key=True
    )
    account: Mapped[Account] = mapped_column(primary_key=True)
    amount: Mapped[int] = mapped_column(BigInteger)


class Journal(Base):
    """What one operation did to the ledger. Written once; its entries sum to zero."""

    __tablename__ = "ledger_journals"
    __table_args__ = (
        CheckConstraint("kind IN ('capture', 'refund')", name="kind"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
    )

    # The key is the operation's, so that none can ever be booked twice.
    operation_id: Mapped[UUID] = mapped_column(ForeignKey("operations.id"), primary_key=True)
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments.id"), index=True)
    kind: Mapped[JournalKind]
    currency: Mapped[str]
    booked_at: Mapped[datetime]

    entries: Mapped[list[Entry]] = relationship(
        viewonly=True, lazy="raise", order_by=Entry.amount.desc()
    )

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
