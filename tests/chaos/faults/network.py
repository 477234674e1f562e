"""Parts that lose their network and get it back: nobody is told, connections simply carry nothing any more."""

from __future__ import annotations

import time
from typing import Final

from ecom_local.parts import SERVICES

from tests.chaos.container_lab import in_container
from tests.chaos.fault import Fault, Place
from tests.chaos.faults.broker import only_good_answers, outbox, until_drained
from tests.chaos.faults.database import ANSWERED_WITHIN_S, no_longer_than
from tests.chaos.lab import SESSION_TIMEOUT_S, Lab

WORKER_CUT_OFF_S: Final = 2.0 * SESSION_TIMEOUT_S
CUT_OFF_S: Final = 20.0
MEANWHILE: Final = 5
LEFT_OUT: Final[dict[Place, str]] = {
    "natively": "processes of one machine talk over its loopback, which nobody can take away from one of them"
}


def _workers(lab: Lab) -> None:
    """Each for longer than its session in the group."""
    for service in SERVICES:
        worker = f"{service}-worker"
        begin = time.monotonic()
        with in_container(lab).cut_off(worker):
            time.sleep(WORKER_CUT_OFF_S)
            assert lab.problem(worker), "it is still within reach"
            lab.load.until_more(MEANWHILE)
        lab.until_ready(worker)
        only_good_answers(lab, since=begin)
        until_drained(lab, service)


def _broker(lab: Lab) -> None:
    begin = time.monotonic()
    with in_container(lab).cut_off("kafka"):
        time.sleep(CUT_OFF_S / 2)
        waiting = outbox(lab)
        assert waiting, "nothing waits for the broker"
        time.sleep(CUT_OFF_S / 2)
        assert outbox(lab) > waiting, "the outbox does not grow"
    only_good_answers(lab, since=begin)
    until_drained(lab)


def _database(lab: Lab) -> None:
    begin = time.monotonic()
    with in_container(lab).cut_off("order-postgres"):
        time.sleep(CUT_OFF_S)
    lab.until_ready("order-api")
    refused = lab.load.history.outcomes(since=begin)["503"]
    assert refused, "nobody was told that the database is out of reach"
    no_longer_than(lab, ANSWERED_WITHIN_S, since=begin)


FAULTS: Final = (
    Fault(
        name="workers-cut-off",
        shows="a worker without a network is missed by nobody at the door, and catches up when it is back",
        level="network",
        inject=_workers,
        left_out=LEFT_OUT,
    ),
    Fault(
        name="broker-cut-off",
        shows="orders are accepted while nobody reaches the broker, and go on when it is there again",
        level="network",
        inject=_broker,
        left_out=LEFT_OUT,
    ),
    Fault(
        name="database-cut-off",
        shows="a database that is out of reach is answered with 503 in time, and found again, wherever it is then",
        level="network",
        inject=_database,
        left_out=LEFT_OUT,
    ),
)
