"""The saga: its tables, every state it can be led to, and the README that tells of both."""

import re
from itertools import product
from pathlib import Path
from typing import Final

import pytest
from order_service import saga
from order_service.saga import Ask, Goal, Payment, Reason, Saga, Status, Stock
from order_service.settings import Settings

from tests.support.saga_model import Space, World, is_good_end

README: Final = Path(__file__).parents[2] / "services/order_service/README.md"
ANY: Final = "–"

# design: goal, stock, payment → commands. Written out here a second time, on purpose.
CHARGEABLE: Final = (Payment.NONE, Payment.REQUESTED, Payment.PROCESSING, Payment.UNKNOWN)
UNDOABLE: Final = (
    Payment.REQUESTED,
    Payment.PROCESSING,
    Payment.UNKNOWN,
    Payment.CAPTURED,
    Payment.REFUNDING,
    Payment.REFUND_FAILED,
)
STOCK_CLOSED: Final = (Stock.REFUSED, Stock.RELEASED, Stock.RESTOCKED)
PAYMENT_CLOSED: Final = (Payment.NONE, Payment.DECLINED, Payment.CANCELLED, Payment.REFUNDED)


@pytest.fixture(scope="module")
def space() -> Space:
    return Space()


def fulfilling(stock: Stock, payment: Payment) -> Saga:
    return Saga(stock=stock, payment=payment)


def aborting(stock: Stock, payment: Payment, reason: Reason = Reason.OUT_OF_STOCK) -> Saga:
    return Saga(goal=Goal.ABORT, reason=reason, stock=stock, payment=payment)


# ---- the tables


def test_an_order_begins_by_reserving() -> None:
    assert {saga.asks(fulfilling(Stock.NONE, payment)) for payment in Payment} == {
        frozenset({Ask.RESERVE})
    }


@pytest.mark.parametrize("payment", CHARGEABLE)
def test_what_is_held_and_not_yet_paid_is_charged(payment: Payment) -> None:
    assert saga.asks(fulfilling(Stock.HELD, payment)) == {Ask.CHARGE}


@pytest.mark.parametrize("payment", CHARGEABLE)
def test_a_restored_order_asks_for_the_payment_of_what_was_committed_already(
    payment: Payment,
) -> None:
    assert saga.asks(fulfilling(Stock.COMMITTED, payment)) == {Ask.CHARGE}
    assert saga.status(fulfilling(Stock.COMMITTED, payment)) is Status.PENDING


def test_what_is_held_and_paid_is_committed() -> None:
    assert saga.asks(fulfilling(Stock.HELD, Payment.CAPTURED)) == {Ask.COMMIT}


def test_what_is_committed_and_paid_is_confirmed_and_asks_for_nothing() -> None:
    done = fulfilling(Stock.COMMITTED, Payment.CAPTURED)
    assert saga.asks(done) == frozenset()
    assert saga.status(done) is Status.CONFIRMED


def test_giving_up_releases_what_is_open_and_cancels_what_was_asked_for() -> None:
    assert set(UNDOABLE).isdisjoint(PAYMENT_CLOSED)
    assert {*UNDOABLE, *PAYMENT_CLOSED} == set(Payment)
    for stock, payment in product(Stock, Payment):
        release = set() if stock in STOCK_CLOSED else {Ask.RELEASE}
        cancel = {Ask.CANCEL} if payment in UNDOABLE else set()
        assert saga.asks(aborting(stock, payment)) == release | cancel


@pytest.mark.parametrize(
    ("reason", "meanwhile", "at_the_end"),
    [
        (Reason.OUT_OF_STOCK, Status.PENDING, Status.REJECTED),
        (Reason.PAYMENT_DECLINED, Status.PENDING, Status.REJECTED),
        (Reason.RESERVATION_EXPIRED, Status.PENDING, Status.REJECTED),
        (Reason.CANCELLED_BY_CUSTOMER, Status.CANCELLING, Status.CANCELLED),
        (Reason.CANCELLED_BY_OPERATOR, Status.CANCELLING, Status.CANCELLED),
        (Reason.TIMED_OUT, Status.CANCELLING, Status.CANCELLED),
    ],
)
def test_the_reason_decides_between_rejected_and_cancelled(
    reason: Reason, meanwhile: Status, at_the_end: Status
) -> None:
    assert saga.status(aborting(Stock.HELD, Payment.NONE, reason)) is meanwhile
    assert saga.status(aborting(Stock.RELEASED, Payment.CAPTURED, reason)) is meanwhile
    assert saga.status(aborting(Stock.RELEASED, Payment.REFUNDED, reason)) is at_the_end


