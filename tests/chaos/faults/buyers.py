"""What customers do to a shop: all at once, the same again and again, and changing their minds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from tests.chaos.customers import Wish
from tests.chaos.fault import Fault
from tests.chaos.history import FINAL
from tests.chaos.lab import Lab
from tests.support.shop import until

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE: Final = 50
BUYERS: Final = 500
UNITS: Final = 5
BASKETS: Final = 100
STORM: Final = 50
FINAL_WITHIN_S: Final = 120.0

# Where an order is when the customer changes their mind: its (stock, payment) as they are told. "" is at once.
STEPS: Final = (
    ("none", "none"),
    ("held", "requested"),
    ("held", "processing"),
    ("held", "unknown"),
    ("held", "captured"),
    ("committed", "captured"),
)
RACES_A_STEP: Final = 6
RACERS: Final = (
    "pm_card_visa",
    "pm_sim_timeoutThenSuccess",
    "pm_sim_lateSuccess",
    "pm_sim_neverSeen",
)


def _all_at_once(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(work, items))


def _retry_storm(lab: Lab) -> None:
    for _ in range(3):
        wish = lab.load.wish(checkout=True)
        answers = _all_at_once(lab.load.customers.place_once, [wish] * STORM)
        promises = [answer for answer in answers if answer.is_promise]
        assert promises, Counter(answer.outcome for answer in answers)
        assert {answer.status for answer in promises} == {201}
        lab.fired("the same request, with one key", len(answers))


def _cancel_races_capture(lab: Lab) -> None:
    """At every step, and twice: by the customer in two windows."""
    hits: Counter[tuple[str, str]] = Counter()
    wishes = [
        (step, lab.load.wish(method=RACERS[number % len(RACERS)]))
        for step in STEPS
        for number in range(RACES_A_STEP)
    ]
    with ThreadPoolExecutor(8) as threads:
        for step in threads.map(lambda race: _race(lab, *race), wishes):
            hits[step] += 1
    for (stock, payment), count in hits.items():
        lab.fired(f"cancelled at stock {stock}, payment {payment}", count)
    assert len(hits) >= len(STEPS) - 1, f"cancels met only {dict(hits)}"


def _race(lab: Lab, step: tuple[str, str], wish: Wish) -> tuple[str, str]:
    """Cancel as soon as the order is seen at the step or beyond; the step that it was really at."""
    customers = lab.load.customers
    order_id = customers.place(wish)
    deadline = time.monotonic() + FINAL_WITHIN_S
    while time.monotonic() < deadline:
        seen = customers.look(wish.customer, order_id).document
        at = (str(seen.get("stock")), str(seen.get("payment")))
        if at == step or seen.get("status") in FINAL:
            break
    with ThreadPoolExecutor(2) as windows:
        for answer in windows.map(lambda _: customers.cancel(wish.customer, order_id), range(2)):
            assert answer.status in (200, 202, 409), answer
    return at


def _buy(lab: Lab, baskets: list[dict[str, int]]) -> None:
    """Each basket by another customer, all at once; until none of them is open."""
    customers = [f"buyer-{lab.load.names[0]}-{number}" for number in range(10)]
    for customer in customers:
        lab.load.shop.auth(customer)
    wishes = [
        lab.load.wish(basket, customer=customers[number % len(customers)])
        for number, basket in enumerate(baskets)
    ]
    ids = _all_at_once(lab.load.customers.place, wishes)
    lab.fired("buyers at once", len(ids))
    until(
        lambda: not _open(lab, ids),
        timeout_s=FINAL_WITHIN_S,
        about=lambda: f"{_open(lab, ids)} of {len(ids)} are still open",
        every_s=0.5,
    )


def _open(lab: Lab, ids: list[str]) -> int:
    [(count,)] = lab.sql(
        "orderdb",
        "SELECT count(*) FROM orders WHERE id = ANY(%s::uuid[]) AND status IN ('pending', 'cancelling')",
        ids,
    )
    return int(count)


def _last_units(lab: Lab) -> None:
    """Three inventory workers, so that the same row is really wanted by several at once."""
    sku = lab.load.item(UNITS, prefix="LAST")
    others = [lab.extra_worker("inventory"), lab.extra_worker("inventory")]
    _buy(lab, [{sku: 1} for _ in range(BUYERS)])
    for other in others:
        lab.end_extra(other)
    assert 1 <= (sold := _sold(lab, sku)) <= UNITS, f"{sold} of {UNITS} units were sold"


def _sold(lab: Lab, sku: str) -> int:
    [(count,)] = lab.sql(
        "orderdb",
        "SELECT coalesce(sum(quantity), 0) FROM order_lines l JOIN orders o ON o.id = l.order_id "
        "WHERE sku = %s AND status = 'confirmed'",
        sku,
    )
    return int(count)


def _crossed_baskets(lab: Lab) -> None:
    """Each basket is in the other order than its neighbour's; there is stock for half of them."""
    skus = [lab.load.item(BASKETS // 2, prefix="BASKET") for _ in range(4)]
    others = [lab.extra_worker("inventory"), lab.extra_worker("inventory")]
    _buy(lab, [dict.fromkeys(skus if n % 2 else skus[::-1], 1) for n in range(BASKETS)])
    for other in others:
        lab.end_extra(other)


@contextmanager
def no_check_in_the_database(lab: Lab) -> Iterator[None]:
    """The CHECK that forbids overselling is not there; nor is it validated when it comes back."""
    lab.sql("inventorydb", "ALTER TABLE stock_levels DROP CONSTRAINT ck_stock_levels_reserved")
    lab.fired("the database has no CHECK")
    try:
        yield
    finally:
        lab.sql(
            "inventorydb",
            "ALTER TABLE stock_levels ADD CONSTRAINT ck_stock_levels_reserved "
            "CHECK (0 <= reserved AND reserved <= on_hand) NOT VALID",
        )


def _last_units_without_the_check(lab: Lab) -> None:
    with no_check_in_the_database(lab):
        _last_units(lab)


def _last_units_without_our_check(lab: Lab) -> None:
    """Ours is left out, by `environment`.

    What the database refuses is a bug to the handler, and becomes a dead letter: nobody gets what is not there,
    but orders time out instead of being rejected.
    """
    sku = lab.load.item(UNITS, prefix="LAST")
    _buy(lab, [{sku: 1} for _ in range(BUYERS // 20)])
    letters = lab.sql(
        "inventorydb", "SELECT count(*) FROM dead_letters WHERE error LIKE '%ck_stock_levels%'"
    )
    assert letters != [(0,)], "the database has refused nothing"
    assert _sold(lab, sku) <= UNITS


FAULTS: Final = (
    Fault(
        name="retry-storm",
        shows="one request sent 50 times at once is one order",
        level="client",
        inject=_retry_storm,
        published_once=True,
    ),
    Fault(
        name="cancel-races-capture",
        shows="whoever was told that it is being cancelled, at whatever step, ends cancelled and unpaid",
        level="client",
        inject=_cancel_races_capture,
        published_once=True,
    ),
    Fault(
        name="last-units",
        shows="500 buyers of 5 units at 3 workers: 5 at most are sold",
        level="client",
        inject=_last_units,
        published_once=True,
    ),
    Fault(
        name="crossed-baskets",
        shows="baskets in opposite order share what there is, all lines or none, without deadlock",
        level="client",
        inject=_crossed_baskets,
        published_once=True,
    ),
    Fault(
        name="last-units-without-database-check",
        shows="without the database's CHECK, ours alone sells nothing twice",
        level="database",
        inject=_last_units_without_the_check,
    ),
    Fault(
        name="last-units-without-our-check",
        shows="without our check, the database's alone sells nothing twice; what it refuses is buried",
        level="database",
        inject=_last_units_without_our_check,
        environment={"inventory": {"WITHOUT_SAFEGUARDS": "oversell-check"}},
        # Each of these would be a bug to the handler too, again at every ask.
        load_without=frozenset({"out of stock", "hot"}),
        attention=frozenset({"dead letter"}),
    ),
)
