"""The database breaks off in a COMMIT, stops, is silent, full, slow, or kept busy by somebody else."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import httpx
import psycopg2
from ecom_local.parts import DATABASES, PARTS, SERVICES

from tests.chaos import disks
from tests.chaos.fault import Fault
from tests.chaos.faults.broker import only_good_answers, outbox
from tests.chaos.lab import WORKERS, Lab, Settings
from tests.chaos.native_lab import natively
from tests.chaos.probing import confirmed_within
from tests.chaos.wires import Moment, Wire, server_of
from tests.support.shop import until

CUTS: Final = 6
"""Of each kind, on each wire."""
CUT_WITHIN_S: Final = 30.0
STOPS: Final = 3
SILENT_S: Final = 20.0
ANSWERED_WITHIN_S: Final = 9.0
"""A request waits 6 s for the database at most; the rest is for a busy machine."""
KNOWN_AFTER_S: Final = 8.0
"""The first have waited in vain by then, so that whoever comes later need not."""
FAST_S: Final = 2.0
MORE_THREADS: Final = 12
"""Each of the pool of 8 may begin to work while it happens, and uvicorn has some of its own."""
MORE_CONNECTIONS: Final = 24
"""An api and a worker with 8 each, and what health checks and a relay try anew."""
OPEN_FOR_S: Final = 75.0
PROBE_EVERY_S: Final = 5.0
CONFIRMED_WITHIN_S: Final = 60.0
"""On an idle machine it takes some hundred milliseconds; a relay that is stalled would be so for all the time."""
UNSENT_FOR_S: Final = 20.0
"""How old a message in an outbox may be, on a very busy machine."""
# What is on trial is not how long a busy machine needs for an order.
WAITING: Final[Settings] = {
    "order": {"ORDER_DEADLINE_S": "100", "ASK_AGAIN_AFTER_S": "2", "ASK_AGAIN_AT_MOST_S": "30"},
    "inventory": {"RESERVATION_TTL_S": "150"},
}
SPARE_BYTES: Final = 192 * 1024 * 1024
"""What the small disk has room for beside the data; enough to work on until it is filled."""
FULL_WITHIN_S: Final = 90.0
FULL_S: Final = 8.0
SLOW_DISK_S: Final = 20.0
WRITES_PER_S: Final = 20
SLOW_COMMIT_S: Final = 0.03
"""Two writes of a disk that makes so few."""


def _cut_in_commit(lab: Lab) -> None:
    api, workers = ("order-api",), WORKERS
    with ExitStack() as stack:
        wires = [
            wire
            for parts in (api, workers)
            for wire in stack.enter_context(_over_wires(lab, parts))
        ]
        lab.load.until_more(5)
        for number in range(2 * CUTS):
            moment: Moment = "before" if number % 2 else "after"
            for wire in lab.random.sample(wires, len(wires)):
                _cut(wire, moment)
                lab.fired(f"connection cut {moment} the answer of COMMIT")


def _cut(wire: Wire, moment: Moment) -> None:
    done = len(wire.cuts)
    wire.cut(moment)
    until(lambda: len(wire.cuts) > done, timeout_s=CUT_WITHIN_S, about=lambda: "no COMMIT passes")


def _stopped_at_once(lab: Lab) -> None:
    for number in range(STOPS):
        server = lab.databases[number % len(lab.databases)]
        before = _recoveries(lab, server)
        lab.end(server, "QUIT")
        lab.until_ready(server)
        assert _recoveries(lab, server) > before, "it had nothing to recover"
        lab.fired(f"{server} stopped at once")
        lab.load.until_more(5)


def _recoveries(lab: Lab, server: str) -> int:
    return lab.log(server).count("was not properly shut down")


def _silent(lab: Lab) -> None:
    """From the order service only; the others, who may share the server, notice nothing."""
    api = "order-api"
    with _over_wires(lab, (api, "order-worker")) as [wire]:
        lab.load.until_more(5)
        pid, threads, connections = lab.pid(api), lab.threads(api), wire.accepted
        begin = time.monotonic()
        with wire.black_hole():
            _live_without_answers(lab, begin)
            more = lab.threads(api) - threads
            assert more <= MORE_THREADS, f"{more} threads more"
        opened = wire.accepted - connections
        assert opened <= MORE_CONNECTIONS, f"{opened} connections were tried"
        lab.fired("postgres silent: chunks held", wire.held)
        no_longer_than(lab, ANSWERED_WITHIN_S, since=begin)
        assert lab.pid(api) == pid, "the api was restarted"


def _live_without_answers(lab: Lab, begin: float) -> None:
    """The other services answer as ever; the order service says 503, and soon says so at once."""
    stock = f"{lab.url('inventory')}/v1/items/{lab.load.plenty[0]}/stock"
    while time.monotonic() < begin + SILENT_S:
        answer = httpx.get(stock, headers=lab.load.shop.staff, timeout=ANSWERED_WITHIN_S)
        assert answer.status_code == 200, answer.text
        time.sleep(1)
    refusals = [
        answer.answered_at - answer.asked_at
        for answer in lab.load.history
        if answer.asked_at >= begin + KNOWN_AFTER_S and answer.status == 503
    ]
    assert refusals, "nobody was told that the database does not answer"
    took_s = statistics.median(refusals)
    assert took_s < FAST_S, f"it took {took_s:.1f} s to say that the database does not answer"


def no_longer_than(lab: Lab, limit_s: float, *, since: float) -> None:
    answers = [answer for answer in lab.load.history if answer.asked_at >= since]
    slowest = max(answer.answered_at - answer.asked_at for answer in answers)
    assert slowest <= limit_s, f"a request took {slowest:.1f} s"
    lost = [answer.outcome for answer in answers if answer.status == 0]
    assert not lost, f"{len(lost)} requests were not answered at all: {sorted(set(lost))}"


def _open_here(lab: Lab) -> None:
    _hold_open(lab, "orderdb")


def _open_elsewhere(lab: Lab) -> None:
    _hold_open(lab, "postgres")


def _hold_open(lab: Lab, database: str) -> None:
    """Somebody writes something, looks at everything, and does not end the transaction."""
    with lab.postgres(database) as connection, connection.cursor() as cursor:
        connection.autocommit = False
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT pg_current_xact_id(), count(*) FROM pg_class")
        begin = time.monotonic()
        while time.monotonic() < begin + OPEN_FOR_S:
            _is_confirmed_soon(lab)
            _is_sent_soon(lab)
            time.sleep(PROBE_EVERY_S)
        cursor.execute(
            "SELECT clock_timestamp() - xact_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        [[age]] = cursor.fetchall()
        assert age.total_seconds() >= OPEN_FOR_S
        connection.rollback()
    lab.fired(f"transaction open in {database} for {age.total_seconds():.0f} s")
    only_good_answers(lab, since=begin)


def _is_confirmed_soon(lab: Lab) -> None:
    took_s = confirmed_within(lab.load, CONFIRMED_WITHIN_S)
    assert took_s is not None, f"no order is confirmed within {CONFIRMED_WITHIN_S:.0f} s any more"


def _is_sent_soon(lab: Lab) -> None:
    age = "SELECT coalesce(extract(epoch FROM db_now() - min(created_at)), 0)::float FROM outbox"
    for service in SERVICES:
        [[age_s]] = lab.sql(f"{service}db", age)
        assert age_s < UNSENT_FOR_S, f"a message of {service} has waited for {age_s:.0f} s"


def _full(lab: Lab) -> None:
    instance = natively(lab).instance
    data = instance.layout.postgres / "data"
    with ExitStack() as mounted:
        with lab.down("postgres", "INT"):
            mounted.enter_context(disks.small(data, spare_bytes=SPARE_BYTES))
        lab.load.until_more(5)
        begin, failures = time.monotonic(), _no_space(lab)
        with disks.full(data):
            until(
                lambda: _no_space(lab) > failures,
                timeout_s=FULL_WITHIN_S,
                about=lambda: "the server finds room",
            )
            _use_up_the_log(lab)
            time.sleep(FULL_S)
        lab.fired("writes that found no space", _no_space(lab) - failures)
        instance.start("postgres")
        assert confirmed_within(lab.load, FULL_WITHIN_S), (
            "it does not work again with room on the disk"
        )
        no_longer_than(lab, ANSWERED_WITHIN_S, since=begin)
        with lab.down("postgres", "INT"):
            mounted.close()
    lab.fired("postgres on its own disk again")


def _no_space(lab: Lab) -> int:
    return lab.log("postgres").count("No space left on device")


def _use_up_the_log(lab: Lab) -> None:
    """Go through the segments of the log that are there already; the next cannot be made, and the server dies."""
    deadline = time.monotonic() + FULL_WITHIN_S
    with suppress(psycopg2.Error):
        while time.monotonic() < deadline:
            lab.sql(
                "postgres", "SELECT pg_logical_emit_message(true, 'chaos', 'x'), pg_switch_wal()"
            )


def _slow_disk(lab: Lab) -> None:
    assert disks.can_be_slow(), "this kernel has no control group that limits writes"
    data = natively(lab).instance.layout.postgres / "data"
    before_s, begin = _commit_s(lab), time.monotonic()
    with disks.slow(lab.pid("postgres"), data, writes_per_s=WRITES_PER_S):
        while time.monotonic() < begin + SLOW_DISK_S:
            took_s = _commit_s(lab)
            if took_s > max(SLOW_COMMIT_S, 3 * before_s):
                lab.fired("slow commits")
            time.sleep(1)
        assert outbox(lab) < lab.load.placed, "nothing is published any more"
    no_longer_than(lab, ANSWERED_WITHIN_S, since=begin)


def _commit_s(lab: Lab) -> float:
    """How long one write takes to be durable."""
    with lab.postgres("postgres") as connection, connection.cursor() as cursor:
        begin = time.monotonic()
        cursor.execute("SELECT pg_logical_emit_message(true, 'chaos', 'how long does it take?')")
        return time.monotonic() - begin


@contextmanager
def _over_wires(lab: Lab, parts: tuple[str, ...]) -> Iterator[list[Wire]]:
    """The parts reach their databases over wires, one for each server; restarted for it, and again afterwards."""
    settings: dict[str, dict[str, str]] = {}
    wires: dict[tuple[str, int], Wire] = {}
    with ExitStack() as stack:
        for part in parts:
            own = DATABASES[PARTS[part].service]
            url = lab.postgres_url(own.name, own.service_role)
            if server_of(url) not in wires:
                wires[server_of(url)] = stack.enter_context(lab.wire(url))
            settings[part] = {"DATABASE_URL": wires[server_of(url)].over(url)}
        with lab.settings(settings):
            yield list(wires.values())


FAULTS: Final = (
    Fault(
        name="connection-cut-inside-commit",
        shows="whether a COMMIT had its effect is found out by running the unit again: never twice, never not at all",
        level="database",
        inject=_cut_in_commit,
    ),
    Fault(
        name="postgres-stopped-at-once",
        shows="after a crash and recovery of the server everything that was acknowledged is there",
        level="database",
        inject=_stopped_at_once,
    ),
    Fault(
        name="postgres-silent",
        shows="a database that swallows everything is answered with a fast 503, and nothing piles up",
        level="database",
        inject=_silent,
    ),
    Fault(
        name="transaction-held-open",
        shows="an old snapshot in the same database stalls neither relays nor consumers",
        level="database",
        inject=_open_here,
        environment=WAITING,
    ),
    Fault(
        name="transaction-held-open-elsewhere",
        shows="nor does one in another database of the same server",
        level="database",
        inject=_open_elsewhere,
        environment=WAITING,
    ),
    Fault(
        name="postgres-disk-full",
        shows="without room on the disk nothing is acknowledged that is not durable, and room is all that it takes to recover",
        level="database",
        inject=_full,
        needs_root=True,
        left_out={"in containers": "the small disk is mounted over a folder of this machine"},
    ),
    Fault(
        name="postgres-disk-slow",
        shows="a disk of 20 writes a second makes everything slow, and nothing wrong",
        level="database",
        inject=_slow_disk,
        needs_root=True,
        left_out={"in containers": "the engine sets a container's limits when it makes it"},
    ),
)
