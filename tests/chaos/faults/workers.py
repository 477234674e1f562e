"""Several workers of a service: relays that compete, partitions that move, members that come back too late."""

from __future__ import annotations

import time
from typing import Final

from ecom_local.parts import SERVICES

from tests.chaos.fault import Fault
from tests.chaos.lab import SESSION_TIMEOUT_S, Lab
from tests.support.shop import until

LEADS_WITHIN_S: Final = 40.0
"""A stopped leader's session is ended by the database after 10 s; the next one then finds the lock free."""
MORE_ORDERS: Final = 10


def _leads(lab: Lab, part: str) -> bool:
    return lab.metric(part, "ecom_relay_leader") == 1.0


def _stopped_relay_comes_back(lab: Lab) -> None:
    until(lambda: _leads(lab, "order-worker"), timeout_s=LEADS_WITHIN_S)
    other = lab.extra_worker("order")
    lab.crash("order-worker", "relay.half_sent", "STOP")
    try:
        until(
            lambda: _leads(lab, other), timeout_s=LEADS_WITHIN_S, about=lambda: "nobody took over"
        )
        lab.fired("another relay leads")
        lab.load.until_more(MORE_ORDERS)
    finally:
        lab.wake("order-worker")
    until(
        lambda: not _leads(lab, "order-worker"),
        timeout_s=LEADS_WITHIN_S,
        about=lambda: "the relay that comes back still believes that it leads",
    )
    assert _leads(lab, other)
    lab.load.until_more(MORE_ORDERS)
    lab.end_extra(other)


def _relays_side_by_side(lab: Lab) -> None:
    others = [lab.extra_worker(service) for service in SERVICES]
    lab.load.until_more(4 * MORE_ORDERS)
    for service, other in zip(SERVICES, others, strict=True):
        leaders = [part for part in (f"{service}-worker", other) if _leads(lab, part)]
        lab.fired(f"two relays, led by {leaders}")
    for other in others:
        lab.end_extra(other)


def _rebalanced(lab: Lab) -> None:
    """1 → 3 → 1 for each service: one of the new ones leaves in an orderly way, the other is killed."""
    for service in SERVICES:
        others = [lab.extra_worker(service), lab.extra_worker(service)]
        _until_everybody_works(lab, [f"{service}-worker", *others])
        lab.fired(f"3 {service} workers at work")
        lab.end_extra(others[0], "TERM")
        lab.load.until_more(MORE_ORDERS // 2)
        lab.end_extra(others[1], "KILL")
        lab.load.until_more(MORE_ORDERS // 2)


def _until_everybody_works(lab: Lab, parts: list[str]) -> None:
    begin = {part: _handled(lab, part) for part in parts}
    until(
        lambda: all(_handled(lab, part) > begin[part] for part in parts),
        timeout_s=LEADS_WITHIN_S,
        about=lambda: {part: _handled(lab, part) - begin[part] for part in parts},
        every_s=0.2,
    )


def _handled(lab: Lab, part: str) -> float:
    return lab.metric(part, "ecom_messages_received_total", outcome="handled")


def _stopped_past_its_session(lab: Lab) -> None:
    """In the middle of a transaction, so that its locks are in the others' way until the database ends it."""
    for service in ("inventory", "order", "payment"):
        other = lab.extra_worker(service)
        part = f"{service}-worker"
        lab.crash(part, "batch.before_commit", "STOP")
        try:
            begin = _handled(lab, other)
            until(
                lambda other=other, begin=begin: _handled(lab, other) > begin,  # type: ignore[misc]
                timeout_s=LEADS_WITHIN_S,
                about=lambda: "nobody took its partitions over",
            )
            time.sleep(SESSION_TIMEOUT_S)
        finally:
            lab.wake(part)
        lab.until_ready(part)
        lab.load.until_more(MORE_ORDERS // 2)
        lab.end_extra(other)


FAULTS: Final = (
    Fault(
        name="stopped-relay-comes-back",
        shows="a relay that was stopped in the middle of a batch has lost its lock, and does not publish",
        level="process",
        inject=_stopped_relay_comes_back,
    ),
    Fault(
        name="relays-side-by-side",
        shows="of two workers of each service one publishes: every message once, in order for each key",
        level="process",
        inject=_relays_side_by_side,
        published_once=True,
    ),
    Fault(
        name="rebalanced",
        shows="1 → 3 → 1 workers under load: partitions move, nothing is lost or done twice",
        level="process",
        inject=_rebalanced,
    ),
    Fault(
        name="worker-stopped-past-session",
        shows="a worker that wakes up in a transaction that is over, and on partitions that are another's",
        level="process",
        inject=_stopped_past_its_session,
    ),
)
