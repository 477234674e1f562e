"""What operators do with single orders, in memory: retry, lift, cancel, resolve.

No session and no I/O: `service` loads and locks, follows up and writes. Each does nothing the second time and
says so; what it must not do is refused in words. Who did it and why goes into the order's timeline.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from order_service import saga
from order_service.commands import Intervened, Intervention, Verb
from order_service.models import Change, Order
from order_service.publishing import commands
from order_service.repository import Changes
from order_service.saga import STOCK_CLOSED, Goal, Payment, Reason, Status


def intervene(
    order: Order | None, wish: Intervention, changes: Changes, *, now: datetime, unsent: int
) -> Intervened:
    """Do it, if there is anything to do. `unsent` messages of the order still wait in the outbox."""
    if order is None:
        return Intervened(wish.order_id, "there is no such order", refused=True)
    if order.resolved_at is not None:
        return _on_resolved(order, wish)
    return _VERBS[wish.verb](order, wish, changes, now, unsent)


def _on_resolved(order: Order, wish: Intervention) -> Intervened:
    if wish.verb is Verb.RESOLVE:
        return Intervened(order.id, "it was resolved already")
    # The refund that has failed would be tried again, and might succeed this time.
    said = "it was resolved: its money was given back elsewhere, and asking again could give it back twice"
    return Intervened(order.id, said, refused=True)


def _retry(
    order: Order, wish: Intervention, changes: Changes, now: datetime, unsent: int
) -> Intervened:
    if not order.is_open:
        return Intervened(order.id, f"nothing is outstanding: it is {order.status}")
    if unsent and order.flagged_at is None:
        said = f"{unsent} of its messages are not sent yet, so nobody has been asked; look at the outbox"
        return Intervened(order.id, said)
    change = order.ask_again(actor=wish.actor, now=now, note=wish.reason)
    return _asked_anew(change, changes, now)


def _lift(
    order: Order, wish: Intervention, changes: Changes, now: datetime, _unsent: int
) -> Intervened:
    if order.flagged_at is None:
        return Intervened(order.id, f"it is not flagged (any more): it is {order.status}")
    change = order.lift_flag(actor=wish.actor, now=now, note=wish.reason)
    return _asked_anew(change, changes, now)


def _cancel(
    order: Order, wish: Intervention, changes: Changes, now: datetime, _unsent: int
) -> Intervened:
    if order.status == Status.REJECTED:
        return Intervened(order.id, "it was rejected: nothing is held or charged", refused=True)
    reason = Reason.CANCELLED_BY_OPERATOR
    change = order.cancel(reason, actor=wish.actor, now=now, note=wish.reason)
    if change is not None:
        changes.add(change)
    if order.flagged_at is not None:
        # An operator who cancels what has got stuck wants it tried again.
        lifted = order.lift_flag(actor=wish.actor, now=now, note=wish.reason)
        _asked_anew(lifted, changes, now)
        return Intervened(order.id, f"it is {order.status}, and asked for anew", changed=True)
    if change is None:
        return Intervened(order.id, f"it is {order.status} already, because of: {order.reason}")
    return Intervened(order.id, f"it is {order.status}", changed=True)


def _resolve(
    order: Order, wish: Intervention, changes: Changes, now: datetime, _unsent: int
) -> Intervened:
    if not order.can_be_resolved:
        return Intervened(order.id, _why_not_resolvable(order), refused=True)
    changes.add(order.resolve(actor=wish.actor, now=now, note=wish.reason))
    return Intervened(order.id, "resolved: it is left alone from now on", changed=True)


def _why_not_resolvable(order: Order) -> str:
    if not order.is_open:
        return f"there is nothing to resolve: it is {order.status}"
    if order.goal == Goal.FULFIL:
        return "it is still to be fulfilled; cancel it first"
    if order.payment != Payment.REFUND_FAILED:
        return f"its payment is {order.payment}, which still moves by itself; only a failed refund is settled elsewhere"
    if order.stock not in STOCK_CLOSED:
        return f"its stock is {order.stock}; retry, until inventory has taken it back"
    return "its refund was asked for again, and payment has not said yet that it failed once more"


def _asked_anew(change: Change, changes: Changes, now: datetime) -> Intervened:
    order = change.order
    wanted = saga.asks(order.saga)
    changes.add(change)
    changes.outgoing += commands(order, wanted, now=now)
    return Intervened(order.id, f"asked again: {', '.join(sorted(wanted))}", changed=True)


_VERBS: Final[
    Mapping[Verb, Callable[[Order, Intervention, Changes, datetime, int], Intervened]]
] = {
    Verb.RETRY: _retry,
    Verb.LIFT: _lift,
    Verb.CANCEL: _cancel,
    Verb.RESOLVE: _resolve,
}
