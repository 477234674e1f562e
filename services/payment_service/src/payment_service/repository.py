"""Every query and lock of this service, and how its aggregates are written.

What is loaded is detached from its session: nothing is written by surprise, only by `save`. The lock order
is intents by order id, then their operations by id. Claiming locks operations alone and waits for nobody,
so it has no place in that order.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from ecom_common.bulk import insert_rows, update_rows
from ecom_common.rows import column_list, column_names, load, load_prepared, locking
from ecom_common.safeguards import is_off
from ecom_contracts.messages import PaymentState
from sqlalchemy.orm import Session

from payment_service.models import (
    ENTRIES,
    JOURNALS,
    OPERATIONS,
    PAYMENTS,
    Entry,
    Journal,
    Operation,
    PaymentIntent,
)

_INTENTS: Final = f"SELECT {column_list(PAYMENTS)} FROM payments"
_OPERATIONS: Final = f"SELECT {column_list(OPERATIONS)} FROM operations"
# What is watched, and what the partial index of that covers.
_WATCHED: Final = "state IN ('unknown', 'refunding', 'refund_failed')"
_JOURNALS: Final = (
    f"SELECT {column_list(JOURNALS)} FROM ledger_journals WHERE payment_id = ANY(%s::uuid[]) "
    "ORDER BY booked_at, operation_id"
)
_ENTRIES: Final = (
    f"SELECT {column_list(ENTRIES)} FROM ledger_entries WHERE operation_id = ANY(%s::uuid[]) "
    "ORDER BY amount DESC"
)

_INTENT: Final = column_names(PAYMENTS)
_OPERATION: Final = column_names(OPERATIONS)
_JOURNAL: Final = column_names(JOURNALS)
_ENTRY: Final = column_names(ENTRIES)
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
    return {intent.order_id: intent for intent in _lock(session, "order_id", order_ids)}


def lock_intents_by_id(session: Session, intent_ids: Collection[UUID]) -> dict[UUID, PaymentIntent]:
    """These intents with their operations, locked; by their own id."""
    return {intent.id: intent for intent in _lock(session, "id", intent_ids)}


def _lock(session: Session, column: str, ids: Collection[UUID]) -> list[PaymentIntent]:
    lock = locking("FOR UPDATE")
    statement = f"{_INTENTS} WHERE {column} = ANY(%s::uuid[]) ORDER BY order_id {lock}"
    intents = load_prepared(session, PaymentIntent, statement, _texts(ids))
    for intent in intents:
        intent.stored = _values(intent, _INTENT_CHANGES)
    if intents:
        # Locked too: claiming changes operations without a look at their intents.
        theirs = f"{_OPERATIONS} WHERE payment_id = ANY(%s::uuid[]) ORDER BY id {lock}"
        _add_operations(intents, _load_locked(session, theirs, _texts(i.id for i in intents)))
    return intents


def _load_locked(session: Session, statement: str, ids: list[str]) -> list[Operation]:
    operations = load_prepared(session, Operation, statement, ids)
    for operation in operations:
        operation.stored = _values(operation, _OPERATION_CHANGES)
    return operations


def _add_operations(intents: Iterable[PaymentIntent], operations: Iterable[Operation]) -> None:
    by_id = {intent.id: intent for intent in intents}
    for operation in operations:
        by_id[operation.payment_id].operations.append(operation)


def _texts(ids: Iterable[UUID]) -> list[str]:
    return [str(one) for one in sorted(set(ids))]


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

    @classmethod
    def of(cls, intent: PaymentIntent, operation: Operation) -> "Leased":
        """Of one that was leased in memory, and is still to be saved."""
        assert operation.next_attempt_at is not None
        return cls(
            operation.next_attempt_at,
            operation.id,
            intent.id,
            intent.order_id,
            operation.kind,
            operation.key,
            intent.provider_reference,
            operation.amount,
            intent.currency,
            intent.method,
            operation.attempts,
            operation.traceparent,
        )


def lease_due_operations(session: Session, *, most: int, lease: timedelta) -> list[Leased]:
    """Lease at most `most` operations that are to be asked now and that nobody else is asking.

    The longest due first; those that another transaction is looking at are passed over. One statement without
    the aggregates: this is asked many times a second, mostly finds nothing, and who asks is no business of theirs.
    """
    statement = _LEASE.format(lock=locking("FOR UPDATE SKIP LOCKED"))
    return sorted(load_prepared(session, Leased, statement, most, lease))


def lock_operations(session: Session, operation_ids: Collection[UUID]) -> list[Operation]:
    """These operations alone, locked in the order of their ids."""
    statement = f"{_OPERATIONS} WHERE id = ANY(%s::uuid[]) ORDER BY id {locking('FOR UPDATE')}"
    return _load_locked(session, statement, _texts(operation_ids))


def save(
    session: Session, intents: Iterable[PaymentIntent], journals: Iterable[Journal] = ()
) -> None:
    """Write what is new and what has changed of these locked intents, and book the journals."""
    known = [i for i in intents if i.state is not PaymentState.NONE]
    if is_off("tombstones"):
        known = [i for i in known if not i.is_tombstone]
    ordered = sorted(known, key=lambda i: i.order_id)
    operations = [operation for intent in ordered for operation in intent.operations]
    insert_rows(session, PAYMENTS, [_row(i, _INTENT) for i in ordered if i.stored is None])
    changed = [i for i in ordered if i.stored not in (None, _values(i, _INTENT_CHANGES))]
    update_rows(session, PAYMENTS, [_row(i, _INTENT_CHANGES) for i in changed], key="id")
    insert_rows(session, OPERATIONS, [_row(o, _OPERATION) for o in operations if o.stored is None])
    save_operations(session, operations)
    booked = list(journals)
    insert_rows(session, JOURNALS, [_row(j, _JOURNAL) for j in booked])
    entries = [entry for journal in booked for entry in journal.entries]
    insert_rows(session, ENTRIES, [_row(entry, _ENTRY) for entry in entries])


def save_operations(session: Session, operations: Iterable[Operation]) -> None:
    """Write what has changed of these locked operations."""
    changed = [o for o in operations if o.stored not in (None, _values(o, _OPERATION_CHANGES))]
    update_rows(session, OPERATIONS, [_row(o, _OPERATION_CHANGES) for o in changed], key="id")


def _values(row: object, names: Iterable[str]) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in names)


def _row(row: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


# ---- reading


def find_intent(session: Session, intent_id: UUID) -> PaymentIntent | None:
    """The intent with its operations."""
    return next(iter(_read(session, "WHERE id = %s::uuid", str(intent_id))), None)


def page_of_intents(
    session: Session, *, order_id: UUID | None, before: UUID | None, limit: int
) -> list[PaymentIntent]:
    """At most `limit` intents with their operations, the newest first, before the cursor."""
    wanted = {"order_id = %s::uuid": order_id, "id < %s::uuid": before}
    given = {condition: str(value) for condition, value in wanted.items() if value is not None}
    where = f"WHERE {' AND '.join(given)}" if given else ""
    return _read(session, f"{where} ORDER BY id DESC LIMIT %s", *given.values(), limit)


def _read(session: Session, rest: str, *parameters: object) -> list[PaymentIntent]:
    intents = load(session, PaymentIntent, f"{_INTENTS} {rest}", *parameters)
    if intents:
        theirs = f"{_OPERATIONS} WHERE payment_id = ANY(%s::uuid[]) ORDER BY created_at, id"
        _add_operations(intents, load(session, Operation, theirs, _texts(i.id for i in intents)))
    return intents


def journals_of(session: Session, intent_ids: Collection[UUID]) -> dict[UUID, list[Journal]]:
    """What is booked for these intents, by intent, in the order of booking."""
    found = load(session, Journal, _JOURNALS, _texts(intent_ids))
    by_operation = {journal.operation_id: journal for journal in found}
    for entry in load(session, Entry, _ENTRIES, _texts(by_operation)):
        by_operation[entry.operation_id].entries.append(entry)
    journals: dict[UUID, list[Journal]] = {intent_id: [] for intent_id in intent_ids}
    for journal in found:
        journals[journal.payment_id].append(journal)
    return journals


def count_watched(session: Session, *, now: datetime) -> Watched:
    """What is not as it should be for long."""
    by_state = f"SELECT state, count(*) FROM payments WHERE {_WATCHED} GROUP BY state"
    counts = dict(load(session, _pair, by_state))
    [(due, oldest)] = load(
        session,
        _pair,
        "SELECT count(*), min(next_attempt_at) FROM operations WHERE next_attempt_at <= %s",
        now,
    )
    return Watched(
        unknown=counts.get(PaymentState.UNKNOWN, 0),
        refunding=counts.get(PaymentState.REFUNDING, 0),
        refund_failed=counts.get(PaymentState.REFUND_FAILED, 0),
        jobs_due=due,
        oldest_job_age=now - oldest if oldest else timedelta(0),
    )


def _pair(one: Any, other: Any) -> tuple[Any, Any]:
    return one, other


def list_watched(
    session: Session, states: Collection[PaymentState], *, most: int
) -> list[PaymentIntent]:
    """At most `most` intents in these states with their operations, the longest unchanged first."""
    names = [state.value for state in states]
    return _read(session, "WHERE state = ANY(%s) ORDER BY updated_at LIMIT %s", names, most)
