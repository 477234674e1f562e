"""The operators' command of the payment service: `python -m payment_service.operations`, in the image `ecom-ops`.

Shows the payments whose outcome is not known, and the refunds that have failed. What is done about them is the
order's business: `retry`, `cancel`, `resolve` there. Dead letters and the glance are the chassis'.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from ecom_common.clock import database_time
from ecom_common.glance import Figure, count, glance_command
from ecom_common.letter_commands import LETTER_COMMANDS
from ecom_common.operations import DONE, Command, Context, positive, run_operations
from ecom_common.terminal import duration, say, show_json, show_table
from ecom_contracts.messages import PaymentState
from sqlalchemy.orm import Session

from payment_service import repository
from payment_service.consumers import TOPICS
from payment_service.models import SERVICE, PaymentIntent
from payment_service.settings import Settings

LISTED: Final = 50
_STATES: Final = (PaymentState.UNKNOWN, PaymentState.REFUND_FAILED, PaymentState.REFUNDING)
_COLUMNS: Final = (
    "order",
    "state",
    "for",
    "amount",
    "asked",
    "attempts",
    "asked_next",
    "error",
    "next",
)
_NEXT: Final = {
    PaymentState.UNKNOWN: "show {order}",
    PaymentState.REFUND_FAILED: "retry {order}",
    PaymentState.REFUNDING: "",
}


def _payments(context: Context, options: argparse.Namespace) -> int:
    states = [PaymentState(name) for name in options.state] or list(_STATES)
    with context.sessions() as session:
        now = database_time(session)
        rows = [
            _row(context, intent, now)
            for intent in repository.list_watched(session, states, most=options.limit)
        ]
    if options.json:
        show_json(rows)
        return DONE
    if rows:
        show_table(rows, _COLUMNS)
    say(
        f"{len(rows)} payments are {', '.join(states[:-1])}{' or ' if states[1:] else ''}{states[-1]}"
    )
    return DONE


def _row(context: Context, intent: PaymentIntent, now: datetime) -> dict[str, Any]:
    operation = max(intent.operations, key=lambda o: (o.updated_at, o.created_at))
    order = str(intent.order_id)
    command = _NEXT[intent.state].format(order=order)
    return {
        "order": order,
        "state": intent.state.value,
        "for": duration(now - intent.updated_at),
        "amount": f"{intent.amount} {intent.currency}",
        "asked": operation.kind.value,
        "key": operation.key,
        "attempts": operation.attempts,
        "asked_next": operation.next_attempt_at,
        "error": operation.last_error,
        "next": context.hint(command) if command else None,
    }


def _figures(session: Session) -> list[Figure]:
    watched = repository.count_watched(session, now=database_time(session))
    jobs = f"{watched.jobs_due} due, the oldest for {duration(watched.oldest_job_age)}"
    return [
        count("unknown", watched.unknown, "payments --state unknown"),
        Figure("refunding", watched.refunding, str(watched.refunding)),
        Figure("refund failed", watched.refund_failed, str(watched.refund_failed)),
        Figure("provider jobs", watched.jobs_due, jobs if watched.jobs_due else "0 due"),
    ]


def _payments_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        nargs="+",
        choices=[str(state) for state in _STATES],
        default=[],
        help="default: all of these",
    )
    parser.add_argument(
        "--limit", type=positive, default=LISTED, metavar="N", help=f"default: {LISTED}"
    )


COMMANDS: Final = (
    glance_command([topic.name for topic in TOPICS], _figures),
    Command(
        "payments",
        "Show payments whose outcome is unknown, and refunds that are under way or have failed.",
        _payments,
        _payments_arguments,
    ),
    *LETTER_COMMANDS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_operations(SERVICE, Settings, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
