"""The invariants between databases, and how to tell a violation from something on its way.

Both sides are read in the order of their keys and compared as they come. Their snapshots are of different
moments, so a difference is only a suspicion: it is looked at again, and is a violation when nothing about it
has moved in between and nothing about it is about to.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ecom_audit.databases import Record, Snapshots
from ecom_audit.invariants import Attention, Finding, Violation
from ecom_audit.transitions import PAYMENT_CLOSED, STOCK_CLOSED

Sides = tuple[Record | None, ...]
"""What each source says of one key. Every row begins with the key and whether it is moving: changed a
moment ago, or with an answer of the provider outstanding."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sources with one key (database → query, in the order of the key), and what must hold between them.

    The queries know `:settle`, for how many seconds a changed row counts as moving, and `:keys`, those
    that are wanted, or NULL for all.
    """

    sources: Mapping[str, str]
    judge: Callable[..., Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A difference, as one look has shown it."""

    sides: Sides
    findings: tuple[Finding, ...]

    @property
    def is_moving(self) -> bool:
        return any(row is not None and row.moving for row in self.sides)

    @property
    def facts(self) -> Sequence[object]:
        return [row and (row[0], *row[2:]) for row in self.sides]


def suspicions(
    comparison: Comparison, now: Snapshots, *, settle_s: float, keys: Sequence[str] | None = None
) -> dict[str, Suspicion]:
    """The keys on which the sources differ."""
    sources = [
        now[database].rows(sql, settle=settle_s, keys=keys)
        for database, sql in comparison.sources.items()
    ]
    found = {}
    for key, sides in aligned(*sources):
        if findings := tuple(comparison.judge(key, *sides)):
            found[key] = Suspicion(sides, findings)
    return found


def aligned(*sources: Iterator[Record]) -> Iterator[tuple[str, Sides]]:
    """Rows of one key side by side; every source is sorted by its first column, without repetitions."""
    heads = [next(source, None) for source in sources]
    while keys := [row[0] for row in heads if row is not None]:
        key = min(keys)
        sides = tuple(row if row is not None and row[0] == key else None for row in heads)
        yield key, sides
        heads = [
            next(source, None) if side is not None else head
            for source, side, head in zip(sources, sides, heads, strict=True)
        ]


# ---- an order and its participants

_MOVING: Final = "updated_at > db_now() - make_interval(secs => :settle) AS moving"
# The same list on both sides, so that they can be compared as text and shown as they are.
_LINES: Final = """
    SELECT order_id, string_agg(concat(quantity, ' ', sku), ', ' ORDER BY sku COLLATE "C") AS lines
    FROM {table} WHERE :keys IS NULL OR order_id = ANY(CAST(:keys AS uuid[])) GROUP BY order_id"""


def _wanted(column: str) -> str:
    return f"(:keys IS NULL OR {column} = ANY(CAST(:keys AS uuid[])))"


_ORDERS: Final = {
    "order": f"""
        SELECT id::text, {_MOVING}, CASE WHEN resolved_at IS NULL THEN status ELSE 'resolved' END AS status,
               total, currency, stock, stock_version, payment, payment_version, version, lines
        FROM orders LEFT JOIN ({_LINES.format(table="order_lines")}) l ON order_id = id
        WHERE {_wanted("id")} ORDER BY id""",
    "inventory": f"""
        SELECT order_id::text, {_MOVING}, state, version, lines
        FROM reservations LEFT JOIN ({_LINES.format(table="reservation_lines")}) l USING (order_id)
        WHERE {_wanted("order_id")} ORDER BY order_id""",
    # Two payments of one order are seen elsewhere.
    "payment": f"""
        SELECT DISTINCT ON (order_id) order_id::text AS order_key, {_MOVING}, state, version, amount,
               currency, captured, refunded
        FROM payments WHERE {_wanted("order_id")} ORDER BY order_id""",
}  # fmt: skip

CLOSED: Final = {"rejected", "cancelled", "resolved"}
# What a participant that has never heard of an order makes of its undoing, and with which version. For an order
# that knows more it was set back to an older backup, and was asked again: nothing is held, nothing is charged.
TOMBSTONES: Final = {"reservation": ("released", 1), "payment": ("cancelled", 1)}
# What the participants are when the order is final, or was settled outside of the system.
ENDS: Final = {
    "confirmed": ({"committed"}, {"captured"}),
    "rejected": (STOCK_CLOSED, PAYMENT_CLOSED),
    "cancelled": (STOCK_CLOSED, PAYMENT_CLOSED),
    "resolved": (STOCK_CLOSED, {"refund_failed"}),
}


def judge_order(
    order_id: str, order: Record | None, reservation: Record | None, payment: Record | None
) -> Iterator[Finding]:
    """What does not hold between an order, its reservation and its payment."""
    if order is None:
        yield from _judge_unknown(order_id, reservation, payment)
        return
    yield from _judge_money(order, payment)
    yield from _judge_stock(order, reservation)
    yield from _judge_agreement(order, reservation, payment)


