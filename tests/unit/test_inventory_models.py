"""The reservation's state machine and the arithmetic of stock, without any I/O."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from ecom_contracts.messages import ReservationState
from hypothesis import given
from hypothesis import strategies as st
from inventory_service import models
from inventory_service.models import (
    TRANSITIONS,
    ItemContent,
    Movement,
    MovementKind,
    Origin,
    Reservation,
    Stock,
    StockLevel,
    Trigger,
    key_cause,
    order_cause,
)

SERVICE_FOLDER = Path(__file__).parents[2] / "services/inventory_service"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TTL = timedelta(minutes=20)
ORDER = UUID("01939f6e-1c1a-7b5e-9c3d-2f6a4e8b1d70")
ORIGIN = Origin(cause="key:alice:1", actor="alice", at=NOW)


def a_reservation(state: ReservationState = ReservationState.NONE) -> Reservation:
    reservation = Reservation.never_asked(ORDER)
    if state is ReservationState.NONE:
        return reservation
    if state is ReservationState.REFUSED:
        shortage = {"sku": "a", "requested": 2, "available": 1}
        reservation.refuse({"a": 2}, [shortage], now=NOW)
        return reservation
    reservation.hold({"b": 1, "a": 2}, now=NOW, ttl=TTL)
    if state in (ReservationState.COMMITTED, ReservationState.RESTOCKED):
        reservation.commit(NOW)
    if state in (ReservationState.RELEASED, ReservationState.RESTOCKED):
        reservation.release(NOW)
    assert reservation.state is state
    return reservation


def a_level(*, on_hand: int = 0, reserved: int = 0) -> StockLevel:
    level = StockLevel.empty("a")
    level.on_hand, level.reserved = on_hand, reserved
    return level


def pull(reservation: Reservation, trigger: Trigger) -> bool:
    later = NOW + 2 * TTL
    match trigger:
        case Trigger.HOLD:
            return reservation.hold({"a": 1}, now=later, ttl=TTL)
        case Trigger.REFUSE:
            shortage = {"sku": "a", "requested": 1, "available": 0}
            return reservation.refuse({"a": 1}, [shortage], now=later)
        case Trigger.COMMIT:
            return reservation.commit(later)
        case Trigger.RELEASE:
            return reservation.release(later)
        case Trigger.EXPIRE:
            return reservation.expire(later)


def snapshot(reservation: Reservation) -> object:
    lines = [(line.sku, line.quantity) for line in reservation.lines]
    return (
        reservation.state,
        reservation.version,
        reservation.expires_at,
        reservation.shortages,
        lines,
    )


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize("state", ReservationState)
def test_each_verb_does_what_the_table_says_and_nothing_else(
    state: ReservationState, trigger: Trigger
) -> None:
    reservation = a_reservation(state)
    before, version = snapshot(reservation), reservation.version
    changed = pull(reservation, trigger)
    target = TRANSITIONS.get((state, trigger))
    assert changed == (target is not None)
    if target is None:
        assert snapshot(reservation) == before
    else:
        assert (reservation.state, reservation.version) == (target, version + 1)
    assert (reservation.expires_at is not None) == (reservation.state == ReservationState.HELD)


def test_the_diagram_in_the_readme_is_the_table() -> None:
    readme = (SERVICE_FOLDER / "README.md").read_text()
    diagram = readme.split("stateDiagram-v2")[1].split("```")[0]
    arrows = re.findall(r"^ +(\S+) --> (\w+): (\w+)$", diagram, re.MULTILINE)
    drawn = {
        (ReservationState(source.replace("[*]", "none")), Trigger(verb)): ReservationState(target)
        for source, target, verb in arrows
    }
    assert drawn == TRANSITIONS
    ends = set(re.findall(r"^ +(\w+) --> \[\*\]$", diagram, re.MULTILINE))
    assert ends == set(ReservationState) - {state for state, _ in TRANSITIONS}


def test_the_readme_names_every_setting_with_its_default() -> None:
    from inventory_service.settings import Settings

    readme = (SERVICE_FOLDER / "README.md").read_text()
    default = Settings.model_fields["reservation_ttl_s"].default
    assert f"| `RESERVATION_TTL_S` | {default} |" in readme


def test_a_reservation_that_is_not_due_does_not_expire() -> None:
    reservation = a_reservation(ReservationState.HELD)
    assert not reservation.expire(NOW + TTL - timedelta(seconds=1))
    assert reservation.expire(NOW + TTL)
    assert reservation.state is ReservationState.RELEASED


def test_a_held_reservation_keeps_its_lines_by_sku_and_its_end() -> None:
    reservation = a_reservation(ReservationState.HELD)
    assert [(line.sku, line.quantity) for line in reservation.lines] == [("a", 2), ("b", 1)]
    assert reservation.expires_at == NOW + TTL
    assert reservation.created_at == NOW


def test_a_tombstone_has_no_lines() -> None:
    reservation = a_reservation()
    reservation.release(NOW)
    assert snapshot(reservation) == (ReservationState.RELEASED, 1, None, [], [])


CONTENT = ItemContent(name="Mug", description=None, unit_price=1249, currency="EUR", active=True)


def test_the_same_content_makes_no_new_version() -> None:
    item = models.Item.list_new("MUG", CONTENT, NOW)
    assert item.revise(CONTENT, NOW + TTL) is item
    dearer = ItemContent(name="Mug", description=None, unit_price=1250, currency="EUR", active=True)
    revised = item.revise(dearer, NOW + TTL)
    assert (revised.version, revised.unit_price, revised.created_at) == (2, 1250, NOW)
    assert (item.version, item.unit_price) == (1, 1249), "earlier answers keep their item"


def test_a_movement_knows_the_order_that_caused_it() -> None:
    by_order = a_level(on_hand=2, reserved=1).commit(
        1, Origin(cause=order_cause(ORDER, MovementKind.COMMITTED), actor="orders", at=NOW)
    )
    assert by_order.order_id == ORDER
    by_key = Origin(cause=key_cause(subject="order", key=str(ORDER)), actor="order", at=NOW)
    assert a_level().move(MovementKind.RECEIVED, 1, by_key).order_id is None


@pytest.mark.parametrize(
    "misuse",
    [
        lambda level: level.reserve(4),
        lambda level: level.reserve(0),
        lambda level: level.release(3),
        lambda level: level.commit(3, ORIGIN),
        lambda level: level.move(MovementKind.ADJUSTED, -4, ORIGIN),
    ],
)
def test_more_than_there_is_cannot_be_taken(misuse: object) -> None:
    assert callable(misuse)
    with pytest.raises(AssertionError):
        misuse(a_level(on_hand=5, reserved=2))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "release", "commit", "restock", "receive", "adjust", "count"]),
        st.integers(min_value=1, max_value=20),
    ),
    max_size=60,
)


def take(level: StockLevel, step: str, quantity: int) -> Movement | None:
    """Do the step as far as it is allowed."""
    match step:
        case "reserve" if level.available:
            level.reserve(min(quantity, level.available))
        case "release" if level.reserved:
            level.release(min(quantity, level.reserved))
        case "commit" if level.reserved:
            return level.commit(min(quantity, level.reserved), ORIGIN)
        case "restock":
            return level.restock(quantity, ORIGIN)
        case "receive":
            return level.move(MovementKind.RECEIVED, quantity, ORIGIN)
        case "adjust" if level.available:
            return level.move(MovementKind.ADJUSTED, -min(quantity, level.available), ORIGIN)
        case "count":
            counted = max(quantity, level.reserved)
            return level.move(MovementKind.COUNTED, counted - level.on_hand, ORIGIN)
    return None


@given(STEPS)
def test_on_hand_is_the_sum_of_its_movements_and_never_below_reserved(
    steps: list[tuple[str, int]],
) -> None:
    level, ledger = StockLevel.empty("a"), []
    for step, quantity in steps:
        version = level.version
        movement = take(level, step, quantity)
        assert 0 <= level.reserved <= level.on_hand
        if movement is not None:
            ledger.append(movement)
            assert (movement.sequence, movement.on_hand_after) == (version + 1, level.on_hand)
    assert level.on_hand == sum(movement.quantity for movement in ledger)
    assert sorted(ledger, key=lambda m: m.sequence) == ledger


@given(st.integers(0, 20), STEPS, STEPS)
def test_the_order_of_writes_never_breaks_the_check(
    received: int, earlier: list[tuple[str, int]], batch: list[tuple[str, int]]
) -> None:
    level = a_level(on_hand=received)
    for step in earlier:
        take(level, *step)
    stock = Stock({"a": level})
    on_hand, reserved = level.on_hand, level.reserved
    for step in batch:
        take(level, *step)
    fewer, _ = stock.changed()
    # What the table goes through: fewer reserved, then the movements, then the others.
    if fewer:
        reserved = level.reserved
        assert 0 <= reserved <= on_hand
    assert reserved <= level.on_hand
