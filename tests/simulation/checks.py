"""What must hold: at any moment what the auditor finds in a snapshot, in the end everything."""

from collections.abc import Iterator
from typing import Any, Final

import orjson
from ecom_audit.invariants import Violation
from ecom_audit.look import Patience, look
from sqlalchemy import Connection, text

from tests.simulation.broker import Sent
from tests.simulation.customers import REFUND_FAILS
from tests.simulation.world import World

CHECKS: Final = {
    "one-order": "one wish of a customer is one order, the one that was acknowledged",
    "promised": "an accepted cancellation ends as cancelled, and nothing is taken",
    "announced": "everybody else is told of each order and of its end, and of nothing else",
    "recorded": "a movement that was acknowledged is in the ledger",
    "catalogue": "customers are shown the items that inventory has",
    "in-time": "an order that is not confirmed by its deadline is given up, flagged or not",
    "finished": "once nothing fails any more, everything comes to its end",
    "answers": "no customer is answered what cannot be",
    "errors": "no step fails but for what was done to it",
}
"""What the simulation looks at beside the auditor's invariants."""

_AT_ANY_MOMENT: Final = Patience(grace_s=1e6, settle_s=0.0)
# Longer than any back-off or lease of a run, so that whoever has made no step for so long is stuck.
_IN_TIME: Final = Patience(grace_s=20.0, settle_s=0.0)
_IN_THE_END: Final = Patience(grace_s=30.0, settle_s=0.0)
_OVERDUE: Final = text(
    "SELECT id, status, stock, payment, deadline_at FROM orders "
    "WHERE goal = 'fulfil' AND status = 'pending' AND deadline_at < db_now() - interval '10 seconds'"
)
_FINAL: Final = {
    "confirmed": "order.confirmed.v1",
    "rejected": "order.rejected.v1",
    "cancelled": "order.cancelled.v1",
}


def midway(world: World) -> list[Violation]:
    """What is wrong although everything is under way: one snapshot of all databases."""
    return _audit(world, _AT_ANY_MOMENT)


def in_time(world: World) -> list[Violation]:
    """What is wrong once nothing has failed for as long as an order may take."""
    found = _audit(world, _IN_TIME)
    engines = world.around.laboratory.auditing(world.clock)
    with engines["order"].connect() as orders:
        for row in orders.execute(_OVERDUE):
            left = f"{row.status}, stock {row.stock}, payment {row.payment}"
            found.append(Violation("in-time", str(row.id), left, f"by {row.deadline_at}"))
    return found


def finally_(world: World) -> list[Violation]:
    """What is wrong once everything has come to its end."""
    found = [*world.violations, *world.shoppers.violations, *_audit(world, _IN_THE_END)]
    engines = world.around.laboratory.auditing(world.clock)
    with engines["order"].connect() as orders, engines["inventory"].connect() as inventory:
        found += _one_order(world, orders)
        found += _promised(world, orders)
        found += _finished(orders)
        found += _announced(world, orders)
        found += _recorded(world, inventory)
        found += _catalogue(world, orders, inventory)
    return found


def _audit(world: World, patience: Patience) -> list[Violation]:
    engines = world.around.laboratory.auditing(world.clock)
    report = look(engines, patience, sleep=lambda _: None)
    lost = [
        Violation("known-orders", a.subject, a.note, "no such order")
        for a in report.attention
        if a.kind == "lost order"
    ]
    return report.violations + lost


def _one_order(world: World, orders: Connection) -> Iterator[Violation]:
    known = {row[0] for row in orders.execute(text("SELECT id FROM orders"))}
    for wish in world.shoppers.wishes:
        made = sorted(map(str, wish.proposed & known))
        if len(made) > 1:
            yield Violation("one-order", made[0], f"{wish} is {len(made)} orders: {made}", "one")
        elif wish.acknowledged is not None and wish.acknowledged not in known:
            yield Violation(
                "one-order", str(wish.acknowledged), f"{wish} was told of it", "no such order"
            )


def _promised(world: World, orders: Connection) -> Iterator[Violation]:
    states = {row.id: row for row in orders.execute(text("SELECT id, status, payment FROM orders"))}
    for wish in world.shoppers.wishes:
        row = states.get(wish.acknowledged)
        if wish.is_promised and row is not None and row.status != "cancelled":
            if wish.method == REFUND_FAILS and row.payment in ("refund_failed", "refunding"):
                continue
            left = f"{wish} was told that it is being cancelled"
            yield Violation("promised", str(row.id), left, f"{row.status}, payment {row.payment}")


def _finished(orders: Connection) -> Iterator[Violation]:
    query = text(
        "SELECT id, status, stock, payment, flagged_at FROM orders "
        "WHERE status IN ('pending', 'cancelling') AND payment_method <> :never"
    )
    for row in orders.execute(query, {"never": REFUND_FAILS}):
        left = f"{row.status}, stock {row.stock}, payment {row.payment}, flagged {row.flagged_at}"
        yield Violation("finished", str(row.id), left, "final")


def _announced(world: World, orders: Connection) -> Iterator[Violation]:
    said = {_announcement(sent) for sent in world.broker.ever_sent if sent.topic == "orders.events"}
    query = text(
        "SELECT order_id, version, kind, status FROM order_history ORDER BY order_id, version"
    )
    due = set()
    before: dict[Any, str] = {}
    for row in orders.execute(query):
        if row.kind == "placed":
            due.add((str(row.order_id), "order.placed.v1", row.version))
        elif row.status in _FINAL and before[row.order_id] != row.status:
            due.add((str(row.order_id), _FINAL[row.status], row.version))
        before[row.order_id] = row.status
    for order_id, type_, version in sorted(due - said):
        yield Violation("announced", order_id, f"{type_} at version {version}", "nobody was told")
    for order_id, type_, version in sorted(said - due):
        if type_ != "poison":
            yield Violation(
                "announced", order_id, "no such change", f"told: {type_}, version {version}"
            )


def _announcement(sent: Sent) -> tuple[str, str, int]:
    if sent.key == "poison":
        return sent.key, "poison", 0
    envelope = orjson.loads(sent.value)
    return envelope["subject"], envelope["type"], envelope["sequence"]


def _recorded(world: World, inventory: Connection) -> Iterator[Violation]:
    causes = {row[0] for row in inventory.execute(text("SELECT cause FROM movements"))}
    for cause in sorted(world.shoppers.recorded - causes):
        yield Violation("recorded", cause, "acknowledged", "not in the ledger")


def _catalogue(world: World, orders: Connection, inventory: Connection) -> Iterator[Violation]:
    if world.broker.lost_data:
        return  # what the broker has lost of the catalogue, an operator has inventory publish again
    columns = "sku, unit_price, active, version"
    shown = {r.sku: r for r in orders.execute(text(f"SELECT {columns} FROM catalogue_items"))}
    for item in inventory.execute(text(f"SELECT {columns} FROM items ORDER BY sku")):
        if shown.get(item.sku) != item:
            yield Violation(
                "catalogue", item.sku, f"inventory has {item}", f"shown {shown.get(item.sku)}"
            )