def _judge_unknown(
    order_id: str, reservation: Record | None, payment: Record | None
) -> Iterator[Finding]:
    stock, money = ((known.state if known else "none") for known in (reservation, payment))
    left = f"reservation {stock}, payment {money}"
    if stock in {"none"} | STOCK_CLOSED and money in PAYMENT_CLOSED:
        # Undone after a restore from a backup that did not know it yet: a loss, but nobody's money.
        yield Attention("lost order", order_id, left)
    else:
        yield Violation("known-orders", order_id, left, "no such order")


def _judge_money(order: Record, payment: Record | None) -> Iterator[Finding]:
    kept = payment.captured - payment.refunded if payment else 0
    # Of a resolved order the books here keep what the provider has kept: all of it.
    ends = {"confirmed": order.total, "rejected": 0, "cancelled": 0, "resolved": order.total}
    wanted = ends.get(order.status, kept)
    agreed = payment is None or (payment.amount, payment.currency) == (order.total, order.currency)
    if kept != wanted or not agreed:
        left = f"order {order.status}, total {order.total} {order.currency}"
        right = "no payment"
        if payment:
            right = (
                f"payment of {payment.amount} {payment.currency}: captured {payment.captured}, "
                f"refunded {payment.refunded}"
            )
        yield Violation("money", order[0], left, right)


def _judge_stock(order: Record, reservation: Record | None) -> Iterator[Finding]:
    if reservation is None:
        return
    if order.status in CLOSED and reservation.state == "held":
        right = f"reservation held: {reservation.lines}"
        yield Violation("held", order[0], f"order {order.status}", right)
    # A release that came first has left a tombstone, which never heard of any line.
    tombstone = reservation.state == "released" and reservation.lines is None
    if reservation.lines != order.lines and not tombstone:
        left, right = f"order of {order.lines}", f"{reservation.state} are {reservation.lines}"
        yield Violation("committed", order[0], left, right)


def _judge_agreement(
    order: Record, reservation: Record | None, payment: Record | None
) -> Iterator[Finding]:
    stock_ends, payment_ends = ENDS.get(order.status, (None, None))
    facts = (
        ("reservation", order.stock, order.stock_version, reservation, stock_ends),
        ("payment", order.payment, order.payment_version, payment, payment_ends),
    )
    for name, told, told_version, participant, ends in facts:
        state = participant.state if participant else "none"
        version = participant.version if participant else 0
        if name == "reservation" and state == "held" and order.status in CLOSED:
            continue  # said already
        # An open order may be told of a newer state yet. The first word about a payment is its own.
        own_word = (told, told_version) == ("requested", 0)
        ahead = version <= told_version and not own_word
        if order.status in CLOSED and (state, version) == TOMBSTONES[name] != (told, told_version):
            yield Attention("set back", order[0], f"{name} {state}, which was {told} once")
        elif (state != told and (ends is not None or ahead)) or (ends and state not in ends):
            left = f"order {order.status}, knows {told} (version {told_version})"
            yield Violation("agreement", order[0], left, f"{name} {state} (version {version})")


# ---- the ledger and the provider's book

_KEYS: Final = {
    "payment": """
        SELECT key, state IN ('pending', 'unknown')
                    OR updated_at > db_now() - make_interval(secs => :settle) AS moving,
               coalesce(booked.amount, 0) AS amount, coalesce(booked.currency, '-') AS currency
        FROM operations
        LEFT JOIN (SELECT operation_id, currency, sum(amount) AS amount
                   FROM ledger_journals JOIN ledger_entries USING (operation_id)
                   WHERE account = 'provider_clearing' GROUP BY operation_id) booked ON operation_id = id
        WHERE operations.kind <> 'void' AND (:keys IS NULL OR key = ANY(CAST(:keys AS text[])))
        ORDER BY key COLLATE "C" """,
    "provider": """
        SELECT key, false AS moving, amount, currency
        FROM (SELECT key, captured AS amount, currency FROM book
              UNION ALL
              SELECT refunds.key, -refunds.amount, currency FROM refunds JOIN book USING (reference)
              WHERE refunds.state = 'refunded') book
        WHERE (:keys IS NULL OR key = ANY(CAST(:keys AS text[])))
        ORDER BY key COLLATE "C" """,
}


def judge_key(key: str, ledger: Record | None, book: Record | None) -> Iterator[Finding]:
    """What does not hold between what we have booked under a key and what the provider has."""
    ours = (int(ledger.amount), ledger.currency) if ledger and ledger.amount else (0, "-")
    theirs = (int(book.amount), book.currency) if book and book.amount else (0, "-")
    if ours != theirs:
        left, right = (
            f"{who} {amount} {currency}" if amount else f"{who} nothing"
            for who, (amount, currency) in (("ledger", ours), ("provider", theirs))
        )
        yield Violation("provider", key, left, right)


COMPARISONS: Final = (Comparison(_ORDERS, judge_order), Comparison(_KEYS, judge_key))
