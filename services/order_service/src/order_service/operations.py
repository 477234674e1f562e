"""The operators' command of the order service: `python -m order_service.operations`, in the image `ecom-ops`.

Finds the orders that do not get on and says why; retries, lifts, cancels and resolves them, each with who and
why in their timeline; tells everybody else again what became of orders. Dead letters and the glance are the
chassis'.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from ecom_common import dead_letters
from ecom_common.clock import database_time
from ecom_common.glance import Figure, count, glance_command
from ecom_common.letter_commands import LETTER_COMMANDS
from ecom_common.operations import (
    COULD_NOT_LOOK,
    DONE,
    REFUSED,
    Command,
    Context,
    Outcome,
    moment,
    positive,
    run_operations,
    settle_all,
)
from ecom_common.outbox import publish
from ecom_common.republishing import PAGE, in_pages, publish_pages
from ecom_common.terminal import duration, say, show_json, show_table
from sqlalchemy.orm import Session

from order_service import repository, saga
from order_service.commands import Intervention, Verb
from order_service.consumers import TOPICS
from order_service.diagnosis import ASKED_OFTEN, Diagnosis, Trouble, diagnose
from order_service.models import SERVICE, SUMMARIES, HistoryEntry, Order
from order_service.publishing import announce_again
from order_service.service import OrderDesk
from order_service.settings import Settings

LISTED: Final = 50
MOST_AT_ONCE: Final = 1_000
COUNTED: Final = 100_000
_FIRST: Final = UUID(int=0)

_SEEN: Final = "Customers read the reason in their order's timeline."
_COLUMNS: Final = ("order", "trouble", "status", "stock", "payment", "age", "why", "next")


# ---- looking


def _stuck(context: Context, options: argparse.Namespace) -> int:
    with context.sessions() as session:
        found = _troubled(session, most=options.limit)
        now = database_time(session)
    rows = [_row(context, order, diagnosis, now) for order, diagnosis in found]
    if options.json:
        show_json(rows)
        return DONE
    if rows:
        show_table(rows, _COLUMNS)
    more = (
        f", and there may be more: --limit {options.limit * 2}"
        if len(rows) == options.limit
        else ""
    )
    say(f"{len(rows)} orders do not get on{more}" if rows else "every order gets on")
    return DONE


def _troubled(session: Session, *, most: int) -> list[tuple[Order, Diagnosis]]:
    orders = repository.list_troubled(session, asked_often=ASKED_OFTEN, most=most)
    unsent = repository.count_unsent(session, [order.id for order in orders])
    now = database_time(session)
    pairs = [(o, diagnose(o, unsent=unsent.get(o.id, 0), now=now)) for o in orders]
    return [(order, diagnosis) for order, diagnosis in pairs if diagnosis is not None]


def _row(context: Context, order: Order, diagnosis: Diagnosis, now: datetime) -> dict[str, Any]:
    return {
        "order": str(order.id),
        "trouble": diagnosis.trouble.value,
        "status": order.status,
        "reason": order.reason,
        "stock": order.stock,
        "payment": order.payment,
        "age": duration(now - order.created_at),
        "waits_for": sorted(saga.asks(order.saga)),
        "asks": order.asks,
        "flagged_at": order.flagged_at,
        "deadline_at": order.deadline_at,
        "updated_at": order.updated_at,
        "why": diagnosis.why,
        "next": context.hint(diagnosis.next) if diagnosis.next else None,
    }


def _show(context: Context, options: argparse.Namespace) -> int:
    with context.sessions() as session:
        order = repository.find_orders(session, [options.order])[0]
        if order is None:
            sys.stderr.write(f"{SERVICE}: there is no order {options.order}\n")
            return REFUSED
        history = list(repository.history(session, order.id, most=MOST_AT_ONCE))
        unsent = repository.count_unsent(session, [order.id]).get(order.id, 0)
        key = str(order.id).encode()
        letters = dead_letters.ids(session, state="open", key=key, most=LISTED)
        diagnosis = diagnose(order, unsent=unsent, now=database_time(session))
    facts = _facts(order, unsent, [f"{context.short}/{n}" for n in letters])
    if options.json:
        matter = None if diagnosis is None else {"trouble": diagnosis.trouble, "why": diagnosis.why}
        show_json({**facts, "matter": matter, "timeline": [_entry(e) for e in history]})
        return DONE
    for name, value in facts.items():
        words = ", ".join(value) if isinstance(value, list) else value
        say(f"{name:<13} {'-' if words in (None, '') else words}")
    say()
    show_table([_entry(e) for e in history], ("version", "at", "actor", "what", "note"))
    if diagnosis is not None:
        say(f"\nwhat is the matter: {diagnosis.why}")
        if diagnosis.next:
            say(context.hint(diagnosis.next))
    return DONE


def _facts(order: Order, unsent: int, letters: Sequence[str]) -> dict[str, Any]:
    return {
        "order": str(order.id),
        "customer": order.customer_id,
        "total": f"{order.total} {order.currency}",
        "status": order.status,
        "goal": order.goal,
        "reason": order.reason,
        "stock": order.stock,
        "payment": order.payment,
        "waits for": sorted(saga.asks(order.saga)),
        "asked again": order.asks,
        "next look": order.due_at,
        "deadline": order.deadline_at,
        "flagged": order.flagged_at,
        "resolved": order.resolved_at,
        "unsent": unsent,
        "dead letters": list(letters),
    }


def _entry(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "at": entry.at,
        "kind": entry.kind,
        "actor": entry.actor,
        "what": SUMMARIES[entry.kind],
        "note": entry.note,
        "status": entry.status,
        "stock": entry.stock,
        "payment": entry.payment,
    }


def _figures(session: Session) -> list[Figure]:
    on_their_way = repository.count_open(session, COUNTED)
    resolved = repository.count_resolved(session)
    return [
        Figure("orders", on_their_way, f"{on_their_way} on their way"),
        count("flagged", repository.count_flagged(session), "stuck"),
        count("overdue", repository.count_stuck(session), "stuck"),
        Figure("resolved", resolved, f"{resolved}, settled outside of the system"),
    ]


# ---- doing


def _intervene(verb: Verb) -> Callable[[Context, argparse.Namespace], int]:
    def run(context: Context, options: argparse.Namespace) -> int:
        wants_all = getattr(options, "all", False)
        if bool(options.order) == wants_all:
            sys.stderr.write(
                "name orders, or --all\n" if hasattr(options, "all") else "name orders\n"
            )
            return COULD_NOT_LOOK
        ids = _all_of(context, verb) if wants_all else list(dict.fromkeys(options.order))
        assert isinstance(context.settings, Settings)
        desk = OrderDesk(context.settings)

        def handle(session: Session, wishes: Sequence[Intervention]) -> list[Outcome]:
            return [
                Outcome(str(one.order_id), one.said, changed=one.changed, refused=one.refused)
                for one in desk.intervene(session, wishes)
            ]

        if not ids and not options.json:
            say("no order wants that")
        wishes = [Intervention(verb, i, options.actor, options.reason) for i in ids]
        return settle_all(
            context, handle, wishes, name_of=lambda wish: str(wish.order_id), as_json=options.json
        )

    return run


def _all_of(context: Context, verb: Verb) -> list[UUID]:
    """Flagged ones to lift; everything that does not get on to retry."""
    with context.sessions() as session:
        found = _troubled(session, most=MOST_AT_ONCE)
    flagged = (Trouble.FLAGGED, Trouble.REFUND_FAILED)
    return [o.id for o, d in found if verb is Verb.RETRY or d.trouble in flagged]


# ---- republishing


def _republish(context: Context, options: argparse.Namespace) -> int:
    if bool(options.order) == bool(options.since):
        sys.stderr.write("name orders, or a period by --since and perhaps --until\n")
        return COULD_NOT_LOOK
    pages = in_pages(options.order) or _period(context, options.since, options.until)
    return publish_pages(context, options, pages, republish, what="orders")


def _period(context: Context, since: datetime, until: datetime | None) -> Iterator[Sequence[UUID]]:
    last = _FIRST
    while True:
        with context.sessions() as session:
            page = repository.page_of_ids(session, after=last, most=PAGE, since=since, until=until)
        if not page:
            return
        yield page
        last = page[-1]


def republish(session: Session, ids: Sequence[UUID]) -> list[bool]:
    """Tell everybody else again what became of these orders; which of them there are."""
    orders = repository.lock_orders(session, ids)
    histories = repository.histories(session, orders)
    known = [order_id for order_id in ids if order_id in orders]
    publish(session, [m for i in known for m in announce_again(orders[i], histories[i])])
    return [order_id in orders for order_id in ids]


# ---- the command line


def _orders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("order", nargs="*", type=UUID, metavar="ORDER", help="its id")


def _retry_arguments(parser: argparse.ArgumentParser) -> None:
    _orders(parser)
    parser.add_argument("--all", action="store_true", help="everything that `stuck` shows")


def _lift_arguments(parser: argparse.ArgumentParser) -> None:
    _orders(parser)
    parser.add_argument("--all", action="store_true", help="every flagged order")


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("order", type=UUID, metavar="ORDER", help="its id")


def _stuck_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", type=positive, default=LISTED, metavar="N", help=f"default: {LISTED}"
    )


def _republish_arguments(parser: argparse.ArgumentParser) -> None:
    _orders(parser)
    parser.add_argument("--since", type=moment, metavar="TIME", help="placed then or later")
    parser.add_argument("--until", type=moment, metavar="TIME", help="placed before (default: now)")


COMMANDS: Final = (
    glance_command([topic.name for topic in TOPICS], _figures),
    Command("stuck", "Show the orders that do not get on, and why.", _stuck, _stuck_arguments),
    Command("show", "Show one order: what it waits for, and its timeline.", _show, _show_arguments),
    Command(
        "retry",
        f"Ask again for all that an order waits for, flagged or not. {_SEEN}",
        _intervene(Verb.RETRY),
        _retry_arguments,
        needs_reason=True,
    ),
    Command(
        "lift",
        f"Lift the flag of an order, and have it carried on. {_SEEN}",
        _intervene(Verb.LIFT),
        _lift_arguments,
        needs_reason=True,
    ),
    Command(
        "cancel",
        "Cancel an order as operator, confirmed ones too: stock comes back, money is given back. "
        f"{_SEEN}",
        _intervene(Verb.CANCEL),
        _orders,
        needs_reason=True,
    ),
    Command(
        "resolve",
        "Mark an order whose refund has failed as settled: its money was given back by other means. "
        f"Nothing is asked for any more. {_SEEN}",
        _intervene(Verb.RESOLVE),
        _orders,
        needs_reason=True,
    ),
    Command(
        "republish orders",
        "Publish order.placed and the final events again, from the histories: with new message ids, and the "
        "old times and sequences, by which consumers know them.",
        _republish,
        _republish_arguments,
    ),
    *LETTER_COMMANDS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_operations(SERVICE, Settings, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
