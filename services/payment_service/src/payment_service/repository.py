"""Every query and lock of this service, and how its aggregates are written.

What is loaded is detached from its session: nothing is written by surprise, only by `save`. The lock order
is intents by order id, then their operations by id. Claiming locks operations alone and waits for nobody,
so it has no place in that order.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from ecom_common.bulk import insert_rows, update_rows
from ecom_common.database import lock_rows
from ecom_common.rows import load, locking
from ecom_common.safeguards import is_off
from ecom_contracts.messages import PaymentState
from sqlalchemy import ColumnElement, Select, Table, func, inspect, select
from sqlalchemy.orm import Session, raiseload, selectinload
from sqlalchemy.orm.attributes import set_committed_value

from payment_service.models import Base, Entry, Journal, Operation, PaymentIntent

_INTENTS: Final = cast(Table, PaymentIntent.__table__)
_OPERATIONS: Final = cast(Table, Operation.__table__)
_JOURNALS: Final = cast(Table, Journal.__table__)
_ENTRIES: Final = cast(Table, Entry.__table__)

# What the service's role may update; the rest of a row is fixed when it is made.
_INTENT_CHANGES: Final = (
    "id", "state", "version", "captured", "refunded", "decline_code", "provider_reference",
    "cancel_requested_at", "updated_at",
)  # fmt: skip
_OPERATION_CHANGES: Final = (
    "id", "state", "attempts", "next_attempt_at", "leased_until", "last_error", "updated_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Watched:
    """How many intents are in the states that somebody should look at."""

    unknown: int
    refunding: int
    refund_failed: int
    jobs_due: int
    oldest_job_age: timedelta


def lock_intents(session: Session, order_ids: Collection[UUID]) -> dict[UUID, PaymentIntent]:
    """The intents of these orders with their operations, locked; by order id."""
    return {i.order_id: i for i in _lock(session, PaymentIntent.order_id.in_(list(set(order_ids))))}


def lock_intents_by_id(session: Session, intent_ids: Collection[UUID]) -> dict[UUID, PaymentIntent]:
    """These intents with their operations, locked; by their own id."""
    return {i.id: i for i in _lock(session, PaymentIntent.id.in_(list(set(intent_ids))))}


def _lock(session: Session, which: ColumnElement[bool]) -> Sequence[PaymentIntent]:
    query = select(PaymentIntent).where(which).order_by(PaymentIntent.order_id)
    intents = session.scalars(lock_rows(query).options(raiseload("*"))).all()
    operations: dict[UUID, list[Operation]] = {intent.id: [] for intent in intents}
    if intents:
        # Locked too: claiming changes operations without a look at their intents.
        theirs = select(Operation).where(Operation.payment_id.in_(operations))
        for operation in session.scalars(lock_rows(theirs.order_by(Operation.id))):
            operations[operation.payment_id].append(operation)
    for intent in intents:
        set_committed_value(intent, "operations", operations[intent.id])
    session.expunge_all()
    return intents


_LEASE: Final = """
    WITH due AS (
        SELECT id FROM operations
        WHERE next_attempt_at <= db_now() AND (leased_until IS NULL OR leased_until <= db_now())
        ORDER BY next_attempt_at LIMIT %s {lock})
    UPDATE operations AS o
    SET attempts = o.attempts + 1, leased_until = db_now() + %s, updated_at = db_now()
    FROM due JOIN operations AS before USING (id) JOIN payments AS p ON p.id = before.payment_id
    WHERE o.id = due.id
    RETURNING before.next_attempt_at, o.id, p.id, p.order_id, o.kind, o.key, p.provider_reference,
        o.amount, p.currency, p.method, o.attempts, o.traceparent"""


class Leased(NamedTuple):
    """An operation that is one caller's for a while, with what there is to know of its intent."""

    due_at: datetime
    operation_id: UUID
    payment_id: UUID
    order_id: UUID
    kind: str
    key: str
    reference: str | None
    amount: int
    currency: str
    method: str | None
    attempt: int
    traceparent: str | None


def lease_due_operations(session: Session, *, most: int, lease: timedelta) -> list[Leased]:
    """Lease at most `most` operations that are to be asked now and that nobody else is asking.

    The longest due first; those that another transaction is looking at are passed over. One statement without
    the aggregates: this is asked many times a second, mostly finds nothing, and who asks is no business of theirs.
    """
    statement = _LEASE.format(lock=locking("FOR UPDATE SKIP LOCKED"))
    return sorted(load(session, Leased, statement, most, lease))