@pytest.mark.parametrize(
    ("stock", "reason"),
    [
        (Stock.REFUSED, Reason.OUT_OF_STOCK),
        (Stock.RELEASED, Reason.RESERVATION_EXPIRED),
        (Stock.RESTOCKED, Reason.RESERVATION_EXPIRED),
    ],
)
def test_stock_that_will_not_be_ends_the_attempt(stock: Stock, reason: Reason) -> None:
    after = saga.learn_stock(Saga(), stock, 1)
    assert (after.goal, after.reason) == (Goal.ABORT, reason)


@pytest.mark.parametrize(
    "payment",
    [
        Payment.DECLINED,
        Payment.CANCELLED,
        Payment.REFUNDING,
        Payment.REFUNDED,
        Payment.REFUND_FAILED,
    ],
)
def test_a_payment_that_will_not_be_ends_the_attempt(payment: Payment) -> None:
    after = saga.learn_payment(Saga(stock=Stock.HELD, stock_version=1), payment, 2)
    assert (after.goal, after.reason) == (Goal.ABORT, Reason.PAYMENT_DECLINED)


def test_a_charge_that_is_about_to_be_asked_for_is_remembered() -> None:
    held = saga.learn_stock(Saga(), Stock.HELD, 1)
    assert held.payment is Payment.REQUESTED
    # Or a cancel would believe that there is nothing to call off.
    assert Ask.CANCEL in saga.asks(saga.abort(held, Reason.CANCELLED_BY_CUSTOMER))


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("state", Stock)
def test_stock_news_that_is_not_newer_changes_nothing(state: Stock, version: int) -> None:
    known = Saga(stock=Stock.HELD, stock_version=3, payment=Payment.REQUESTED)
    assert saga.learn_stock(known, state, version) is known


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("state", Payment)
def test_payment_news_that_is_not_newer_changes_nothing(state: Payment, version: int) -> None:
    known = Saga(stock=Stock.HELD, payment=Payment.PROCESSING, payment_version=3)
    assert saga.learn_payment(known, state, version) is known


def test_the_first_reason_stays_unless_somebody_cancels_what_was_failing_anyway() -> None:
    failing = aborting(Stock.HELD, Payment.DECLINED, Reason.PAYMENT_DECLINED)
    cancelled = saga.abort(failing, Reason.CANCELLED_BY_CUSTOMER)
    assert cancelled.reason is Reason.CANCELLED_BY_CUSTOMER
    assert saga.abort(cancelled, Reason.CANCELLED_BY_OPERATOR) is cancelled
    assert saga.abort(failing, Reason.OUT_OF_STOCK) is failing
    assert saga.abort(failing, Reason.TIMED_OUT) is failing
    assert saga.time_out(failing) is failing


def test_the_deadline_is_for_orders_that_are_still_to_be_confirmed() -> None:
    assert saga.time_out(Saga()).reason is Reason.TIMED_OUT
    confirmed = fulfilling(Stock.COMMITTED, Payment.CAPTURED)
    assert saga.time_out(confirmed) is confirmed


@pytest.mark.parametrize("reason", [Reason.OUT_OF_STOCK, Reason.CANCELLED_BY_CUSTOMER])
def test_what_is_closed_stays_as_it_is(reason: Reason) -> None:
    closed = aborting(Stock.RELEASED, Payment.REFUNDED, reason)
    for later in Reason:
        assert saga.abort(closed, later) is closed


# ---- the whole state space


def test_every_state_that_can_be_reached_can_reach_a_good_end(space: Space) -> None:
    stuck = space.worlds.keys() - space.can_end_well()
    assert not stuck, f"{len(stuck)} of {len(space.worlds)}, such as {next(iter(stuck))}"
    # A model that has lost its moves would pass everything.
    assert len(space.worlds) > 5_000
    assert len({world.status for world in space.worlds}) == len(Status)


def test_there_is_no_wrong_end(space: Space) -> None:
    ends = [world for world in space.worlds if world.status in saga.FINAL]
    assert [world for world in ends if not is_good_end(world)] == []


