"""What orders ask of the inventory, batch by batch, against a real database."""

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from ecom_common.batch import Failed, apply_batch
from ecom_common.bulk import insert_rows, send
from ecom_common.database import Sessions
from ecom_common.ids import new_id
from ecom_common.messages import Received
from ecom_contracts.envelope import Envelope, decode
from ecom_contracts.messages import (
    Message,
    ReservationChanged,
    ReservationState,
    StockCommit,
    StockLine,
    StockRelease,
    StockReserve,
)
from inventory_service.commands import PutItem, RecordMovement
from inventory_service.models import MOVEMENTS, ItemContent, MovementKind
from inventory_service.service import apply_stock_commands, expire_reservations, handle_commands
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from tests.support.envelopes import an_envelope

TTL = timedelta(minutes=20)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def stocked(sessions: Sessions, *, active: bool = True, **quantities: int) -> None:
    """List these SKUs and receive so many units of each."""
    content = ItemContent(
        name="An item", description=None, unit_price=100, currency="EUR", active=active
    )
    received = [
        RecordMovement(
            sku=sku,
            kind=MovementKind.RECEIVED,
            quantity=quantity,
            reason=None,
            subject="warehouse",
            key=str(new_id()),
        )
        for sku, quantity in quantities.items()
        if quantity
    ]
    with sessions.begin() as session:
        handle_commands(session, [PutItem(sku=sku, content=content) for sku in quantities])
        send(session)
        handle_commands(session, received)
    with sessions.begin() as session:
        session.execute(text("DELETE FROM outbox"))


def received(command: Message) -> Received:
    envelope = an_envelope(
        command, source="order_service", correlation_id=command.key, traceparent=TRACE
    )
    return Received(envelope, command.TOPIC.name, 0, 0)


def reserve(order: UUID, **quantities: int) -> StockReserve:
    lines = tuple(StockLine(sku=sku, quantity=quantity) for sku, quantity in quantities.items())
    return StockReserve(order_id=order, lines=lines)


def commit(order: UUID) -> StockCommit:
    return StockCommit(order_id=order)


def release(order: UUID) -> StockRelease:
    return StockRelease(order_id=order)


def handle(session: Session, messages: Sequence[Received]) -> list[None]:
    apply_stock_commands(session, messages, ttl=TTL)
    return [None] * len(messages)


def tell(sessions: Sessions, *commands: Message) -> list[ReservationChanged]:
    """Apply the commands as one batch; the answers to them, in order."""
    outcomes = apply_batch(sessions, handle, [received(c) for c in commands], name="test")
    assert not any(isinstance(outcome, Failed) for outcome in outcomes)
    return [envelope.data for envelope in said(sessions)]


def said(sessions: Sessions) -> list[Envelope[ReservationChanged]]:
    """What stands in the outbox, which is emptied."""
    with sessions.begin() as session:
        rows = session.execute(text("SELECT topic, key, payload FROM outbox ORDER BY id")).all()
        session.execute(text("DELETE FROM outbox"))
    assert {row.topic for row in rows} <= {"inventory.events"}
    envelopes = [decode(bytes(row.payload)) for row in rows]
    assert [row.key for row in rows] == [envelope.subject for envelope in envelopes]
    return envelopes  # type: ignore[return-value]


def levels(sessions: Sessions) -> Mapping[str, tuple[int, int]]:
    """SKU → on_hand, reserved; checked against the ledger and the held lines."""
    with sessions() as session:
        found = session.execute(
            text(
                "SELECT sku, on_hand, reserved,"
                " (SELECT coalesce(sum(quantity), 0) FROM movements m WHERE m.sku = l.sku) AS moved,"
                " (SELECT coalesce(sum(quantity), 0) FROM reservation_lines r"
                "  JOIN reservations USING (order_id)"
                "  WHERE r.sku = l.sku AND state = 'held') AS held FROM stock_levels l"
            )
        ).all()
    for row in found:
        assert (row.on_hand, row.reserved) == (row.moved, row.held), row.sku
    return {row.sku: (row.on_hand, row.reserved) for row in found}


