"""The use cases. Each runs inside the caller's transaction and never commits.

Nothing here talks to the provider: commands make operations, `claim_jobs` leases them to whoever asks the
provider, and `record_results` writes down what it said. All three may happen twice without harm.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from ecom_common.clock import database_time
from ecom_common.errors import Problem
from ecom_common.logs import Line, say_when_durable
from ecom_common.messages import Received
from ecom_common.outbox import Outgoing, outgoing, publish
from ecom_common.safeguards import is_off
from ecom_contracts.messages import PaymentCancel, PaymentChanged, PaymentCharge, PaymentState
from sqlalchemy.orm import Session

from payment_service import repository
from payment_service.models import SERVICE, Journal, PaymentIntent, charge_key
from payment_service.provider import Outcome, Status
from payment_service.repository import Leased, Watched
from payment_service.states import Backoff, Cause, OperationKind

MAX_CODE_CHARS: Final = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An operation that was leased to one caller: all that is needed to ask the provider."""

    operation_id: UUID
    payment_id: UUID
    order_id: UUID
    kind: OperationKind
    key: str
    charge_key: str
    reference: str | None
    amount: int
    currency: str
    method: str
    attempt: int
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a job: the provider's answer, or why there is none."""

    job: Job
    reference: str | None
    answer: Outcome | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """An intent as it is read: with its operations and what is booked for it."""

    intent: PaymentIntent
    journals: Sequence[Journal]


# ---- commands


def apply_payment_commands(
    session: Session, messages: Sequence[Received], *, most: int, lease: timedelta
) -> list[Job]:
    """Apply charges and cancels in order; answer each with the intent's whole state, but a new charge only when
    something has come of it.

    At most `most` of the operations that are new, and to be asked at once, are leased to the caller, as by
    `claim_jobs`: that spares a transaction for each charge.
    """
    now = database_time(session)
    commands = [(message.envelope.data, _cause(message)) for message in messages]
    intents = repository.lock_intents(session, {data.order_id for data, _ in commands})
    versions = {order_id: intent.version for order_id, intent in intents.items()}
    answers: list[Outgoing] = []
    for data, cause in commands:
        intent = intents.get(data.order_id)
        if intent is None:
            intent = intents[data.order_id] = _unasked(data, now)
        is_new = intent.state is PaymentState.NONE
        _apply(intent, data, cause, now)
        if not (is_new and intent.state is PaymentState.PROCESSING):
            answers.append(_changed(intent, cause, now))
    jobs = _lease_new(intents.values(), most=most, until=now + lease, now=now)
    repository.save(session, intents.values())
    publish(session, answers)
    causes = {data.order_id: cause for data, cause in commands}
    news = [i for i in intents.values() if i.version > versions.get(i.order_id, 0)]
    say_when_durable(session, log, [_line(i, causes[i.order_id]) for i in news])
    return jobs


def _lease_new(
    intents: Iterable[PaymentIntent], *, most: int, until: datetime, now: datetime
) -> list[Job]:
    due = [
        (intent, operation)
        for intent in intents
        for operation in intent.operations
        if operation.stored is None and operation.is_due(now)
    ]
    for _, operation in due[:most]:
        operation.lease(until=until)
    return [_job(Leased.of(intent, operation)) for intent, operation in due[:most]]


def _apply(
    intent: PaymentIntent, data: PaymentCharge | PaymentCancel, cause: Cause, now: datetime
) -> None:
    if (data.amount, data.currency) != (intent.amount, intent.currency):
        # What was agreed first holds. Only a fault in the sender could do this.
        log.error("a command of another amount", extra={"order_id": str(intent.order_id)})
    if isinstance(data, PaymentCharge):
        intent.charge(method=data.method, cause=cause, now=now)
    else:
        intent.cancel(cause=cause, now=now)


def _unasked(data: PaymentCharge | PaymentCancel, now: datetime) -> PaymentIntent:
    return PaymentIntent.unasked(
        order_id=data.order_id,
        customer_id=data.customer_id,
        currency=data.currency,
        amount=data.amount,
        now=now,
    )


def _cause(message: Received) -> Cause:
    envelope = message.envelope
    return Cause(envelope.id, envelope.correlation_id, envelope.traceparent)


def _changed(intent: PaymentIntent, cause: Cause, now: datetime) -> Outgoing:
    data = PaymentChanged(
        order_id=intent.order_id,
        payment_id=intent.id,
        state=intent.state,
        version=intent.version,
        currency=intent.currency,
        amount=intent.amount,
        captured=intent.captured,
        refunded=intent.refunded,
        decline_code=intent.decline_code,
    )
    return outgoing(
        data,
        source=SERVICE,
        now=now,
        sequence=intent.version,
        correlation_id=cause.correlation_id,
        causation_id=cause.id,
        traceparent=cause.traceparent,
    )


