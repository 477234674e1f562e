"""A model of one order, its reservation and its payment, and of everything that can happen to them.

The order is the real one: the pure functions of `order_service.saga`. The participants are their own
transition tables. Between them every message that was ever sent is kept for ever, and can be delivered at
any time, in any order, any number of times. Inventory may refuse or hold, a reservation may run out, the
provider may answer anything that the table has, somebody may cancel and the deadline may pass, whenever.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from ecom_contracts.messages import PaymentState
from inventory_service.models import TRANSITIONS as RESERVATIONS
from inventory_service.models import Trigger
from order_service import saga
from order_service.saga import Ask, Goal, Payment, Reason, Saga, Status, Stock
from payment_service.states import TRANSITIONS as PAYMENTS
from payment_service.states import Happening

MOST_FAILED_REFUNDS: Final = 2
"""Each failure adds two versions; without a bound the states would never end."""


@dataclass(frozen=True, slots=True)
class World:
    """One moment of an order and of all who deal with it."""

    order: Saga = field(default_factory=Saga)
    asked: frozenset[Ask] = frozenset({Ask.RESERVE})
    """Every command that was ever sent."""
    is_promised: bool = False
    """Whether somebody has been told that the order is being cancelled."""
    stock: Stock = Stock.NONE
    stock_version: int = 0
    stock_answers: frozenset[tuple[Stock, int]] = frozenset()
    payment: PaymentState = PaymentState.NONE
    payment_version: int = 0
    payment_answers: frozenset[tuple[PaymentState, int]] = frozenset()
    is_cancel_remembered: bool = False
    failed_refunds: int = 0

    @property
    def status(self) -> Status:
        return saga.status(self.order)

    @property
    def is_sold(self) -> bool:
        """The stock has left and the money was taken."""
        return self.stock is Stock.COMMITTED and self.payment is PaymentState.CAPTURED

    @property
    def is_undone(self) -> bool:
        """Nothing is held and nothing stays charged."""
        return self.stock in (
            Stock.NONE,
            Stock.REFUSED,
            Stock.RELEASED,
            Stock.RESTOCKED,
        ) and self.payment in (
            PaymentState.NONE,
            PaymentState.DECLINED,
            PaymentState.CANCELLED,
            PaymentState.REFUNDED,
        )


@dataclass(frozen=True, slots=True)
class Move:
    """Something that happens. Those that are `ours` happen by themselves, sooner or later: commands that
    are wanted are asked again, answers arrive, the provider answers."""

    what: str
    after: World
    ours: bool


def moves(world: World) -> Iterator[Move]:
    """Everything that can happen next and changes something."""
    wanted = saga.asks(world.order)
    for ask in sorted(world.asked):
        for after in _ask(world, ask):
            yield Move(ask.value, after, ours=ask in wanted)
    for state, version in world.stock_answers:
        order = saga.learn_stock(world.order, state, version)
        yield Move(f"order learns: stock {state}", _order(world, order), ours=True)
    for payment, version in world.payment_answers:
        order = saga.learn_payment(world.order, Payment(payment.value), version)
        yield Move(f"order learns: payment {payment}", _order(world, order), ours=True)
    for happening in _provider_answers(world):
        after = _payment(world, happening)
        fails = happening is Happening.REFUND_FAILED
        yield Move(f"provider: {happening}", after, ours=not fails)
    yield Move("the reservation runs out", _stock(world, Trigger.EXPIRE), ours=False)
    yield Move("the deadline passes", _order(world, saga.time_out(world.order)), ours=False)
    if world.status is not Status.REJECTED:
        for reason in (Reason.CANCELLED_BY_CUSTOMER, Reason.CANCELLED_BY_OPERATOR):
            after = _order(world, saga.abort(world.order, reason))
            yield Move(reason.value, replace(after, is_promised=True), ours=False)


def _order(world: World, order: Saga) -> World:
    return replace(world, order=order, asked=world.asked | saga.asks(order))


def _ask(world: World, ask: Ask) -> Iterator[World]:
    """A command arrives; inventory's own stock decides between hold and refuse."""
    if ask is Ask.RESERVE:
        yield _stock(world, Trigger.HOLD, answers=True)
        yield _stock(world, Trigger.REFUSE, answers=True)
    elif ask in _TRIGGERS:
        yield _stock(world, _TRIGGERS[ask], answers=True)
    else:
        yield _payment(world, _HAPPENINGS[ask], answers=True)