def states(answers: Sequence[ReservationChanged]) -> list[tuple[str, int]]:
    return [(answer.state.value, answer.version) for answer in answers]


def test_all_lines_are_held_or_none(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=5, mug=1)
    first, second = new_id(), new_id()
    held, refused = tell(
        inventory_sessions, reserve(first, tea=2, mug=1), reserve(second, tea=2, mug=1, hat=3)
    )
    assert (held.state, held.version, held.shortages) == (ReservationState.HELD, 1, ())
    assert held.expires_at is not None
    remaining = held.expires_at - datetime.now(UTC)
    assert TTL - timedelta(minutes=1) < remaining <= TTL
    assert refused.state is ReservationState.REFUSED
    assert [(s.sku, s.requested, s.available) for s in refused.shortages] == [
        ("mug", 1, 0),
        ("hat", 3, 0),
    ]
    assert refused.expires_at is None
    assert levels(inventory_sessions) == {"tea": (5, 2), "mug": (1, 1)}


def test_orders_of_one_batch_see_what_those_before_them_took(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=3)
    orders = [new_id() for _ in range(5)]
    answers = tell(inventory_sessions, *(reserve(order, tea=1) for order in orders))
    assert [a.state.value for a in answers] == ["held"] * 3 + ["refused"] * 2
    assert levels(inventory_sessions) == {"tea": (3, 3)}


def test_one_order_may_come_several_times_in_a_batch(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=3)
    order, other = new_id(), new_id()
    answers = tell(
        inventory_sessions,
        reserve(order, tea=3),
        reserve(other, tea=1),
        commit(order),
        commit(order),
        release(order),
        release(order),
        reserve(order, tea=1),
    )
    assert states(answers) == [
        ("held", 1),
        ("refused", 1),
        ("committed", 2),
        ("committed", 2),
        ("restocked", 3),
        ("restocked", 3),
        ("restocked", 3),
    ]
    assert levels(inventory_sessions) == {"tea": (3, 0)}


def test_an_inactive_item_counts_as_none(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, active=False, tea=5)
    (answer,) = tell(inventory_sessions, reserve(new_id(), tea=1))
    assert answer.state is ReservationState.REFUSED
    assert answer.shortages[0].available == 0


def test_what_an_item_holds_is_still_committed_after_it_was_made_inactive(
    inventory_sessions: Sessions,
) -> None:
    stocked(inventory_sessions, tea=5)
    order = new_id()
    tell(inventory_sessions, reserve(order, tea=2))
    stocked(inventory_sessions, active=False, tea=0)
    (answer,) = tell(inventory_sessions, commit(order))
    assert answer.state is ReservationState.COMMITTED
    assert levels(inventory_sessions) == {"tea": (3, 0)}


def test_a_sku_twice_in_one_order_counts_twice(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=3)
    order = new_id()
    twice = (StockLine(sku="tea", quantity=1), StockLine(sku="tea", quantity=2))
    (answer,) = tell(inventory_sessions, StockReserve(order_id=order, lines=twice))
    assert [(line.sku, line.quantity) for line in answer.lines] == [("tea", 3)]
    assert levels(inventory_sessions) == {"tea": (3, 3)}


def test_a_commit_takes_what_was_held_and_writes_it_into_the_ledger(
    inventory_sessions: Sessions,
) -> None:
    stocked(inventory_sessions, tea=5, mug=5)
    order = new_id()
    tell(inventory_sessions, reserve(order, tea=2, mug=1))
    (answer,) = tell(inventory_sessions, commit(order))
    assert (answer.state, answer.version, answer.expires_at) == (
        ReservationState.COMMITTED,
        2,
        None,
    )
    assert [(line.sku, line.quantity) for line in answer.lines] == [("mug", 1), ("tea", 2)]
    assert levels(inventory_sessions) == {"tea": (3, 0), "mug": (4, 0)}
    with inventory_sessions() as session:
        rows = session.execute(
            text(
                "SELECT sku, kind, quantity, on_hand_after, actor FROM movements "
                "WHERE cause = :cause ORDER BY sku"
            ),
            {"cause": f"order:{order}:committed"},
        ).all()
    assert [tuple(row) for row in rows] == [
        ("mug", "committed", -1, 4, "order_service"),
        ("tea", "committed", -2, 3, "order_service"),
    ]


