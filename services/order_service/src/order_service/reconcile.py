"""Has inventory and payment catch up with the orders, and the orders with them, after a restore.

    python -m order_service.reconcile            every order
    python -m order_service.reconcile --undo     the orders of standard input, which nobody here knows any more

When one database was set back to an older point than the others, the sweeper alone does not bring them
together: it asks for the next step only, and only for open orders. This command repeats, for every order,
each step that has led to what the order knows. A participant that has done a step answers with its state,
which an order that is behind learns; one that has forgotten it does it again, and the provider recognises a
charge by the order's key. It goes before the worker, because of the deadlines: while the database was away
they have passed, and an order that is paid and delivered, and has only forgotten so, would be given up.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from ecom_common.batch import Failed, apply_batch
from ecom_common.clock import database_time
from ecom_common.database import Sessions
from ecom_common.errors import ConfigurationError, EcomError
from ecom_common.logs import describe
from ecom_common.outbox import Outgoing, outgoing, publish
from ecom_common.service_worker import worker_sessions
from ecom_common.settings import load
from ecom_contracts.messages import Message, PaymentCancel, StockRelease
from pydantic import BaseModel
from sqlalchemy.orm import Session

from order_service import repository
from order_service.models import SERVICE
from order_service.publishing import commands
from order_service.saga import Ask, Goal, Payment, Saga, Stock
from order_service.settings import Settings

AT_ONCE: Final = 200
"""Orders in one transaction."""
_FIRST: Final = UUID(int=0)

_NEVER_TAKEN: Final = frozenset({Payment.NONE, Payment.DECLINED, Payment.CANCELLED})


class Unknown(BaseModel):
    """What a participant has for an order that is in no backup."""

    order_id: UUID
    customer_id: str = ""
    currency: str = ""
    amount: int = 0
    """0: there is no payment."""


def steps(saga: Saga) -> tuple[Ask, ...]:
    """Every command that leads a participant who knows nothing to what the saga knows, in order.

    For one who knows as much, each changes nothing.
    """
    return (*_stock_steps(saga), *_payment_steps(saga))


def _stock_steps(saga: Saga) -> Iterable[Ask]:
    is_aborted = saga.goal is Goal.ABORT
    if saga.stock in (Stock.HELD, Stock.COMMITTED) or (saga.stock is Stock.NONE and not is_aborted):
        yield Ask.RESERVE
    if saga.stock is Stock.COMMITTED:
        yield Ask.COMMIT
    if is_aborted:
        yield Ask.RELEASE


def _payment_steps(saga: Saga) -> Iterable[Ask]:
    # What was never taken must not be taken now, only to be given back.
    if saga.payment not in _NEVER_TAKEN:
        yield Ask.CHARGE
    if saga.goal is Goal.ABORT and saga.payment is not Payment.NONE:
        yield Ask.CANCEL


def repeat_steps(session: Session, ids: Sequence[UUID], *, deadline: timedelta) -> list[UUID]:
    """Ask again for all steps of these orders; those that are open get a new deadline."""
    now = database_time(session)
    orders = repository.lock_orders(session, ids)
    repository.renew_deadlines(session, ids, now + deadline)
    publish(
        session,
        [
            message
            for order in orders.values()
            for ask in steps(order.saga)
            if not (ask is Ask.CANCEL and order.resolved_at)  # it was given back by other means
            for message in commands(order, frozenset({ask}), now=now)
        ],
    )
    return list(ids)


def undo(session: Session, unknown: Sequence[Unknown]) -> list[UUID]:
    """Have what is held and what was paid for these orders given back; none of them may be ours."""
    known = repository.lock_orders(session, [one.order_id for one in unknown])
    now = database_time(session)
    messages = [_undoing(one, now=now) for one in unknown if one.order_id not in known]
    publish(session, [message for both in messages for message in both])
    return [one.order_id for one in unknown]


def _undoing(one: Unknown, *, now: datetime) -> list[Outgoing]:
    wanted: list[Message] = [StockRelease(order_id=one.order_id)]
    if one.amount:
        wanted.append(PaymentCancel(**one.model_dump()))
    return [
        outgoing(data, source=SERVICE, now=now, sequence=1, correlation_id=str(one.order_id))
        for data in wanted
    ]


def all_orders(sessions: Sessions, *, at_once: int = AT_ONCE) -> Iterable[Sequence[UUID]]:
    """The ids of all orders, the oldest first, so many at a time."""
    last = _FIRST
    while True:
        with sessions() as session:
            page = repository.page_of_ids(session, after=last, most=at_once)
        if not page:
            return
        yield page
        last = page[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 all is asked for; 1 some could not be, or the database does not answer; 2 bad settings."""
    parser = argparse.ArgumentParser(prog="python -m order_service.reconcile", description=__doc__)
    parser.add_argument(
        "--undo", action="store_true", help="JSON on standard input, an order a line"
    )
    options = parser.parse_args(arguments)
    try:
        settings = load(Settings)
        sessions = worker_sessions(settings, SERVICE)
        done = _undo_all(sessions) if options.undo else _repeat_all(sessions, settings)
    except EcomError as error:
        print(f"{SERVICE}: {error}", file=sys.stderr)  # noqa: T201 - a command's error
        return 2 if isinstance(error, ConfigurationError) else 1
    failed = [outcome.error for outcome in done if isinstance(outcome, Failed)]
    for problem in failed:
        print(f"{SERVICE}: {describe(problem)}", file=sys.stderr)  # noqa: T201
    print(f"{len(done) - len(failed)} orders asked for again")  # noqa: T201 - the command's result
    return 1 if failed else 0


def _repeat_all(sessions: Sessions, settings: Settings) -> list[UUID | Failed]:
    handle = partial(repeat_steps, deadline=timedelta(seconds=settings.order_deadline_s))
    return [
        outcome
        for page in all_orders(sessions)
        for outcome in apply_batch(sessions, handle, page, name="reconcile")
    ]


def _undo_all(sessions: Sessions) -> list[UUID | Failed]:
    unknown = [Unknown.model_validate_json(line) for line in sys.stdin if line.strip()]
    return apply_batch(sessions, undo, unknown, name="reconcile") if unknown else []


if __name__ == "__main__":
    sys.exit(main())
