"""The order aggregate: its tables, its rows as plain objects, and the verbs that change it.

Owns what an order may become. Reads no database and writes none: objects are loaded, changed in memory and
written in bulk by the repository. The tables' CHECKs stand in the migrations only.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from ecom_common.errors import IllegalTransition
from ecom_common.tables import NAMING
from ecom_common.tracing import trace_id_of
from sqlalchemy import (
    BigInteger,
    Boolean,
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

from order_service import saga
from order_service.saga import Goal, Payment, Reason, Saga, Status, Stock

SERVICE: Final = "order_service"
SCHEMA_VERSION: Final = "3"
"""The migration that this code needs; readiness checks it."""

SYSTEM: Final = "system"
"""The actor of what nobody asked for: deadlines, flags."""

OPEN_STATUSES: Final = (Status.PENDING, Status.CANCELLING)
_OPEN = text("status IN ('pending', 'cancelling')")

SUMMARIES: Final = {
    "placed": "The order was placed.",
    "stock_held": "Every line is reserved.",
    "stock_refused": "There is not enough stock.",
    "stock_committed": "The stock has left for good.",
    "stock_released": "Nothing is reserved any more.",
    "stock_restocked": "The stock is back.",
    "payment_processing": "The payment is being taken.",
    "payment_unknown": "The provider has not answered; it is being asked again.",
    "payment_captured": "The payment was taken.",
    "payment_declined": "The payment was declined.",
    "payment_cancelled": "The payment was called off; nothing was taken.",
    "payment_refunding": "The payment is being given back.",
    "payment_refunded": "The payment was given back in full.",
    "payment_refund_failed": "The refund failed; an operator is needed.",
    "cancel_requested": "A cancellation was asked for.",
    "timed_out": "The order took too long and is given up.",
    "flagged": "Nobody answers; an operator is needed.",
    "flag_lifted": "An operator has it carried on.",
    "asked_again": "An operator has everything outstanding asked for again.",
    "resolved": "An operator has settled outside of the system what was left.",
}
"""Every kind of change, in words for people."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The message that led to a change, and where it stood."""

    message_id: UUID
    topic: str
    partition: int
    offset: int
    traceparent: str | None = None


metadata = MetaData(naming_convention=NAMING)


@dataclass(frozen=True, slots=True)
class CatalogueItem:
    """The read model of inventory's catalogue: what can be ordered, and at what price."""

    sku: str
    name: str
    unit_price: int
    currency: str
    active: bool
    version: int