def test_a_release_gives_back_what_was_held(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=5)
    order = new_id()
    tell(inventory_sessions, reserve(order, tea=2))
    (answer,) = tell(inventory_sessions, release(order))
    assert states([answer]) == [("released", 2)]
    assert levels(inventory_sessions) == {"tea": (5, 0)}


def test_a_release_after_the_commit_restocks(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=5)
    order = new_id()
    tell(inventory_sessions, reserve(order, tea=2))
    tell(inventory_sessions, commit(order))
    assert levels(inventory_sessions) == {"tea": (3, 0)}
    (answer,) = tell(inventory_sessions, release(order))
    assert states([answer]) == [("restocked", 3)]
    assert levels(inventory_sessions) == {"tea": (5, 0)}


def test_a_release_that_comes_first_leaves_a_tombstone(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=5)
    order = new_id()
    assert states(tell(inventory_sessions, release(order))) == [("released", 1)]
    late = tell(inventory_sessions, reserve(order, tea=1), commit(order))
    assert states(late) == [("released", 1), ("released", 1)]
    assert levels(inventory_sessions) == {"tea": (5, 0)}


def test_a_commit_of_nothing_answers_none_and_stores_nothing(inventory_sessions: Sessions) -> None:
    (answer,) = tell(inventory_sessions, commit(new_id()))
    assert (answer.state, answer.version, answer.lines) == (ReservationState.NONE, 0, ())
    with inventory_sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM reservations")) == 0


def test_a_command_that_is_asked_again_is_answered_with_the_stored_state(
    inventory_sessions: Sessions,
) -> None:
    stocked(inventory_sessions, tea=5)
    kept, lost = new_id(), new_id()
    first = tell(inventory_sessions, reserve(kept, tea=2), reserve(lost, tea=9))
    again = tell(inventory_sessions, reserve(kept, tea=2), reserve(lost, tea=9))
    assert again == first
    assert tell(inventory_sessions, release(lost)) == [first[1]], "refused is closed"
    assert levels(inventory_sessions) == {"tea": (5, 2)}


def test_an_answer_names_the_command_that_it_answers(inventory_sessions: Sessions) -> None:
    message = received(commit(new_id()))
    with inventory_sessions.begin() as session:
        handle(session, [message])
    (answer,) = said(inventory_sessions)
    assert answer.source == "inventory_service"
    assert answer.causation_id == str(message.envelope.id)
    assert answer.correlation_id == message.envelope.correlation_id
    assert answer.traceparent == TRACE
    assert answer.sequence == 0


def test_a_reservation_expires_when_its_time_has_passed(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=5)
    due, committed, young = new_id(), new_id(), new_id()
    tell(inventory_sessions, reserve(due, tea=1), reserve(committed, tea=1), commit(committed))
    with inventory_sessions.begin() as session:
        assert expire_reservations(session, 100) == 0
    with inventory_sessions.begin() as session:
        session.execute(text("SET LOCAL ecom.clock_offset = '21 minutes'"))
        handle(session, [received(reserve(young, tea=1))])
        send(session)
        assert expire_reservations(session, 100) == 1
    answers = {e.data.order_id: e for e in said(inventory_sessions)}
    assert (answers[due].data.state, answers[due].data.version) == (ReservationState.RELEASED, 2)
    assert answers[due].correlation_id == str(due)
    assert levels(inventory_sessions) == {"tea": (4, 1)}
    assert states(tell(inventory_sessions, commit(due))) == [("released", 2)]


