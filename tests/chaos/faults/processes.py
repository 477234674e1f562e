"""Processes that die at the worst moments, and processes that are asked to end."""

from __future__ import annotations

import time
from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.lab import APIS, WORKERS, Lab

TIMES: Final = 3
STOP_WITHIN_S: Final = 20.0
UNANSWERED_S: Final = 3.0
"""How long a participant says nothing, so that the sweeper has something to ask for again."""


def _crash_each_time(lab: Lab, part: str, point: str) -> None:
    for _ in range(TIMES):
        lab.crash(part, point)
        lab.until_ready(part)


def _crash_each_worker(lab: Lab, point: str) -> None:
    for worker in WORKERS:
        lab.crash(worker, point)
        lab.until_ready(worker)


def _sweeper(lab: Lab) -> None:
    for _ in range(TIMES):
        with lab.stopped("inventory-worker"):
            lab.crash("order-worker", "sweep.before_commit")
            lab.until_ready("order-worker")


def _two_sweepers(lab: Lab) -> None:
    other = lab.extra_worker("order")
    with lab.stopped("inventory-worker"):
        time.sleep(UNANSWERED_S)
        swept = {part: _swept(lab, part) for part in ("order-worker", other)}
        lab.crash(other, "sweep.before_commit")
    for part, count in swept.items():
        assert count, f"{part} has not swept"
        lab.fired(f"{part} swept", round(count))
    lab.end_extra(other)


def _swept(lab: Lab, part: str) -> float:
    return lab.metric(part, "ecom_swept_total", sweep="orders")


def _terminated(lab: Lab) -> None:
    for part in (*APIS, *WORKERS):
        took_s = lab.terminate(part)
        assert took_s < STOP_WITHIN_S, f"{part} took {took_s:.1f} s to end"
        lab.until_ready(part)


FAULTS: Final = (
    Fault(
        name="api-killed-before-commit",
        shows="what was not committed is not there: the retry with its key makes the order, once",
        level="process",
        inject=lambda lab: _crash_each_time(lab, "order-api", "batch.before_commit"),
    ),
    Fault(
        name="api-killed-after-commit",
        shows="a commit whose answer is lost is found again by its key: one order, one id",
        level="process",
        inject=lambda lab: _crash_each_time(lab, "order-api", "batch.after_commit"),
    ),
    Fault(
        name="relay-killed-before-delete",
        shows="messages that are published twice have their effect once",
        level="process",
        inject=lambda lab: _crash_each_worker(lab, "relay.before_delete"),
    ),
    Fault(
        name="relay-killed-mid-batch",
        shows="a batch that is published by half, again and again, ends whole and in order for each key",
        level="process",
        inject=lambda lab: _crash_each_time(lab, "order-worker", "relay.half_sent"),
    ),
    Fault(
        name="worker-killed-mid-handler",
        shows="a transaction that was not committed has no effect; its messages are handled again",
        level="process",
        inject=lambda lab: _crash_each_worker(lab, "batch.before_commit"),
    ),
    Fault(
        name="worker-killed-before-offsets",
        shows="messages that were handled and come again are dropped by the inbox",
        level="process",
        inject=lambda lab: _crash_each_worker(lab, "consumer.before_offsets"),
    ),
    Fault(
        name="payment-killed-before-call",
        shows="a job that nobody has begun with is done when its lease has ended",
        level="process",
        inject=lambda lab: _crash_each_time(lab, "payment-worker", "provider.before_call"),
    ),
    Fault(
        name="payment-killed-after-call",
        shows="money that was taken and not written down is found under its key, and not taken again",
        level="process",
        inject=lambda lab: _crash_each_time(lab, "payment-worker", "provider.after_call"),
    ),
    Fault(
        name="sweeper-killed",
        shows="a sweep that was not committed is done again; what was not answered is asked again",
        level="process",
        inject=_sweeper,
    ),
    Fault(
        name="two-sweepers",
        shows="two sweepers do not get into each other's way, and one that dies leaves all to the other",
        level="process",
        inject=_two_sweepers,
    ),
    Fault(
        name="terminated",
        shows="SIGTERM of each process: no lost or false answer, and an end within 20 s",
        level="process",
        inject=_terminated,
    ),
)
