"""After a restore: the steps that are repeated lead whoever has forgotten to what the order knows."""

from collections.abc import Iterable
from typing import Final

import pytest
from ecom_contracts.messages import PaymentState
from inventory_service.models import TRANSITIONS as RESERVATIONS
from inventory_service.models import Trigger
from order_service.reconcile import steps
from order_service.saga import Ask, Payment, Status, Stock
from payment_service.states import TRANSITIONS as PAYMENTS
from payment_service.states import Happening

from tests.support.saga_model import Space, World, is_good_end

TRIGGERS: Final = {
    Ask.RESERVE: Trigger.HOLD,
    Ask.COMMIT: Trigger.COMMIT,
    Ask.RELEASE: Trigger.RELEASE,
}
HAPPENINGS: Final = {Ask.CHARGE: Happening.CHARGE, Ask.CANCEL: Happening.CANCEL}
STOCK_FREE: Final = (Stock.NONE, Stock.REFUSED, Stock.RELEASED, Stock.RESTOCKED)
MONEY_FREE: Final = (
    PaymentState.NONE,
    PaymentState.DECLINED,
    PaymentState.CANCELLED,
    PaymentState.REFUNDED,
)


@pytest.fixture(scope="module")
def ends() -> list[World]:
    """Every good end, with one world for each that the order and the participants can tell apart."""
    found = {
        (world.order, world.stock, world.payment): world
        for world in Space().worlds
        if is_good_end(world)
    }
    return list(found.values())


def reservation_after(asks: Iterable[Ask], state: Stock) -> Stock:
    """A reservation that hears these commands, with enough in stock."""
    for ask in asks:
        if ask in TRIGGERS:
            state = RESERVATIONS.get((state, TRIGGERS[ask]), state)
    return state


def payment_after(asks: Iterable[Ask], state: PaymentState, *, order: Payment) -> PaymentState:
    """An intent that hears these commands; the provider, asked after each, remembers what it did."""
    is_cancelled = False
    for ask in asks:
        if ask in HAPPENINGS:
            state = PAYMENTS.get((state, HAPPENINGS[ask]), state)
            is_cancelled |= ask is Ask.CANCEL
            state = provider_answers(state, order, is_cancelled=is_cancelled)
    return state


def provider_answers(state: PaymentState, order: Payment, *, is_cancelled: bool) -> PaymentState:
    if state is PaymentState.PROCESSING:
        assert order in (Payment.CAPTURED, Payment.REFUNDED), "nothing else may be charged again"
        late = Happening.CAPTURED_AFTER_CANCEL if is_cancelled else Happening.CAPTURED
        state = PAYMENTS[state, late]
    if state is PaymentState.REFUNDING:
        state = PAYMENTS[state, Happening.REFUNDED]
    return state


def test_whoever_has_forgotten_everything_is_led_to_the_orders_end(ends: list[World]) -> None:
    for world in ends:
        asks = steps(world.order)
        stock = reservation_after(asks, Stock.NONE)
        payment = payment_after(asks, PaymentState.NONE, order=world.order.payment)
        if world.status is Status.CONFIRMED:
            assert (stock, payment) == (Stock.COMMITTED, PaymentState.CAPTURED), world
        else:
            assert stock in STOCK_FREE, world
            assert payment in MONEY_FREE, world
            assert (payment is PaymentState.REFUNDED) == (
                world.order.payment is Payment.REFUNDED
            ), "a payment that is given back has both entries in the ledger"


def test_whoever_was_set_back_half_way_is_led_to_the_orders_end(ends: list[World]) -> None:
    for world in ends:
        for stock in (Stock.HELD, Stock.COMMITTED):
            after = reservation_after(steps(world.order), stock)
            if world.status is Status.CONFIRMED:
                assert after is Stock.COMMITTED
            else:
                assert after in STOCK_FREE


def test_whoever_knows_as_much_is_not_changed(ends: list[World]) -> None:
    for world in ends:
        asks = steps(world.order)
        assert reservation_after(asks, world.stock) is world.stock
        assert payment_after(asks, world.payment, order=world.order.payment) is world.payment


def test_nobody_is_charged_who_never_was(ends: list[World]) -> None:
    never = [
        w for w in ends if w.order.payment in (Payment.NONE, Payment.CANCELLED, Payment.DECLINED)
    ]
    assert never
    assert not [world for world in never if Ask.CHARGE in steps(world.order)]