_TRIGGERS: Final = {Ask.COMMIT: Trigger.COMMIT, Ask.RELEASE: Trigger.RELEASE}
_HAPPENINGS: Final = {Ask.CHARGE: Happening.CHARGE, Ask.CANCEL: Happening.CANCEL}


def _stock(world: World, trigger: Trigger, *, answers: bool = False) -> World:
    """A change is published; a command that changes nothing is answered with the state as it is."""
    state = RESERVATIONS.get((world.stock, trigger))
    if state is not None:
        world = replace(world, stock=state, stock_version=world.stock_version + 1)
    if state is None and not answers:
        return world
    said = world.stock_answers | {(world.stock, world.stock_version)}
    return replace(world, stock_answers=said)


def _payment(world: World, happening: Happening, *, answers: bool = False) -> World:
    state = PAYMENTS.get((world.payment, happening))
    if state is not None:
        world = _with_payment(world, state, happening)
    if state is None and not answers:
        return world
    said = world.payment_answers | {(world.payment, world.payment_version)}
    return replace(world, payment_answers=said)


def _with_payment(world: World, state: PaymentState, happening: Happening) -> World:
    is_change = state is not world.payment
    return replace(
        world,
        payment=state,
        payment_version=world.payment_version + is_change,
        is_cancel_remembered=world.is_cancel_remembered or happening is Happening.CANCEL,
        failed_refunds=world.failed_refunds + (happening is Happening.REFUND_FAILED),
    )


def _provider_answers(world: World) -> Iterator[Happening]:
    late = Happening.CAPTURED_AFTER_CANCEL if world.is_cancel_remembered else Happening.CAPTURED
    yield from (late, Happening.DECLINED, Happening.VOIDED, Happening.NO_ANSWER, Happening.REFUNDED)
    if world.failed_refunds < MOST_FAILED_REFUNDS:
        yield Happening.REFUND_FAILED


class Space:
    """Every state that can be reached, and every move between two of them."""

    @cached_property
    def worlds(self) -> dict[World, list[Move]]:
        start = World()
        found: dict[World, list[Move]] = {}
        waiting = [start]
        seen = {start}
        while waiting:
            world = waiting.pop()
            found[world] = [move for move in moves(world) if move.after != world]
            fresh = {move.after for move in found[world]} - seen
            seen |= fresh
            waiting += fresh
        return found

    @cached_property
    def edges(self) -> list[tuple[World, Move]]:
        return [(world, move) for world, out in self.worlds.items() for move in out]

    @cached_property
    def status_changes(self) -> set[tuple[Status, Status]]:
        pairs = {(world.status, move.after.status) for world, move in self.edges}
        return {(before, after) for before, after in pairs if before is not after}

    def can_end_well(self) -> set[World]:
        """The states from which what happens by itself can lead to a good end."""
        before: dict[World, list[World]] = {}
        for world, move in self.edges:
            if move.ours:
                before.setdefault(move.after, []).append(world)
        good = {world for world in self.worlds if is_good_end(world)}
        waiting = list(good)
        while waiting:
            fresh = set(before.get(waiting.pop(), ())) - good
            good |= fresh
            waiting += fresh
        return good


def is_good_end(world: World) -> bool:
    """Confirmed and sold, or given up and undone; and whoever was promised a cancellation has it."""
    if world.order.goal is Goal.FULFIL:
        return world.status is Status.CONFIRMED and world.is_sold
    is_kept = world.status is Status.CANCELLED or not world.is_promised
    return world.status in (Status.CANCELLED, Status.REJECTED) and world.is_undone and is_kept
