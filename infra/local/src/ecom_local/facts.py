"""What the databases say about every order, and where they do not agree.

Read by an operator's tool and across services, as no service may: after a restore somebody has to compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ecom_local import sql
from ecom_local.platform import Platform
from ecom_local.sql import Question

_SHOWN = 20

# Nothing of the order's is held by the participant; how it came to that makes no difference.
_STOCK_FREE = {"none", "refused", "released", "restocked"}
_MONEY_FREE = {"none", "declined", "cancelled", "refunded"}
_ON_ITS_WAY = {"pending", "cancelling"}


@dataclass(frozen=True)
class Facts:
    """By the orders' ids."""

    orders: Mapping[str, Order]
    stock: Mapping[str, str]
    payments: Mapping[str, Paid]
    provider: Mapping[str, int]
    """What the provider has kept for each order, in minor units."""
    unsent: int = 0


@dataclass(frozen=True)
class Order:
    status: str
    stock: str
    payment: str


@dataclass(frozen=True)
class Paid:
    state: str
    kept: int
    customer_id: str = ""
    currency: str = ""
    amount: int = 0


@dataclass(frozen=True)
class Differences:
    """Sentences, by order; and the orders that only the participants know."""

    of_orders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    unsent: int = 0

    def __bool__(self) -> bool:
        return bool(self.of_orders or self.unknown or self.unsent)


def read(platform: Platform) -> Facts:
    """As they are now; all orders are held in memory."""
    with ThreadPoolExecutor(len(_QUESTIONS)) as pool:
        answers = pool.map(lambda item: sql.ask(platform, item[0], *item[1]), _QUESTIONS.items())
    (orders, *order_unsent), (stock, *stock_unsent), (payments, book, *pay_unsent) = answers
    return Facts(
        orders={row[0]: Order(*row[1:]) for row in orders},
        stock={row[0]: row[1] for row in stock},
        payments={
            row[0]: Paid(row[1], int(row[2]), row[3], row[4], int(row[5])) for row in payments
        },
        provider={order_id: int(kept) for order_id, kept in book},
        unsent=sum(int(count) for ((count,),) in (*order_unsent, *stock_unsent, *pay_unsent)),
    )


_UNSENT = Question("SELECT count(*) FROM outbox")
_QUESTIONS = {
    "order": [Question("SELECT id, status, stock, payment FROM orders"), _UNSENT],
    "inventory": [Question("SELECT order_id, state FROM reservations"), _UNSENT],
    "payment": [
        Question(
            "SELECT order_id, state, captured - refunded, customer_id, currency, amount FROM payments"
        ),
        # A charge's key begins with its order's id.
        Question(
            "SELECT split_part(key, ':', 1), sum(captured - refunded) FROM book GROUP BY 1",
            url="PROVIDER_DATABASE_URL",
        ),
        _UNSENT,
    ],
}


def differences(facts: Facts) -> Differences:
    """Where orders, inventory, payment and provider do not agree. Orders on their way may differ."""
    of_orders = {
        order_id: sentences
        for order_id, order in facts.orders.items()
        if (sentences := _of_order(order_id, order, facts))
    }
    return Differences(of_orders, unknown(facts), facts.unsent)


def _of_order(order_id: str, order: Order, facts: Facts) -> list[str]:
    if order.status in _ON_ITS_WAY:
        return [f"it is still {order.status}"]
    sentences = []
    stock = facts.stock.get(order_id, "none")
    paid = facts.payments.get(order_id, Paid("none", 0))
    if not _same(order.stock, stock, _STOCK_FREE):
        sentences.append(f"its stock is {order.stock}, and {stock} in the inventory")
    if not _same(order.payment, paid.state, _MONEY_FREE):
        sentences.append(f"its payment is {order.payment}, and {paid.state} in payment")
    if (kept := facts.provider.get(order_id, 0)) != paid.kept:
        sentences.append(f"the provider has kept {kept}, payment has booked {paid.kept}")
    return sentences


def _same(one: str, other: str, free: set[str]) -> bool:
    return one == other or (one in free and other in free)


def unknown(facts: Facts) -> dict[str, str]:
    """What participants hold for orders that the order service does not know, by order."""
    stock = {i: state for i, state in facts.stock.items() if state not in _STOCK_FREE}
    paid = {i: p.state for i, p in facts.payments.items() if p.state not in _MONEY_FREE}
    money = {i: f"{kept} kept by the provider" for i, kept in facts.provider.items() if kept}
    return {
        order_id: ", ".join(
            f"{name} {said[order_id]}"
            for name, said in (("stock", stock), ("payment", paid), ("money", money))
            if order_id in said
        )
        for order_id in sorted({*stock, *paid, *money} - set(facts.orders))
    }


def report(found: Differences) -> list[str]:
    """The differences in words for people."""
    if not found:
        return ["orders, inventory, payment and provider agree"]
    lines = [f"order {i}: {'; '.join(sentences)}" for i, sentences in found.of_orders.items()]
    lines += [f"order {i} is in no order database: {what}" for i, what in found.unknown.items()]
    if found.unsent:
        lines.append(f"{found.unsent} messages are still to be sent; is the broker there?")
    shown = lines[:_SHOWN]
    if len(lines) > _SHOWN:
        shown.append(f"and {len(lines) - _SHOWN} more")
    if found.unknown:
        shown.append(
            "scripts/reconcile --undo-unknown gives back the stock and the money of unknown orders."
        )
    return shown