def test_confirmed_is_what_is_committed_and_captured_and_nothing_else(space: Space) -> None:
    for world in space.worlds:
        order = world.order
        known = (order.goal, order.stock, order.payment)
        is_confirmed = world.status is Status.CONFIRMED
        assert is_confirmed is (known == (Goal.FULFIL, Stock.COMMITTED, Payment.CAPTURED))
        assert world.is_sold or not is_confirmed


def test_the_goal_turns_once_and_never_back(space: Space) -> None:
    backwards = [
        move.what
        for world, move in space.edges
        if world.order.goal is Goal.ABORT and move.after.order.goal is Goal.FULFIL
    ]
    assert backwards == []


def test_nothing_that_is_rejected_or_cancelled_ever_changes_again(space: Space) -> None:
    closed = (Status.REJECTED, Status.CANCELLED)
    reopened = [
        move.what
        for world, move in space.edges
        if world.status in closed and (move.after.order != world.order or not move.after.is_undone)
    ]
    assert reopened == []


def test_only_somebody_can_undo_a_confirmed_order(space: Space) -> None:
    ends = {
        move.what
        for world, move in space.edges
        if world.status is Status.CONFIRMED and move.after.order != world.order
    }
    assert ends == {Reason.CANCELLED_BY_CUSTOMER.value, Reason.CANCELLED_BY_OPERATOR.value}


def test_whoever_was_promised_a_cancellation_gets_it(space: Space) -> None:
    promised = [world for world in space.worlds if world.is_promised]
    assert {world.status for world in promised} == {Status.CANCELLING, Status.CANCELLED}


def test_a_reason_is_replaced_only_by_a_promise(space: Space) -> None:
    replaced = {
        (before, move.after.order.reason)
        for world, move in space.edges
        if (before := world.order.reason) is not None and before is not move.after.order.reason
    }
    failures = (Reason.PAYMENT_DECLINED, Reason.RESERVATION_EXPIRED)
    promises = (Reason.CANCELLED_BY_CUSTOMER, Reason.CANCELLED_BY_OPERATOR)
    assert replaced == set(product(failures, promises))


def test_an_order_knows_no_more_than_its_participants_said(space: Space) -> None:
    def is_true(world: World) -> bool:
        order = world.order
        return order.stock_version <= world.stock_version and (
            order.payment_version <= world.payment_version
        )

    assert all(map(is_true, space.worlds))


def test_what_is_waited_for_is_what_has_been_asked_for(space: Space) -> None:
    for world in space.worlds:
        assert saga.asks(world.order) <= world.asked
        assert saga.is_open(world.order) is (world.status not in saga.FINAL)


def test_no_final_state_is_announced_twice(space: Space) -> None:
    # The service announces whenever an order has changed and waits for nothing: a change that stays
    # within a final status would be a second announcement.
    repeated = [
        move.what
        for world, move in space.edges
        if world.status in saga.FINAL
        and world.status is move.after.status
        and world.order != move.after.order
    ]
    assert repeated == []


# ---- the README


def test_the_readme_draws_the_changes_of_status_that_can_happen(space: Space) -> None:
    drawn = set(re.findall(r"^ {4}(\S+) --> (\S+?)(?::.*)?$", README.read_text(), re.MULTILINE))
    possible = {(before.value, after.value) for before, after in space.status_changes}
    first = {("[*]", World().status.value)}
    last = {(status.value, "[*]") for status in saga.FINAL}
    assert drawn == possible | first | last


def test_the_readme_tells_what_is_asked_for(space: Space) -> None:
    rows = _rows_of_asks()
    concluded = {(w.order.goal, w.order.stock, w.order.payment) for w in space.worlds}
    for goal, stock, payment in sorted(concluded):
        told = next(
            asked
            for goals, stocks, payments, asked in rows
            if goal in goals and _fits(stock, stocks) and _fits(payment, payments)
        )
        known = Saga(goal=goal, stock=stock, payment=payment)
        assert set(re.findall(r"`([a-z.0-9]+)`", told)) == {ask.value for ask in saga.asks(known)}
    assert len(rows) == 8


def test_the_readme_lists_the_settings_with_their_defaults() -> None:
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| (\S+) \|", README.read_text(), re.MULTILINE))
    own = Settings.__annotations__
    assert told == {name.upper(): str(Settings.model_fields[name].default) for name in own}


def _fits(state: str, told: str) -> bool:
    return told == ANY or state in told.split(", ")


def _rows_of_asks() -> list[tuple[str, str, str, str]]:
    pattern = r"^\| (fulfil|abort) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$"
    return re.findall(pattern, README.read_text(), re.MULTILINE)