def test_expiry_takes_a_limited_round_and_leaves_what_others_work_on(
    inventory_sessions: Sessions,
) -> None:
    stocked(inventory_sessions, tea=5)
    orders = [new_id() for _ in range(3)]
    tell(inventory_sessions, *(reserve(order, tea=1) for order in orders))
    with inventory_sessions() as other, inventory_sessions.begin() as session:
        other.execute(
            text("SELECT FROM reservations WHERE order_id = :id FOR UPDATE"), {"id": orders[0]}
        )
        session.execute(text("SET LOCAL ecom.clock_offset = '21 minutes'"))
        assert expire_reservations(session, 1) == 1
        send(session)
        assert expire_reservations(session, 100) == 1
        other.rollback()
    assert levels(inventory_sessions) == {"tea": (5, 1)}


def test_overlapping_baskets_in_opposite_order_do_not_deadlock(
    inventory_sessions: Sessions,
) -> None:
    stocked(inventory_sessions, a=300, b=300, c=300)
    baskets = [{"a": 1, "b": 1, "c": 1}, {"c": 1, "b": 1, "a": 1}]
    errors: list[BaseException] = []
    start = threading.Barrier(len(baskets))

    def buy(basket: dict[str, int]) -> None:
        try:
            start.wait(10)
            for _ in range(60):
                orders = [new_id() for _ in range(3)]
                with inventory_sessions.begin() as session:
                    handle(session, [received(reserve(order, **basket)) for order in orders])
                with inventory_sessions.begin() as session:
                    handle(session, [received(commit(order)) for order in reversed(orders)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=buy, args=(basket,)) for basket in baskets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert levels(inventory_sessions) == {"a": (0, 0), "b": (0, 0), "c": (0, 0)}


def test_the_last_unit_is_sold_once_to_many_connections(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=1)
    start = threading.Barrier(6)

    def buy() -> None:
        start.wait(10)
        with inventory_sessions.begin() as session:
            handle(session, [received(reserve(new_id(), tea=1))])

    threads = [threading.Thread(target=buy) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    answers = [envelope.data.state.value for envelope in said(inventory_sessions)]
    assert sorted(answers) == ["held"] + ["refused"] * 5
    assert levels(inventory_sessions) == {"tea": (1, 1)}


def test_two_workers_with_the_same_new_order_hold_it_once(inventory_sessions: Sessions) -> None:
    """As after a rebalance: the loser waits, fails on the key, and finds what the winner did."""
    stocked(inventory_sessions, tea=5)
    order = new_id()
    start = threading.Barrier(4)
    outcomes: list[object] = []

    def work() -> None:
        start.wait(10)
        outcomes.extend(
            apply_batch(inventory_sessions, handle, [received(reserve(order, tea=1))], name="test")
        )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert outcomes == [None] * 4
    assert states([e.data for e in said(inventory_sessions)]) == [("held", 1)] * 4
    assert levels(inventory_sessions) == {"tea": (5, 1)}


def test_a_message_that_cannot_be_applied_fails_alone(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=5)
    good, after = new_id(), new_id()
    # More than a message can carry once its lines are added up: no client of ours can order it.
    most = 100_000_000
    stocked(inventory_sessions, hay=10**12)
    twice = (StockLine(sku="hay", quantity=most), StockLine(sku="hay", quantity=most))
    bad = StockReserve(order_id=new_id(), lines=twice)
    outcomes = apply_batch(
        inventory_sessions,
        handle,
        [received(c) for c in (reserve(good, tea=1), bad, reserve(after, tea=1))],
        name="test",
    )
    assert [isinstance(outcome, Failed) for outcome in outcomes] == [False, True, False]
    assert states([e.data for e in said(inventory_sessions)]) == [("held", 1), ("held", 1)]
    assert levels(inventory_sessions) == {"tea": (5, 2), "hay": (10**12, 0)}


@pytest.mark.parametrize("reserved", ["on_hand + 1", "-1"])
def test_the_database_itself_forbids_to_oversell(
    inventory_sessions: Sessions, reserved: str
) -> None:
    stocked(inventory_sessions, tea=5)
    with (
        pytest.raises(IntegrityError, match="ck_stock_levels_reserved"),
        inventory_sessions.begin() as session,
    ):
        session.execute(text(f"UPDATE stock_levels SET reserved = {reserved}"))


def test_the_database_forbids_a_movement_below_what_is_reserved(
    inventory_sessions: Sessions,
) -> None:
    stocked(inventory_sessions, tea=5)
    tell(inventory_sessions, reserve(new_id(), tea=4))
    with (
        pytest.raises(IntegrityError, match="ck_stock_levels_reserved"),
        inventory_sessions.begin() as session,
    ):
        insert_rows(session, MOVEMENTS, [a_movement(quantity=-2, on_hand_after=3)])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stock_levels SET on_hand = 7",
        "INSERT INTO stock_levels (sku, on_hand) VALUES ('tea', 7)",
        "DELETE FROM stock_levels",
        "UPDATE movements SET quantity = 7",
        "DELETE FROM movements",
        "TRUNCATE movements",
        "UPDATE reservation_lines SET quantity = 7",
        "DELETE FROM reservations",
        "ALTER TABLE movements DISABLE TRIGGER ALL",
        "SELECT apply_movements()",
    ],
)
def test_the_service_may_not_go_around_the_ledger(
    inventory_sessions: Sessions, statement: str
) -> None:
    stocked(inventory_sessions, tea=5)
    with (
        pytest.raises(ProgrammingError, match=r"permission denied|must be owner"),
        inventory_sessions.begin() as session,
    ):
        session.execute(text(statement))


