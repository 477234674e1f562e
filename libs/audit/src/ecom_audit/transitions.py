"""What may happen to an order, step by step, as its history tells it.

The tables are literal and come from the design, not from the order service. A whole history is not read: the
database says which steps occur, some dozens however many orders there are, and only the illegal ones are
looked up.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from ecom_audit.databases import Snapshots
from ecom_audit.invariants import Violation


class Facts(NamedTuple):
    """What an entry of the history says that the order was from then on."""

    status: str
    goal: str
    reason: str
    stock: str
    payment: str


PLACED: Final = Facts("pending", "fulfil", "-", "none", "none")

# Where each fact can go, also past states that the order was never told of. From none to committed goes only
# what has forgotten the way, being restored from a backup.
STOCK: Final = {
    "none": {"held", "refused", "released", "committed", "restocked"},
    "held": {"committed", "released", "restocked"},
    "committed": {"restocked"},
    "refused": set(),
    "released": set(),
    "restocked": set(),
}
_DECIDED: Final = {"captured", "declined", "cancelled", "refunding", "refunded", "refund_failed"}
PAYMENT: Final = {
    "none": {"requested"},
    "requested": {"processing", "unknown"} | _DECIDED,
    "processing": {"unknown"} | _DECIDED,
    "unknown": _DECIDED,
    "captured": {"refunding", "refunded", "refund_failed"},
    # A refund that failed is tried again: the same may be said twice.
    "refunding": {"refunding", "refunded", "refund_failed"},
    "refund_failed": {"refunding", "refunded", "refund_failed"},
    "declined": set(),
    "cancelled": set(),
    "refunded": set(),
}
FULFILLING: Final = {
    ("none", "none"): "pending",
    ("held", "requested"): "pending",
    ("held", "processing"): "pending",
    ("held", "unknown"): "pending",
    ("held", "captured"): "pending",
    ("committed", "captured"): "confirmed",
    ("committed", "requested"): "pending",  # restored, like the next two
    ("committed", "processing"): "pending",
    ("committed", "unknown"): "pending",
}
STOCK_CLOSED: Final = {"refused", "released", "restocked"}
PAYMENT_CLOSED: Final = {"none", "declined", "cancelled", "refunded"}
FAILURES: Final = {"out_of_stock", "payment_declined", "reservation_expired"}
PROMISES: Final = {"cancelled_by_customer", "cancelled_by_operator"}
REASONS: Final = FAILURES | PROMISES | {"timed_out"}
# Why an order is given up, by what happened.
TURNS: Final = {
    "stock_refused": {"out_of_stock"},
    "stock_released": {"reservation_expired"},
    "stock_restocked": {"reservation_expired"},
    "payment_declined": {"payment_declined"},
    "payment_cancelled": {"payment_declined"},
    "payment_refunding": {"payment_declined"},
    "payment_refunded": {"payment_declined"},
    "payment_refund_failed": {"payment_declined"},
    "timed_out": {"timed_out"},
    "cancel_requested": PROMISES,
}


# What is neither said by a participant nor gives an order up changes no fact.
OTHERS: Final = {
    "timed_out", "cancel_requested", "flagged", "flag_lifted", "asked_again", "resolved",
}  # fmt: skip


def status_of(facts: Facts) -> str | None:
    """The status that follows from the other facts; None when they do not go together."""
    if facts.goal == "fulfil":
        return FULFILLING.get((facts.stock, facts.payment)) if facts.reason == "-" else None
    if facts.reason not in REASONS:
        return None
    closed = facts.stock in STOCK_CLOSED and facts.payment in PAYMENT_CLOSED
    if facts.reason in FAILURES:
        return "rejected" if closed else "pending"
    return "cancelled" if closed else "cancelling"


def objection(before: Facts | None, kind: str, after: Facts) -> str | None:
    """What is illegal about this step; None when nothing is."""
    if after.status != (status := status_of(after)):
        return f"its status must be {status}" if status else "these facts do not go together"
    if before is None:
        return None if (kind, after) == ("placed", PLACED) else "a history begins with placed"
    if before.status in ("rejected", "cancelled"):
        return "nothing closed goes on"
    if before.status == "confirmed" and kind != "cancel_requested":
        return "what is confirmed can only be cancelled"
    return _facts_objection(before, kind, after) or _goal_objection(before, kind, after)


def _facts_objection(before: Facts, kind: str, after: Facts) -> str | None:
    said, _, state = kind.partition("_")
    if said == "stock":
        # Whoever holds the stock asks for the money with the same step.
        has_stock = state in ("held", "committed")
        asks = has_stock and (before.goal, before.payment) == ("fulfil", "none")
        payment = "requested" if asks else before.payment
        expected = after._replace(stock=state, payment=payment)
        reachable = state in STOCK.get(before.stock, set())
    elif said == "payment":
        expected = after._replace(stock=before.stock, payment=state)
        reachable = state in PAYMENT.get(before.payment, set()) and before.payment != "none"
    else:
        expected = after._replace(stock=before.stock, payment=before.payment)
        reachable = kind in OTHERS and (kind != "resolved" or _is_resolvable(before))
    if not reachable:
        return f"{kind} cannot follow"
    return None if after == expected else f"{kind} does not do this"


def _is_resolvable(facts: Facts) -> bool:
    """Only money that the provider would not give back is settled elsewhere."""
    return (
        facts.goal == "abort" and facts.stock in STOCK_CLOSED and facts.payment == "refund_failed"
    )


def _goal_objection(before: Facts, kind: str, after: Facts) -> str | None:
    if (before.goal, before.reason) == (after.goal, after.reason):
        return f"{kind} gives an order up" if kind in ("timed_out", "cancel_requested") else None
    if before.goal == "abort":
        promised = kind == "cancel_requested" and after.reason in PROMISES
        if after.goal == "abort" and before.reason in FAILURES and promised:
            return None
        return "what is given up stays so, for its first reason"
    return None if after.reason in TURNS.get(kind, set()) else f"{kind} is no such reason"


_STEPS: Final = """
    WITH entries AS (
        SELECT order_id, version, kind,
               concat_ws(' ', status, goal, coalesce(reason, '-'), stock, payment) AS facts
        FROM order_history
    ), steps AS (
        SELECT order_id, version, kind, facts AS after,
               coalesce(lag(facts) OVER (PARTITION BY order_id ORDER BY version), '') AS before
        FROM entries
    )"""
_OCCURRING: Final = f"{_STEPS} SELECT before, kind, after FROM steps GROUP BY before, kind, after"
_WHERE: Final = f"""{_STEPS}
    SELECT order_id::text, version, before, kind, after FROM steps
    WHERE (before, kind, after) IN (SELECT * FROM unnest(
        CAST(:befores AS text[]), CAST(:kinds AS text[]), CAST(:afters AS text[])))"""


def violations(now: Snapshots) -> Iterator[Violation]:
    """The illegal steps of all orders."""
    illegal: dict[tuple[str, str, str], str] = {}
    for before, kind, after in now["order"].rows(_OCCURRING):
        said = objection(_facts(before) if before else None, kind, _facts(after))
        if said is not None:
            illegal[before, kind, after] = said
    if not illegal:
        return
    befores, kinds, afters = (list(column) for column in zip(*illegal, strict=True))
    found = now["order"].rows(_WHERE, befores=befores, kinds=kinds, afters=afters)
    for order_id, version, before, kind, after in found:
        left = f"version {version}: {before or 'nothing'} → {kind} → {after}"
        yield Violation("transitions", order_id, left, illegal[before, kind, after])


def _facts(text: str) -> Facts:
    return Facts(*text.split(" "))