CATALOGUE: Final = Table(
    "catalogue_items",
    metadata,
    Column("sku", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("unit_price", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("version", Integer, nullable=False),
)


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One SKU of an order, at the name and price it had when the order was placed."""

    order_id: UUID
    position: int
    sku: str
    name: str
    quantity: int
    unit_price: int
    total: int


LINES: Final = Table(
    "order_lines",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("sku", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("unit_price", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of an order: entry `version` is what made the order that version. Append-only."""

    order_id: UUID
    version: int
    at: datetime
    kind: str
    actor: str
    note: str | None
    status: str
    goal: str
    reason: str | None
    stock: str
    payment: str
    message_id: UUID | None
    message_topic: str | None
    message_partition: int | None
    message_offset: int | None
    trace_id: str | None


HISTORY: Final = Table(
    "order_history",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("note", Text),
    Column("status", Text, nullable=False),
    Column("goal", Text, nullable=False),
    Column("reason", Text),
    Column("stock", Text, nullable=False),
    Column("payment", Text, nullable=False),
    Column("message_id", Uuid),
    Column("message_topic", Text),
    Column("message_partition", Integer),
    Column("message_offset", BigInteger),
    Column("trace_id", Text),
    Index(
        "uq_order_history_message_id",
        "order_id",
        "message_id",
        unique=True,
        postgresql_where=text("message_id IS NOT NULL"),
    ),
)

ORDERS: Final = Table(
    "orders",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("checkout_id", Text),
    Column("currency", Text, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("payment_method", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("goal", Text, nullable=False),
    Column("reason", Text),
    Column("stock", Text, nullable=False),
    Column("stock_version", Integer, nullable=False),
    Column("payment", Text, nullable=False),
    Column("payment_version", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("deadline_at", DateTime(timezone=True), nullable=False),
    Column("due_at", DateTime(timezone=True)),
    Column("asks", Integer, nullable=False),
    Column("flagged_at", DateTime(timezone=True)),
    Column("resolved_at", DateTime(timezone=True)),
    Column("traceparent", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("customer_id", "checkout_id", name="uq_orders_customer_id"),
    Index("ix_orders_customer_id", "customer_id", "id"),
    Index("ix_orders_status", "status", "id"),
    Index("ix_orders_due_at", "due_at", postgresql_where=_OPEN),
)


@dataclass(slots=True, eq=False)
class Order:
    """An order, which is its own saga. Its fields are the columns of `ORDERS`, in their order."""

    id: UUID
    customer_id: str
    checkout_id: str | None
    currency: str
    total: int
    payment_method: str
    status: str
    goal: str
    reason: str | None
    stock: str
    stock_version: int
    payment: str
    payment_version: int
    version: int
    deadline_at: datetime
    due_at: datetime | None
    """When the sweeper looks at it next; None when it need not."""
    asks: int
    """How often the outstanding commands were sent again without an answer."""
    flagged_at: datetime | None
    resolved_at: datetime | None
    """When an operator settled it outside of the system; it goes no further by itself."""
    traceparent: str | None
    created_at: datetime
    updated_at: datetime
    lines: list[OrderLine] = field(default_factory=list)
    """Only for whoever has loaded them."""
    _saga: Saga | None = None

    @property
    def saga(self) -> Saga:
        """The part of the row that decides what comes next."""
        if self._saga is None:
            self._saga = Saga(
                goal=Goal(self.goal),
                reason=None if self.reason is None else Reason(self.reason),
                stock=Stock(self.stock),
                stock_version=self.stock_version,
                payment=Payment(self.payment),
                payment_version=self.payment_version,
            )
        return self._saga

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_STATUSES

    def learn_stock(
        self, state: Stock, version: int, *, now: datetime, cause: Cause
    ) -> "Change | None":
        """Take in inventory's answer; None when it is not news."""
        after = saga.learn_stock(self.saga, state, version)
        return self._become(after, f"stock_{state}", SYSTEM, now=now, cause=cause)

    def learn_payment(
        self, state: Payment, version: int, *, now: datetime, cause: Cause
    ) -> "Change | None":
        """Take in payment's answer; None when it is not news. A failed refund needs an operator."""
        after = saga.learn_payment(self.saga, state, version)
        change = self._become(after, f"payment_{state}", SYSTEM, now=now, cause=cause)
        if change is not None:
            # Money has moved, or been asked for, since somebody settled it: that has to be looked at anew.
            self.resolved_at = None
            if state is Payment.REFUND_FAILED:
                self.flagged_at = now
        return change

    def cancel(
        self, reason: Reason, *, actor: str, now: datetime, note: str | None = None
    ) -> "Change | None":
        """Give the order up for its customer or an operator; None when it is given up already."""
        after = saga.abort(self.saga, reason)
        return self._become(after, "cancel_requested", actor, now=now, note=note)

    def time_out(self, *, now: datetime) -> "Change | None":
        """Give up an order whose deadline has passed before it was confirmed."""
        return self._become(saga.time_out(self.saga), "timed_out", SYSTEM, now=now)

    def flag(self, *, now: datetime) -> "Change":
        """Stop asking: nobody answers, and an operator has to look."""
        assert self.is_open
        self.flagged_at = now
        return self._record("flagged", SYSTEM, now=now)

    def lift_flag(self, *, actor: str, now: datetime, note: str | None = None) -> "Change":
        """Carry on with an order that was flagged: everything outstanding is asked for again."""
        assert self.flagged_at is not None
        self.flagged_at = None
        self.asks = 0
        return self._record("flag_lifted", actor, now=now, note=note)

    def ask_again(self, *, actor: str, now: datetime, note: str) -> "Change":
        """Ask for everything outstanding at an operator's wish, flagged or not, as if for the first time."""
        if not self.is_open or self.resolved_at is not None:
            raise IllegalTransition("nothing is asked for any more")
        self.flagged_at = None
        self.asks = 0
        return self._record("asked_again", actor, now=now, note=note)

    @property
    def can_be_resolved(self) -> bool:
        """Whether all that is left is money which the provider will not give back, and nobody asks it to.

        Nothing else may be settled elsewhere: what still moves here would be done a second time. A refund that
        was asked for again may yet be made; only the news that it has failed once more brings the flag back
        with nothing asked since.
        """
        is_at_rest = self.flagged_at is not None and self.asks == 0
        return is_at_rest and saga.is_left_with_a_failed_refund(self.saga)

    def resolve(self, *, actor: str, now: datetime, note: str) -> "Change":
        """Somebody has given the money back outside of the system. It is not called refunded for that: the
        payment's books do not know of it."""
        if not self.can_be_resolved or self.resolved_at is not None:
            raise IllegalTransition("only a failed refund is settled elsewhere, and once")
        self.flagged_at = None
        self.resolved_at = now
        self.asks = 0
        self.due_at = None
        return self._record("resolved", actor, now=now, note=note)

    def schedule(self, *, now: datetime, wait: timedelta) -> None:
        """Have the sweeper look again after `wait`, or at the deadline when that comes first."""
        if not self.is_open or self.resolved_at is not None:
            self.due_at = None
            return
        # Past the deadline an order is being given up already: only asking again is left.
        deadlines = [self.deadline_at] if self.goal == Goal.FULFIL else []
        retries = [] if self.flagged_at is not None else [now + wait]
        self.due_at = min([*deadlines, *retries], default=None)

    def _become(
        self,
        after: Saga,
        kind: str,
        actor: str,
        *,
        now: datetime,
        cause: Cause | None = None,
        note: str | None = None,
    ) -> "Change | None":
        if after == self.saga:
            return None
        self._saga = after
        self.goal = after.goal.value
        self.reason = None if after.reason is None else after.reason.value
        self.stock = after.stock.value
        self.stock_version = after.stock_version
        self.payment = after.payment.value
        self.payment_version = after.payment_version
        self.status = saga.status(after).value
        self.asks = 0
        # An answer, or a new goal, is progress: what was flagged before is worth asking for again. Only
        # a refund that has failed goes on waiting for its operator.
        if after.payment is not Payment.REFUND_FAILED:
            self.flagged_at = None
        return self._record(kind, actor, now=now, cause=cause, note=note)

    def _record(
        self,
        kind: str,
        actor: str,
        *,
        now: datetime,
        cause: Cause | None = None,
        note: str | None = None,
    ) -> "Change":
        assert kind in SUMMARIES, kind
        self.version += 1
        self.updated_at = now
        return Change(self, _history_row(self, kind, actor, now=now, cause=cause, note=note))


@dataclass(frozen=True, slots=True)
class Change:
    """A change that an order has gone through, and its row in the history."""

    order: Order
    history_row: dict[str, Any]


def place(
    *,
    order_id: UUID,
    customer_id: str,
    checkout_id: str | None,
    currency: str,
    payment_method: str,
    lines: list[OrderLine],
    now: datetime,
    deadline_at: datetime,
    traceparent: str | None,
) -> Change:
    """A new order, pending, with version 1."""
    start = Saga()
    order = Order(
        id=order_id,
        customer_id=customer_id,
        checkout_id=checkout_id,
        currency=currency,
        total=sum(line.total for line in lines),
        payment_method=payment_method,
        status=saga.status(start).value,
        goal=start.goal.value,
        reason=None,
        stock=start.stock.value,
        stock_version=0,
        payment=start.payment.value,
        payment_version=0,
        version=0,
        deadline_at=deadline_at,
        due_at=None,
        asks=0,
        flagged_at=None,
        resolved_at=None,
        traceparent=traceparent,
        created_at=now,
        updated_at=now,
        lines=lines,
    )
    return order._record("placed", customer_id, now=now)


def _history_row(
    order: Order, kind: str, actor: str, *, now: datetime, cause: Cause | None, note: str | None
) -> dict[str, Any]:
    traceparent = (cause and cause.traceparent) or order.traceparent
    return {
        "order_id": order.id,
        "version": order.version,
        "at": now,
        "kind": kind,
        "actor": actor,
        "note": note,
        "status": order.status,
        "goal": order.goal,
        "reason": order.reason,
        "stock": order.stock,
        "payment": order.payment,
        "message_id": cause and cause.message_id,
        "message_topic": cause and cause.topic,
        "message_partition": cause and cause.partition,
        "message_offset": cause and cause.offset,
        "trace_id": trace_id_of(traceparent),
    }