def _line(intent: PaymentIntent, cause: Cause) -> Line:
    return Line(f"payment {intent.state}", intent.order_id, intent.version, cause.traceparent)


# ---- jobs at the provider


def claim_jobs(session: Session, *, most: int, lease: timedelta) -> list[Job]:
    """Lease at most `most` operations that are due, the longest due first.

    The caller asks the provider after this transaction has committed, and reports by `record_results`
    or `give_back_jobs`. One who does neither within `lease` has lost the job to somebody else, who asks
    with the same key.
    """
    due = repository.lease_due_operations(session, most=most, lease=lease)
    return [_job(leased) for leased in due]


def _job(leased: Leased) -> Job:
    job = Job(
        operation_id=leased.operation_id,
        payment_id=leased.payment_id,
        order_id=leased.order_id,
        kind=OperationKind(leased.kind),
        key=leased.key,
        charge_key=charge_key(leased.order_id),
        reference=leased.reference,
        amount=leased.amount,
        currency=leased.currency,
        method=leased.method or "",
        attempt=leased.attempt,
        traceparent=leased.traceparent,
    )
    if is_off("provider-key") and job.kind is OperationKind.CHARGE and job.attempt > 1:
        return replace(job, charge_key=f"{job.charge_key}:try{job.attempt}", reference=None)
    return job


def give_back_jobs(session: Session, jobs: Sequence[Job]) -> None:
    """End the leases of jobs that were not begun, so that others need not wait for their end."""
    now = database_time(session)
    attempts = {job.operation_id: job.attempt for job in jobs}
    operations = repository.lock_operations(session, attempts)
    for operation in operations:
        operation.give_back(attempt=attempts[operation.id], now=now)
    repository.save_operations(session, operations)


def record_results(session: Session, results: Sequence[Result], *, backoff: Backoff) -> list[None]:
    """Write down what the provider said: intent, operation, ledger and outbox, for each result.

    An answer counts whoever brings it, because it is the provider's word about a key; a missing answer
    counts only from the latest caller. What is known already changes nothing.
    """
    now = database_time(session)
    intents = repository.lock_intents_by_id(session, {result.job.payment_id for result in results})
    journals: list[Journal] = []
    events: list[Outgoing] = []
    lines: list[Line] = []
    for result in results:
        intent = intents[result.job.payment_id]
        version = intent.version
        journal = _learn(intent, result, backoff, now)
        if journal is not None:
            journals.append(journal)
        if intent.version > version:
            cause = intent.operation(result.job.operation_id).cause
            events.append(_changed(intent, cause, now))
            lines.append(_line(intent, cause))
    repository.save(session, intents.values(), journals)
    publish(session, events)
    say_when_durable(session, log, lines)
    return [None] * len(results)


def _learn(
    intent: PaymentIntent, result: Result, backoff: Backoff, now: datetime
) -> Journal | None:
    if result.reference is not None and intent.provider_reference is None:
        intent.provider_reference = result.reference
    operation = intent.operation(result.job.operation_id)
    code = _code(result.answer)
    match result.answer and result.answer.status:
        case Status.CAPTURED:
            return intent.capture(now=now)
        case Status.DECLINED:
            intent.decline(code=code, now=now)
        case Status.CANCELLED:
            intent.close(now=now)
        case Status.REFUNDED:
            return intent.complete_refund(operation, now=now)
        case Status.REFUND_FAILED:
            intent.fail_refund(operation, code=code, now=now)
        case Status.OPEN | Status.PROCESSING | None:
            error = result.error or "not decided yet"
            intent.miss_answer(
                operation, attempt=result.job.attempt, error=error, backoff=backoff, now=now
            )
    return None


def _code(answer: Outcome | None) -> str:
    """The provider's reason, fit to be stored and published."""
    code = "".join(c for c in (answer and answer.code) or "" if c.isascii() and c.isprintable())
    return code[:MAX_CODE_CHARS] or "unspecified"


# ---- reading


def show_payment(session: Session, payment_id: UUID) -> Shown:
    """One intent; raises the `not_found` problem."""
    intent = repository.find_intent(session, payment_id)
    if intent is None:
        raise Problem("not_found", "There is no payment with this id.")
    return Shown(intent, repository.journals_of(session, [intent.id])[intent.id])


def list_payments(
    session: Session, *, order_id: UUID | None, before: UUID | None, limit: int
) -> list[Shown]:
    """At most `limit` intents, the newest first, those before the cursor."""
    intents = repository.page_of_intents(session, order_id=order_id, before=before, limit=limit)
    journals = repository.journals_of(session, [intent.id for intent in intents])
    return [Shown(intent, journals[intent.id]) for intent in intents]


def look_after(session: Session) -> Watched:
    """What operators watch: unknown outcomes, refunds under way and failed, jobs that wait."""
    return repository.count_watched(session, now=database_time(session))
