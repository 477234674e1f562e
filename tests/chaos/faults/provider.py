"""The payment provider answers late, wrongly, twice, or not at all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from ecom_local.parts import DATABASES

from tests.chaos.fault import Fault
from tests.chaos.history import FINAL
from tests.chaos.lab import Lab, Settings, merged
from tests.chaos.load import Wish
from tests.support.shop import STAFF_SCOPES, until

ORDERS: Final = 12
FINAL_WITHIN_S: Final = 90.0
SLOW_S: Final = 40.0
# Orders wait for the provider, however busy the machine is: what is on trial is not their deadline.
WAITING: Final[Settings] = {
    "order": {"ORDER_DEADLINE_S": "100"},
    "inventory": {"RESERVATION_TTL_S": "150"},
}
# A call may take longer than the slow ones do, and a lease longer than two of them.
PATIENT: Final[Settings] = {
    **WAITING,
    "payment": {
        "SIMULATOR_SLOW_S": str(SLOW_S),
        "PROVIDER_TIMEOUT_S": "50",
        "PROVIDER_LEASE_S": "110",
    },
}
LATE_S: Final = 2.0
"""SIMULATOR_LATE_S in the laboratory."""
AWAY_S: Final = 15.0

# The sweeper does not ask again before the provider has answered.
UNHURRIED: Final[Settings] = merged(WAITING, {"order": {"ASK_AGAIN_AFTER_S": "4"}})
_FAILED_REFUND: Final = "kind = 'refund' AND o.state = 'failed'"

Placed = Mapping[str, Wish]
"""Order id → what was ordered."""


def _time_out_then_success(lab: Lab) -> None:
    placed = _place(lab, "pm_sim_timeoutThenSuccess")
    _end_as(lab, placed, {"confirmed": ORDERS})
    lab.fired("charges that timed out and succeeded", _asked_again(lab, placed, kind="charge"))


def _time_out_then_decline(lab: Lab) -> None:
    placed = _place(lab, "pm_sim_timeoutThenDecline")
    _end_as(lab, placed, {"rejected": ORDERS})
    lab.fired("charges that timed out and were declined", _asked_again(lab, placed, kind="charge"))


def _errors(lab: Lab) -> None:
    placed = _place(lab, "pm_sim_error")
    _end_as(lab, placed, {"confirmed": ORDERS})
    lab.fired("charges answered with 500", _asked_again(lab, placed, kind="charge"))


def _slow(lab: Lab) -> None:
    begin = time.monotonic()
    slow = _place(lab, "pm_sim_slow", count=6)
    cancelled = _place(lab, "pm_sim_slow", count=6)
    _until_payments(lab, [*slow, *cancelled], "processing")
    for order_id, wish in cancelled.items():
        assert lab.load.customers.cancel(wish.customer, order_id).is_promise
    # Sixteen calls may run at once: others need not wait for the slow ones.
    quick = _place(lab, "pm_card_visa", count=3)
    _end_as(lab, quick, {"confirmed": 3})
    assert time.monotonic() - begin < SLOW_S, "the others had to wait for the slow ones"
    _end_as(lab, slow, {"confirmed": 6})
    assert time.monotonic() - begin >= SLOW_S, "nothing was slow"
    _end_as(lab, cancelled, {"cancelled": 6})
    lab.fired(f"charges that took {SLOW_S:.0f} s", len(slow) + len(cancelled))


def _late_success_after_cancel(lab: Lab) -> None:
    """Some are cancelled before the money moves, and some after it has: of the latter it is given back."""
    early = _place(lab, "pm_sim_lateSuccess")
    late = _place(lab, "pm_sim_lateSuccess")
    _until_payments(lab, [*early, *late], "unknown", "captured")
    for order_id, wish in early.items():
        assert lab.load.customers.cancel(wish.customer, order_id).is_promise
    time.sleep(LATE_S)
    for order_id, wish in late.items():
        assert lab.load.customers.cancel(wish.customer, order_id).is_promise
    _end_as(lab, {**early, **late}, {"cancelled": 2 * ORDERS})
    refunds = _count_operations(lab, list(late), "kind = 'refund' AND o.state = 'succeeded'")
    lab.fired("late successes refunded", refunds)


def _refund_fails(lab: Lab) -> None:
    placed = _place(lab, "pm_sim_refundFailsOnce")
    _end_as(lab, placed, {"confirmed": ORDERS})
    for order_id, wish in placed.items():
        assert lab.load.customers.cancel(wish.customer, order_id).is_promise
    _until_payments(lab, list(placed), "refund_failed")
    lab.fired("refunds that failed", _count_operations(lab, list(placed), _FAILED_REFUND))
    waiting = _until_flagged(lab, placed)
    # A cancel that the sweeper had sent again before it knew asks for the refund, too: it is owed anyway.
    assert waiting, "no order waits for an operator"
    shop = lab.load.shop
    for order_id in waiting:
        answer = shop.http.post(
            shop.url("order", f"/v1/orders/{order_id}/cancel"),
            headers=shop.auth("staff", STAFF_SCOPES),
        )
        assert answer.status_code in (200, 202), answer.text
    lab.fired("refunds asked for again by an operator", len(waiting))
    _end_as(lab, placed, {"cancelled": ORDERS})


def _until_flagged(lab: Lab, placed: Placed) -> list[str]:
    """Until every order is final or flagged; the flagged ones."""

    def rows() -> list[tuple[str, str, bool]]:
        statement = (
            "SELECT id::text, status, flagged_at IS NOT NULL FROM orders WHERE id::text = ANY(%s)"
        )
        return [
            (order_id, status, flag)
            for order_id, status, flag in lab.sql("orderdb", statement, list(placed))
        ]

    until(
        lambda: all(flag or status in FINAL for _, status, flag in rows()),
        timeout_s=FINAL_WITHIN_S,
        about=rows,
        every_s=0.2,
    )
    return [order_id for order_id, _, flag in rows() if flag]


def _away(lab: Lab) -> None:
    """Its book cannot be reached: whatever was asked is unknown, and is asked again."""
    book = DATABASES["provider"]
    url = lab.postgres_url(book.name, book.service_role)
    with (
        lab.wire(url) as wire,
        lab.settings({"payment-worker": {"PROVIDER_DATABASE_URL": wire.over(url)}}),
    ):
        lab.load.until_more(5)
        refused = wire.accepted
        with wire.dead():
            placed = _place(lab, "pm_card_visa")
            _until_payments(lab, list(placed), "unknown")
            time.sleep(AWAY_S / 2)
        lab.fired("calls that reached nobody", wire.accepted - refused)
        with wire.black_hole():
            time.sleep(AWAY_S / 2)
        lab.fired("calls that were not answered", wire.held)
        _end_as(lab, placed, {"confirmed": ORDERS})


def _place(lab: Lab, method: str, *, count: int = ORDERS) -> Placed:
    wishes = [lab.load.wish(method=method) for _ in range(count)]
    placed = {lab.load.customers.place(wish): wish for wish in wishes}
    assert len(placed) == count
    assert "" not in placed, "an order was refused"
    return placed


def _end_as(lab: Lab, placed: Placed, wanted: Mapping[str, int]) -> None:
    """Until all are final, as wanted; and what was taken for each is what its end says, nothing or the total."""

    def found() -> Counter[str]:
        return Counter(str(_look(lab, placed, order_id).get("status")) for order_id in placed)

    until(
        lambda: FINAL.issuperset(found()),
        timeout_s=FINAL_WITHIN_S,
        about=lambda: dict(found()),
        every_s=0.5,
    )
    assert found() == wanted, f"{dict(found())}, must be {dict(wanted)}"
    for order_id in placed:
        order = _look(lab, placed, order_id)
        due = order["total"] if order["status"] == "confirmed" else 0
        assert lab.load.shop.taken(order_id) == due, f"{order_id} is {order['status']}"


def _look(lab: Lab, placed: Placed, order_id: str) -> Mapping[str, object]:
    return lab.load.customers.look(placed[order_id].customer, order_id).document


def _until_payments(lab: Lab, order_ids: Sequence[str], *states: str) -> None:
    """Until the payments of these orders are, or have once been, in one of the states."""
    count = "SELECT count(DISTINCT order_id) FROM order_history WHERE order_id::text = ANY(%s) AND payment = ANY(%s)"
    until(
        lambda: lab.sql("orderdb", count, list(order_ids), list(states)) == [(len(order_ids),)],
        timeout_s=FINAL_WITHIN_S,
        about=lambda: f"{lab.sql('orderdb', count, list(order_ids), list(states))} are {states}",
        every_s=0.2,
    )


def _asked_again(lab: Lab, placed: Placed, *, kind: str) -> int:
    """How many of the operations needed more than one attempt. All must have."""
    count = _count_operations(lab, list(placed), f"kind = '{kind}' AND attempts > 1")
    assert count == len(placed), f"{count} of {len(placed)} were asked for again"
    return count


def _count_operations(lab: Lab, order_ids: Sequence[str], condition: str) -> int:
    rows = lab.sql(
        "paymentdb",
        "SELECT count(*) FROM operations o JOIN payments p ON p.id = o.payment_id "
        f"WHERE p.order_id::text = ANY(%s) AND {condition}",
        list(order_ids),
    )
    return int(rows[0][0])


FAULTS: Final = (
    Fault(
        name="provider-times-out-then-succeeds",
        shows="a time-out is no answer: the charge is asked for again with its key, and made once",
        level="provider",
        inject=_time_out_then_success,
        environment=WAITING,
    ),
    Fault(
        name="provider-times-out-then-declines",
        shows="nor is it a decline before the provider says so: then the order is rejected, and nothing taken",
        level="provider",
        inject=_time_out_then_decline,
        environment=WAITING,
    ),
    Fault(
        name="provider-fails",
        shows="an error of the provider's is an unknown outcome, which is asked for again",
        level="provider",
        inject=_errors,
        environment=WAITING,
    ),
    Fault(
        name="provider-away",
        shows="a provider that cannot be reached, or is silent, costs time and no order",
        level="provider",
        inject=_away,
        environment=WAITING,
    ),
    Fault(
        name="provider-takes-40-s",
        shows="slow charges hold up no other, are made once, and whoever cancels meanwhile pays nothing",
        level="provider",
        inject=_slow,
        environment=PATIENT,
    ),
    Fault(
        name="provider-succeeds-after-cancel",
        shows="a success that comes after the cancel is given back, or never comes",
        level="provider",
        inject=_late_success_after_cancel,
    ),
    Fault(
        name="refund-fails-then-succeeds",
        shows="a failed refund is flagged, waits for an operator, and is made when it is asked for again",
        level="provider",
        inject=_refund_fails,
        environment=UNHURRIED,
    ),
)