def lock_operations(session: Session, operation_ids: Collection[UUID]) -> list[Operation]:
    """These operations alone, locked in the order of their ids."""
    query = select(Operation).where(Operation.id.in_(list(set(operation_ids))))
    operations = session.scalars(lock_rows(query.order_by(Operation.id))).all()
    session.expunge_all()
    return list(operations)


def save(
    session: Session, intents: Iterable[PaymentIntent], journals: Iterable[Journal] = ()
) -> None:
    """Write what is new and what has changed of these locked intents, and book the journals."""
    known = [i for i in intents if i.state is not PaymentState.NONE]
    if is_off("tombstones"):
        known = [i for i in known if not i.is_tombstone]
    ordered = sorted(known, key=lambda i: i.order_id)
    operations = [operation for intent in ordered for operation in intent.operations]
    insert_rows(session, _INTENTS, [_row(i, _INTENTS.c.keys()) for i in ordered if _is_new(i)])
    update_rows(
        session,
        _INTENTS,
        [_row(i, _INTENT_CHANGES) for i in ordered if _is_changed(i)],
        key="id",
    )
    insert_rows(
        session, _OPERATIONS, [_row(o, _OPERATIONS.c.keys()) for o in operations if _is_new(o)]
    )
    save_operations(session, operations)
    booked = list(journals)
    insert_rows(session, _JOURNALS, [_row(j, _JOURNALS.c.keys()) for j in booked])
    insert_rows(
        session,
        _ENTRIES,
        [_row(e, _ENTRIES.c.keys()) for journal in booked for e in journal.entries],
    )


def save_operations(session: Session, operations: Iterable[Operation]) -> None:
    """Write what has changed of these locked operations."""
    changed = [_row(o, _OPERATION_CHANGES) for o in operations if _is_changed(o)]
    update_rows(session, _OPERATIONS, changed, key="id")


def _is_new(row: Base) -> bool:
    return not inspect(row).has_identity


def _is_changed(row: Base) -> bool:
    state = inspect(row)
    return state.has_identity and state.modified


def _row(row: Base, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def find_intent(session: Session, intent_id: UUID) -> PaymentIntent | None:
    """The intent with its operations."""
    return session.scalar(_readable().where(PaymentIntent.id == intent_id))


def page_of_intents(
    session: Session, *, order_id: UUID | None, before: UUID | None, limit: int
) -> Sequence[PaymentIntent]:
    """At most `limit` intents with their operations, the newest first, before the cursor."""
    query = _readable().order_by(PaymentIntent.id.desc()).limit(limit)
    if order_id is not None:
        query = query.where(PaymentIntent.order_id == order_id)
    if before is not None:
        query = query.where(PaymentIntent.id < before)
    return session.scalars(query).all()


def _readable() -> Select[PaymentIntent]:
    return select(PaymentIntent).options(selectinload(PaymentIntent.operations))


def journals_of(session: Session, intent_ids: Collection[UUID]) -> dict[UUID, list[Journal]]:
    """What is booked for these intents, by intent, in the order of booking."""
    journals: dict[UUID, list[Journal]] = {intent_id: [] for intent_id in intent_ids}
    query = (
        select(Journal)
        .where(Journal.payment_id.in_(journals))
        .order_by(Journal.booked_at, Journal.operation_id)
        .options(selectinload(Journal.entries))
    )
    for journal in session.scalars(query):
        journals[journal.payment_id].append(journal)
    return journals


def count_watched(session: Session, *, now: datetime) -> Watched:
    """What is not as it should be for long."""
    states = session.execute(
        select(PaymentIntent.state, func.count())
        .where(PaymentIntent.state.in_(_WATCHED_STATES))
        .group_by(PaymentIntent.state)
    )
    counts = {row[0]: int(row[1]) for row in states}
    due, oldest = session.execute(
        select(func.count(), func.min(Operation.next_attempt_at)).where(
            Operation.next_attempt_at <= now
        )
    ).one()
    return Watched(
        unknown=counts.get(PaymentState.UNKNOWN, 0),
        refunding=counts.get(PaymentState.REFUNDING, 0),
        refund_failed=counts.get(PaymentState.REFUND_FAILED, 0),
        jobs_due=due,
        oldest_job_age=now - oldest if oldest else timedelta(0),
    )


def list_watched(
    session: Session, states: Collection[PaymentState], *, most: int
) -> Sequence[PaymentIntent]:
    """At most `most` intents in these states with their operations, the longest unchanged first."""
    query = _readable().where(PaymentIntent.state.in_(states))
    return session.scalars(query.order_by(PaymentIntent.updated_at).limit(most)).all()


_WATCHED_STATES: Final = (
    PaymentState.UNKNOWN,
    PaymentState.REFUNDING,
    PaymentState.REFUND_FAILED,
)
