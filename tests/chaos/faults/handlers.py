"""A bug in a handler that only one SKU meets: everybody else's orders go on, and nothing is lost of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ecom_common import dead_letters
from ecom_common.database import Sessions, make_engine, make_sessions

from tests.chaos.fault import Fault
from tests.chaos.lab import ORDER_DEADLINE_S, Lab
from tests.chaos.probing import confirmed_within
from tests.support.shop import until

VICTIMS: Final = 5
OTHERS: Final = 20
STOCK: Final = 100
WITHIN_S: Final = 60.0


def _bug_for_one_sku(lab: Lab) -> None:
    sku = lab.load.item(STOCK, prefix="BUG")
    with _bug(lab, sku):
        wishes = [lab.load.wish({sku: 1}, customer=lab.load.names[n]) for n in range(VICTIMS)]
        ids = [lab.load.customers.place(wish) for wish in wishes]
        until(lambda: _letters(lab) != [], timeout_s=WITHIN_S, about=lambda: "no dead letter")
        lab.load.until_more(OTHERS)
        assert confirmed_within(lab.load, WITHIN_S) is not None, "others have to wait"
        until(
            lambda: _statuses(lab, ids) == {"cancelled"},
            timeout_s=ORDER_DEADLINE_S + WITHIN_S,
            about=lambda: _statuses(lab, ids),
            every_s=0.2,
        )
    lab.fired("dead letters", len(_letters(lab)))
    _redrive(lab)
    assert confirmed_within(lab.load, WITHIN_S, {sku: 1}) is not None, "it is still broken"


@contextmanager
def _bug(lab: Lab, sku: str) -> Iterator[None]:
    """The real handler fails on its real statement, as it would on a wrong assumption about this SKU."""
    lab.sql(
        "inventorydb",
        "ALTER TABLE reservation_lines ADD CONSTRAINT ck_bug CHECK (sku <> %s) NOT VALID",
        sku,
    )
    try:
        yield
    finally:
        lab.sql("inventorydb", "ALTER TABLE reservation_lines DROP CONSTRAINT ck_bug")


def _letters(lab: Lab) -> list[int]:
    rows = lab.sql("inventorydb", "SELECT id FROM dead_letters WHERE state = 'open'")
    return [letter for (letter,) in rows]


def _redrive(lab: Lab) -> None:
    """Send all of them again, as an operator would after the mend, and wait until they are handled."""
    sessions = _sessions(lab)
    for letter in _letters(lab):
        with sessions.begin() as session:
            assert dead_letters.redrive(session, letter, actor="chaos")
    unsent = "SELECT count(*) FROM outbox"
    until(lambda: lab.sql("inventorydb", unsent) == [(0,)], timeout_s=WITHIN_S)
    lab.fired("redriven")


def _sessions(lab: Lab) -> Sessions:
    url = lab.postgres_url("inventorydb", "inventory_service")
    return make_sessions(make_engine(url, application_name="chaos", pool_size=1))


def _statuses(lab: Lab, ids: list[str]) -> set[str]:
    return {
        status
        for (status,) in lab.sql(
            "orderdb", "SELECT status FROM orders WHERE id = ANY(%s::uuid[])", ids
        )
    }


FAULTS: Final = (
    Fault(
        name="handler-bug-for-one-sku",
        shows="its messages become dead letters and its orders time out; all others go on; redrive is clean",
        level="message",
        inject=_bug_for_one_sku,
    ),
)
