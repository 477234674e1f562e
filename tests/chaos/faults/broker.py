"""The broker is away, empty, slow, or swallows everything."""

from __future__ import annotations

import time
from typing import Final

from ecom_contracts.topics import ALL_TOPICS
from ecom_local.parts import SERVICES

from tests.chaos.fault import Fault
from tests.chaos.lab import SESSION_TIMEOUT_S, Lab
from tests.chaos.sessions import shorten_sessions
from tests.chaos.wires import Wire
from tests.support.shop import until
from tests.support.topics import Topics

AWAY_S: Final = 60.0
"""Longer than the deadline of an order: those that were placed first are given up meanwhile."""
SLOW_S: Final = 20.0
DELAY_S: Final = 0.1
"""Each way, for every chunk; an order takes some six messages one after the other."""
NARROW_BYTES_PER_S: Final = 100_000.0
SILENT_S: Final = 20.0
STOP_WITHIN_S: Final = 20.0
DRAINED_WITHIN_S: Final = 120.0
SOON_S: Final = 5.0
"""An answer of an api that waits for no broker; far more than it takes on a busy machine."""


# As by default. In the laboratory's usual hurry, what waits for an answer is asked for again every 4 s at the
# latest; after a minute without a broker this alone would be more than a busy machine can work off.
UNHURRIED: Final = {"order": {"ASK_AGAIN_AFTER_S": "2", "ASK_AGAIN_AT_MOST_S": "30"}}


def _killed(lab: Lab) -> None:
    begin = time.monotonic()
    with lab.down("kafka"):
        time.sleep(AWAY_S / 2)
        waiting, placed = outbox(lab), lab.load.placed
        assert waiting, "nothing waits for the broker"
        time.sleep(AWAY_S / 2)
        assert outbox(lab) > waiting, "the outbox does not grow"
        assert lab.load.placed > placed, "no order is taken any more"
    only_good_answers(lab, since=begin)
    until_drained(lab)


def _emptied(lab: Lab) -> None:
    known = lab.sql("orderdb", "SELECT count(*) FROM catalogue_items")
    with lab.down("kafka"):
        lab.lose_data("kafka")
    topics = Topics(lab.kafka_bootstrap)
    until(
        lambda: all(topics.exists(topic.name) for topic in ALL_TOPICS),
        timeout_s=DRAINED_WITHIN_S,
        about=lambda: "the workers do not make their topics again",
        every_s=0.5,
    )
    # Groups, and how soon they give a member up, were among the data.
    shorten_sessions(lab.kafka_bootstrap, SESSION_TIMEOUT_S)
    lab.fired("kafka emptied")
    until_drained(lab)
    assert lab.sql("orderdb", "SELECT count(*) FROM catalogue_items") == known


def _slow(lab: Lab) -> None:
    with lab.wire_to_broker() as wire:
        _until_used(lab, wire)
        for name, slowness in (
            ("late", wire.slow(delay_s=DELAY_S)),
            ("narrow", wire.slow(bytes_per_s=NARROW_BYTES_PER_S)),
        ):
            begin, before = time.monotonic(), wire.slowed
            with slowness:
                time.sleep(SLOW_S / 2)
                lab.load.until_more(1)
            only_good_answers(lab, since=begin)
            lab.fired(f"kafka {name}: chunks slowed", wire.slowed - before)
        until_drained(lab)


def _silent(lab: Lab) -> None:
    with lab.wire_to_broker() as wire:
        _until_used(lab, wire)
        begin = time.monotonic()
        with wire.black_hole():
            time.sleep(SILENT_S)
            took_s = lab.terminate("inventory-worker")
            assert took_s < STOP_WITHIN_S, f"a worker took {took_s:.0f} s to end"
        only_good_answers(lab, since=begin)
        lab.fired("kafka silent: chunks held", wire.held)
        until_drained(lab)


def _until_used(lab: Lab, wire: Wire) -> None:
    lab.load.until_more(5)
    assert wire.accepted, "no worker uses the wire"


def outbox(lab: Lab, *services: str) -> int:
    """How many messages wait to be published, in these services or in all."""
    return sum(
        int(lab.sql(f"{service}db", "SELECT count(*) FROM outbox")[0][0])
        for service in services or SERVICES
    )


def until_drained(lab: Lab, *services: str) -> None:
    """Until everything that waits now, in these services or in all, has been published."""
    newest = {
        service: lab.sql(f"{service}db", "SELECT coalesce(max(id), 0) FROM outbox")[0][0]
        for service in services or SERVICES
    }

    def left() -> int:
        return sum(
            int(lab.sql(f"{service}db", "SELECT count(*) FROM outbox WHERE id <= %s", last)[0][0])
            for service, last in newest.items()
        )

    until(
        lambda: left() == 0,
        timeout_s=DRAINED_WITHIN_S,
        about=lambda: f"{left()} messages wait",
        every_s=0.1,
    )


def only_good_answers(lab: Lab, *, since: float, within_s: float = SOON_S) -> None:
    """Every request that was made since then was answered, soon, and by no 5xx."""
    answers = [answer for answer in lab.load.history if answer.asked_at >= since]
    assert answers, "nobody asked for anything"
    bad = [answer.outcome for answer in answers if answer.status == 0 or answer.status >= 500]
    assert not bad, f"{len(bad)} of {len(answers)} requests were not served: {sorted(set(bad))}"
    slowest = max(answer.answered_at - answer.asked_at for answer in answers)
    assert slowest <= within_s, f"a request took {slowest:.1f} s"


FAULTS: Final = (
    Fault(
        name="kafka-killed-for-a-minute",
        shows="orders are accepted all the time, the outbox grows and drains, and every order ends",
        level="broker",
        inject=_killed,
        environment=UNHURRIED,
    ),
    Fault(
        name="kafka-loses-everything",
        shows="workers make their topics again, everything is asked again, and the catalogue stays known",
        level="broker",
        inject=_emptied,
        published_in_order=False,
    ),
    Fault(
        name="kafka-slow",
        shows="a late and a narrow wire to the broker keep no customer waiting, and orders go on",
        level="broker",
        inject=_slow,
        environment=UNHURRIED,
    ),
    Fault(
        name="kafka-silent",
        shows="a broker that accepts everything and says nothing is outlived like one that is away, and keeps nobody from ending",
        level="broker",
        inject=_silent,
        environment=UNHURRIED,
    ),
)