def a_movement(**changes: object) -> dict[str, object]:
    """A row of the ledger, as it would follow 5 received units of tea."""
    return {
        "sku": "tea",
        "sequence": 100,
        "id": new_id(),
        "kind": "adjusted",
        "quantity": 1,
        "on_hand_after": 6,
        "cause": "key:test:1",
        "actor": "test",
        "reason": "found one",
    } | changes


def test_a_movement_changes_the_level_by_itself(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=5)
    with inventory_sessions.begin() as session:
        insert_rows(
            session,
            MOVEMENTS,
            [
                a_movement(),
                a_movement(sequence=101, cause="key:test:2", quantity=3, on_hand_after=9),
            ],
        )
    assert levels(inventory_sessions) == {"tea": (9, 0)}


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"on_hand_after": 7}, "do not continue"),
        ({"sku": "hat"}, "fk_movements_sku|do not continue"),
        ({"quantity": 0, "on_hand_after": 5}, "ck_movements_quantity"),
        ({"kind": "received", "quantity": -1, "on_hand_after": 4}, "ck_movements_quantity"),
        ({"kind": "committed"}, "ck_movements_quantity"),
        ({"kind": "stolen"}, "ck_movements_kind"),
        ({"reason": None}, "ck_movements_reason"),
        ({"cause": ""}, "ck_movements_cause"),
    ],
)
def test_the_ledger_refuses_what_makes_no_sense(
    inventory_sessions: Sessions, changes: dict[str, object], constraint: str
) -> None:
    stocked(inventory_sessions, tea=5)
    with pytest.raises(IntegrityError, match=constraint), inventory_sessions.begin() as session:
        insert_rows(session, MOVEMENTS, [a_movement(**changes)])


def test_a_cause_moves_a_sku_once(inventory_sessions: Sessions) -> None:
    stocked(inventory_sessions, tea=5)
    with inventory_sessions.begin() as session:
        insert_rows(session, MOVEMENTS, [a_movement()])
    again = a_movement(sequence=101, on_hand_after=7)
    with (
        pytest.raises(IntegrityError, match="uq_movements_sku_cause"),
        inventory_sessions.begin() as session,
    ):
        insert_rows(session, MOVEMENTS, [again])
