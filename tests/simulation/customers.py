"""Customers and staff: what they ask for, how they try again, and what they were told.

What was acknowledged is the promise that is compared with the databases in the end.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from uuid import UUID

from ecom_audit.invariants import Violation
from ecom_common.batch import Failed
from ecom_common.database import Trouble, classify
from ecom_common.errors import DependencyDown, Problem
from ecom_common.idempotency import fingerprint
from ecom_common.ids import new_id
from inventory_service.commands import ItemPut, MovementRecorded, PutItem, RecordMovement
from inventory_service.models import ItemContent, MovementKind
from order_service.commands import Cancelled, CancelOrder, Placed, PlaceOrder

from tests.simulation.processes import Api, HandlerBug, Request
from tests.simulation.provider import SILENT
from tests.simulation.trace import Trace

SKUS: Final = ("mug", "pot", "print", "tea")
REFUND_FAILS: Final = "pm_sim_refundFails"

# Payment methods, and how many of a hundred customers have them.
_METHODS: Final = {
    "pm_card_visa": 29,
    "pm_card_chargeDeclined": 8,
    "pm_sim_timeoutThenSuccess": 9,
    "pm_sim_timeoutThenDecline": 7,
    "pm_sim_neverSeen": 5,
    "pm_sim_lateSuccess": 9,
    "pm_sim_error": 6,
    "pm_sim_slow": 4,
    "pm_sim_refundFailsOnce": 5,
    "pm_sim_refundTimeoutThenSuccess": 5,
    REFUND_FAILS: 1,
    SILENT: 12,
}
_CHANGE_OF_MIND: Final = 0.15
"""So many cancel as soon as they are answered."""
_REFUSALS: Final = {"unknown_sku", "item_inactive", "price_changed"}


@dataclass
class Wish:
    """One thing that one customer wants, however often it is asked for: at most one order."""

    number: int
    customer: str
    keys: list[str]
    checkout: str | None
    basket: dict[str, int]
    method: str
    proposed: set[UUID] = field(default_factory=set)
    acknowledged: UUID | None = None
    is_promised: bool = False
    """Whether a cancellation was accepted."""
    is_unanswered: bool = False

    def __str__(self) -> str:
        return f"wish {self.number} of {self.customer}"


@dataclass
class Shoppers:
    """Everybody who uses the APIs."""

    random: Random
    trace: Trace
    orders: Api
    stock: Api
    remaining: int
    wishes: list[Wish] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    recorded: set[str] = field(default_factory=set)
    """Keys of movements that were acknowledged."""
    _movements: list[RecordMovement] = field(default_factory=list)

    # ---- staff

    def open_shop(self, *, units: int) -> None:
        for sku in SKUS:
            self._put(sku, price=self.random.randint(100, 5000))
            self._move(sku, MovementKind.RECEIVED, units)

    def look_after_stock(self) -> None:
        sku = self.random.choice(SKUS)
        what = self.random.random()
        if what < 0.2:
            self._put(sku, price=self.random.randint(100, 5000))
        elif what < 0.3:
            self._put(sku, price=self.random.randint(100, 5000), active=False)
        elif what < 0.5 and self._movements:
            self._send_movement(self.random.choice(self._movements))
        elif what < 0.85:
            self._move(sku, MovementKind.RECEIVED, self.random.randint(1, 4))
        else:
            self._move(sku, MovementKind.ADJUSTED, -1)

    def _put(self, sku: str, *, price: int, active: bool = True) -> None:
        content = ItemContent(
            name=sku.title(), description=None, unit_price=price, currency="EUR", active=active
        )
        command = PutItem(sku=sku, content=content)
        self.stock.submit(Request(command, self._heard_of_stock, f"{sku} at {price}"))

    def _move(self, sku: str, kind: MovementKind, quantity: int) -> None:
        reason = "found broken" if kind is MovementKind.ADJUSTED else None
        command = RecordMovement(
            sku=sku,
            kind=kind,
            quantity=quantity,
            reason=reason,
            subject="staff",
            key=str(new_id()),
        )
        self._movements.append(command)
        self._send_movement(command)

    def _send_movement(self, command: RecordMovement) -> None:
        self.stock.submit(Request(command, self._heard_of_stock, command.key))

    def _heard_of_stock(self, outcome: Any) -> None:
        self.trace.note(f"staff hear {_said(outcome)}")
        match outcome:
            case MovementRecorded():
                self.recorded.add(outcome.movement.cause)
            case Problem(code="stock_in_use" | "not_found") | ItemPut():
                pass
            case _:
                self._expect_failure("staff", outcome)

    # ---- customers

    def act(self) -> None:
        """One customer does something."""
        chance = self.random.random()
        if self.remaining and (chance < 0.45 or not self.wishes):
            self._wish()
        elif self.wishes and chance < 0.7:
            wish = self.random.choice(self.wishes[-12:])
            self._send(wish, self.random.choice(wish.keys))
        elif self.wishes and chance < 0.8:
            self._click_twice(self.random.choice(self.wishes[-12:]))
        elif known := [wish for wish in self.wishes if wish.acknowledged]:
            if chance < 0.83:
                self._reuse_key(self.random.choice(known))
            else:
                self._cancel(self.random.choice(known[-8:]))

    def insist(self) -> int:
        """Those who have heard nothing try again; how many."""
        waiting = [wish for wish in self.wishes if wish.is_unanswered]
        for wish in waiting:
            self._send(wish, wish.keys[0])
        return len(waiting)

    def _wish(self) -> None:
        self.remaining -= 1
        number = len(self.wishes) + 1
        skus = self.random.sample(SKUS, self.random.choice((1, 1, 2, 3)))
        wish = Wish(
            number=number,
            customer=self.random.choice(("alice", "bob", "carol")),
            keys=[str(new_id())],
            checkout=f"checkout-{number}" if self.random.random() < 0.6 else None,
            basket={sku: self.random.choice((1, 1, 2, 3)) for sku in skus},
            method=self.random.choices(list(_METHODS), list(_METHODS.values()))[0],
        )
        self.wishes.append(wish)
        self._send(wish, wish.keys[0])

    def _click_twice(self, wish: Wish) -> None:
        if wish.checkout is None:
            return
        key = str(new_id())
        wish.keys.append(key)
        self._send(wish, key)

    def _send(self, wish: Wish, key: str) -> None:
        command = self._command(wish, key, wish.basket)
        wish.proposed.add(command.order_id)
        wish.is_unanswered = wish.acknowledged is None
        self.trace.note(f"{wish} asks with key {key[-6:]} for order {command.order_id}")
        self.orders.submit(Request(command, lambda outcome: self._placed(wish, outcome), key))

    def _reuse_key(self, wish: Wish) -> None:
        command = self._command(wish, wish.keys[0], {"tea": 77})
        wish.proposed.add(command.order_id)
        self.orders.submit(
            Request(
                command,
                lambda outcome: self._refused_reuse(wish, outcome),
                f"{wish.keys[0]} again",
            )
        )

    def _command(self, wish: Wish, key: str, basket: dict[str, int]) -> PlaceOrder:
        content = [basket, wish.checkout, wish.method]
        return PlaceOrder(
            order_id=new_id(),
            customer_id=wish.customer,
            idempotency_key=key,
            fingerprint=fingerprint(content),
            currency="EUR",
            quantities=basket,
            payment_method=wish.method,
            checkout_id=wish.checkout,
            expected_total=None,
            traceparent=None,
        )

    def _placed(self, wish: Wish, outcome: Any) -> None:
        self.trace.note(f"{wish} hears {_said(outcome)}")
        match outcome:
            case Placed(order=order):
                self._acknowledge(wish, order)
                if self.random.random() < _CHANGE_OF_MIND:
                    self._cancel(wish)
            case Problem(code=code) if code in _REFUSALS and wish.acknowledged is None:
                wish.is_unanswered = False
            case _:
                self._expect_failure(str(wish), outcome)

    def _acknowledge(self, wish: Wish, order: Any) -> None:
        wish.is_unanswered = False
        if wish.acknowledged is None:
            wish.acknowledged = order.id
        elif wish.acknowledged != order.id:
            self._object(
                "one-order", str(wish), f"told of {wish.acknowledged}", f"then of {order.id}"
            )
        content = {line.sku: line.quantity for line in order.lines}
        if content != wish.basket or order.customer_id != wish.customer:
            self._object("one-order", str(order.id), f"{wish} for {wish.basket}", f"got {content}")

    def _refused_reuse(self, wish: Wish, outcome: Any) -> None:
        self.trace.note(f"{wish} hears {_said(outcome)} of its key's reuse")
        match outcome:
            case Problem(code="idempotency_key_reused" | "checkout_reused"):
                pass
            case _:
                self._expect_failure(str(wish), outcome)

    def _cancel(self, wish: Wish) -> None:
        assert wish.acknowledged is not None
        by_operator = self.random.random() < 0.2
        customer = None if by_operator else wish.customer
        command = CancelOrder(wish.acknowledged, customer, actor=customer or "olga")
        self.trace.note(f"{command.actor} cancels {command.order_id}")
        self.orders.submit(
            Request(
                command,
                lambda outcome: self._cancelled(wish, outcome),
                f"cancellation of {command.order_id}",
            )
        )

    def _cancelled(self, wish: Wish, outcome: Any) -> None:
        self.trace.note(f"{wish} hears {_said(outcome)}")
        match outcome:
            case Cancelled():
                wish.is_promised = True
            case Problem(code="not_cancellable"):
                pass
            case _:
                self._expect_failure(str(wish), outcome)

    # ---- what may fail

    def _expect_failure(self, who: str, outcome: Any) -> None:
        """A failure may be answered so: the database was away, or a bug that we have put there."""
        error = outcome.error if isinstance(outcome, Failed) else outcome
        injected = isinstance(error, HandlerBug | DependencyDown)
        if not injected and not (isinstance(error, Exception) and classify(error) is Trouble.DOWN):
            self._object("answers", who, f"heard {_said(outcome)}", "no such answer")

    def _object(self, name: str, subject: str, left: str, right: str) -> None:
        self.violations.append(Violation(name, subject, left, right))


def _said(outcome: Any) -> str:
    match outcome:
        case Placed(order=order, replayed=replayed, existed=existed):
            how = "again" if replayed else "found" if existed else "placed"
            return f"{how}: {order.id} {order.status}"
        case Cancelled(order=order):
            return f"{order.id} {order.status}"
        case Problem():
            return outcome.code
        case Failed(error=error):
            return f"failed: {type(error).__name__}"
        case _:
            return type(outcome).__name__
