"""The intent's state machine: the table, the diagram in the README, and what the verbs make of it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from ecom_common.errors import IllegalTransition
from ecom_common.ids import new_id
from ecom_contracts.messages import PaymentState as S
from payment_service.models import PaymentIntent, charge_key
from payment_service.states import (
    TRANSITIONS,
    Backoff,
    Cause,
    Happening,
    OperationKind,
    OperationState,
)

README: Final = Path(__file__).parents[2] / "services/payment_service/README.md"
NOW: Final = datetime(2025, 1, 1, tzinfo=UTC)
CAUSE: Final = Cause(new_id(), None, None)
CLOSED: Final = {S.DECLINED, S.CANCELLED, S.REFUNDED}
"""States that nothing leads out of."""


def an_intent() -> PaymentIntent:
    return PaymentIntent.unasked(
        order_id=new_id(), customer_id="alice", currency="EUR", amount=700, now=NOW
    )


def test_the_diagram_in_the_readme_is_the_table() -> None:
    (diagram,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", README.read_text(), re.DOTALL)
    drawn = set()
    for line in diagram.strip().splitlines():
        match = re.fullmatch(r"\s*(\S+) --> (\S+): (\w+)", line)
        if match is None:
            assert re.fullmatch(r"\s*\w+ --> \[\*\]", line), line
            continue
        start, end, happening = match.groups()
        drawn.add((S.NONE if start == "[*]" else S(start), Happening(happening), S(end)))
    assert drawn == {(start, what, end) for (start, what), end in TRANSITIONS.items()}


def test_every_state_can_be_reached_and_only_the_closed_ones_lead_nowhere() -> None:
    reached, leading = {S.NONE}, set()
    for _ in S:
        for (start, _happening), end in TRANSITIONS.items():
            if start in reached:
                reached.add(end)
                if end is not start:
                    leading.add(start)
    assert reached == set(S)
    assert set(S) - leading == CLOSED


def test_a_cancel_changes_what_it_must_and_never_a_closed_state() -> None:
    assert {start for start, what in TRANSITIONS if what is Happening.CANCEL} == set(S) - CLOSED - {
        S.REFUNDING
    }


# What can be said to an intent, as a function of it. The last attempt's number always fits.
def _charge(i: PaymentIntent) -> None:
    i.charge(method="pm_card_visa", cause=CAUSE, now=NOW)


def _cancel(i: PaymentIntent) -> None:
    i.cancel(cause=CAUSE, now=NOW)


def _miss(i: PaymentIntent) -> None:
    for o in i.operations:
        i.miss_answer(o, attempt=o.attempts, error="timed out", backoff=Backoff(), now=NOW)


def _refunded(i: PaymentIntent) -> None:
    for o in i.operations:
        if o.kind is OperationKind.REFUND:
            i.complete_refund(o, now=NOW)


def _refund_failed(i: PaymentIntent) -> None:
    for o in i.operations:
        if o.kind is OperationKind.REFUND:
            i.fail_refund(o, code="no", now=NOW)


SAYINGS: Final[dict[str, Callable[[PaymentIntent], object]]] = {
    "charge": _charge,
    "cancel": _cancel,
    "captured": lambda i: i.capture(now=NOW),
    "declined": lambda i: i.decline(code="no", now=NOW),
    "voided": lambda i: i.close(now=NOW),
    "no_answer": _miss,
    "refunded": _refunded,
    "refund_failed": _refund_failed,
}


def _walk(depth: int) -> Iterator[tuple[tuple[str, ...], PaymentIntent, PaymentIntent]]:
    """Every sequence of sayings, with the intent before and after its last one."""
    front: list[tuple[tuple[str, ...], PaymentIntent]] = [((), an_intent())]
    for _ in range(depth):
        next_front: dict[object, tuple[tuple[str, ...], PaymentIntent]] = {}
        for path, before in front:
            for name, say in SAYINGS.items():
                after = _copy(before)
                say(after)
                yield (*path, name), before, after
                next_front.setdefault(_shape(after), ((*path, name), after))
        front = list(next_front.values())


def _copy(intent: PaymentIntent) -> PaymentIntent:
    return replace(intent, operations=[replace(o) for o in intent.operations])


def _shape(intent: PaymentIntent) -> object:
    operations = tuple((o.kind, o.state, o.next_attempt_at is None) for o in intent.operations)
    return intent.state, intent.cancel_requested_at is None, operations


WALK: Final = 7


def test_whatever_is_said_in_whatever_order_money_and_state_agree() -> None:
    for path, _, intent in _walk(WALK):
        taken = intent.state in (S.CAPTURED, S.REFUNDING, S.REFUNDED, S.REFUND_FAILED)
        assert intent.captured == (intent.amount if taken else 0), path
        assert intent.refunded == (intent.amount if intent.state is S.REFUNDED else 0), path
        assert (intent.decline_code is not None) == (intent.state is S.DECLINED), path


def test_whatever_is_said_the_version_grows_when_and_only_when_the_state_changes() -> None:
    for path, before, after in _walk(WALK):
        assert after.version - before.version == (after.state is not before.state), path


def test_nothing_closed_ever_reopens() -> None:
    for path, before, after in _walk(WALK):
        if before.state in CLOSED:
            assert after.state is before.state, path
            assert len(after.operations) == len(before.operations), path


def test_after_a_cancel_nothing_ends_captured() -> None:
    for path, before, after in _walk(WALK):
        if before.cancel_requested_at is not None:
            assert after.state is not S.CAPTURED, path


def test_an_intent_that_is_not_settled_always_has_exactly_one_question_open() -> None:
    for path, _, intent in _walk(WALK):
        asking = [o for o in intent.operations if o.next_attempt_at is not None]
        waits = intent.state in (S.PROCESSING, S.UNKNOWN, S.REFUNDING)
        assert len(asking) == waits, path


def test_there_is_one_charge_one_void_and_one_unfailed_refund_at_most() -> None:
    for path, _, intent in _walk(WALK):
        kinds = [o.kind for o in intent.operations]
        assert kinds.count(OperationKind.CHARGE) <= 1, path
        assert kinds.count(OperationKind.VOID) <= 1, path
        refunds = [o for o in intent.operations if o.kind is OperationKind.REFUND]
        assert sum(o.state is not OperationState.FAILED for o in refunds) <= 1, path
        assert len({o.key for o in intent.operations}) == len(intent.operations), path


def test_what_is_said_twice_is_said_once() -> None:
    for path, _, intent in _walk(4):
        if path[-1] in ("charge", "captured", "declined", "voided", "refunded", "refund_failed"):
            again = _copy(intent)
            SAYINGS[path[-1]](again)
            assert _shape(again) == _shape(intent), path


def test_a_journal_comes_with_the_capture_and_with_the_refund_and_only_the_first_time() -> None:
    intent = an_intent()
    _charge(intent)
    capture = intent.capture(now=NOW)
    assert capture is not None
    assert {(e.account, e.amount) for e in capture.entries} == {
        ("provider_clearing", 700),
        ("customer_receipts", -700),
    }
    assert intent.capture(now=NOW) is None
    _cancel(intent)
    refund = intent.operations[-1]
    journal = intent.complete_refund(refund, now=NOW)
    assert journal is not None
    assert sum(e.amount for e in journal.entries) == 0
    assert intent.complete_refund(refund, now=NOW) is None


def test_a_new_refund_after_failed_ones_waits_longer_each_time() -> None:
    intent = an_intent()
    _charge(intent)
    intent.capture(now=NOW)
    waits = []
    for _ in range(8):
        _cancel(intent)
        due = intent.operations[-1].next_attempt_at
        assert due is not None
        waits.append((due - NOW).total_seconds())
        _refund_failed(intent)
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60]


def test_a_settled_operation_is_not_settled_again() -> None:
    intent = an_intent()
    _charge(intent)
    (charge,) = intent.operations
    charge.attempts = 1
    intent.decline(code="no", now=NOW)
    assert charge.next_attempt_at is None, "nobody leases it any more"
    with pytest.raises(IllegalTransition):
        charge.settle(OperationState.SUCCEEDED, now=NOW)
    charge.give_back(attempt=1, now=NOW + timedelta(days=1))
    assert charge.updated_at == NOW


def test_keys_are_made_from_the_order_and_never_shared() -> None:
    one, other = an_intent(), an_intent()
    for intent in (one, other):
        _charge(intent)
        _cancel(intent)
    assert charge_key(one.order_id) == one.operations[0].key == f"{one.order_id}:charge:1"
    keys = [o.key for i in (one, other) for o in i.operations]
    assert len(set(keys)) == len(keys) == 4


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 1), (2, 2), (6, 32), (7, 60), (10**6, 60)])
def test_the_pause_before_asking_again_doubles_up_to_a_minute(attempts: int, seconds: int) -> None:
    assert Backoff().after(attempts) == timedelta(seconds=seconds)
