"""Processes that die at the worst moments, and processes that are asked to end."""

from __future__ import annotations

from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.lab import WORKERS, Lab

TIMES: Final = 3
STOP_WITHIN_S: Final = 20.0
SILENT_S: Final = 3.0


def _api_before_commit(lab: Lab) -> None:
    for _ in range(TIMES):
        lab.crash("order-api", "batch.before_commit")
        lab.until_ready("order-api")


def _api_after_commit(lab: Lab) -> None:
    for _ in range(TIMES):
        lab.crash("order-api", "batch.after_commit")
        lab.until_ready("order-api")


def _relay_before_delete(lab: Lab) -> None:
    for worker in WORKERS:
        lab.crash(worker, "relay.before_delete")
        lab.until_ready(worker)


def _relay_mid_batch(lab: Lab) -> None:
    for _ in range(TIMES):
        lab.crash("order-worker", "relay.half_sent")
        lab.until_ready("order-worker")


FAULTS: Final = (
    Fault(
        name="api-killed-before-commit",
        shows="what was not committed is not there: the retry with its key makes the order, once",
        level="process",
        inject=_api_before_commit,
    ),
    Fault(
        name="api-killed-after-commit",
        shows="a commit whose answer is lost is found again by its key: one order, one id",
        level="process",
        inject=_api_after_commit,
    ),
    Fault(
        name="relay-killed-before-delete",
        shows="messages sent twice have their effect once",
        level="process",
        inject=_relay_before_delete,
    ),
    Fault(
        name="relay-killed-mid-batch",
        shows="a batch that was sent by half, again and again, is sent whole and in order for each key",
        level="process",
        inject=_relay_mid_batch,
    ),
)
