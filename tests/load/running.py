"""One run: drive, measure, drain, audit; and the figures that come of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import psutil
from ecom_audit.invariants import Report
from ecom_audit.look import Patience

from tests.load import published
from tests.load.driving import Driver, driving
from tests.load.measuring import (
    Footprint,
    Sampler,
    Snapshot,
    load_average,
    outbox_rows,
    probe_ms,
    snapshot,
)
from tests.load.plan import ENDED, MEASURING, Plan, Sample
from tests.load.platform import BenchPlatform, expired_rows
from tests.load.published import Publications
from tests.load.scenarios import HOT_BUYERS, HOT_STOCK
from tests.support.auditing import look_at
from tests.support.topics import Topics

MOVES_WITHIN_S: Final = 60.0
"""What is left has to become less in this time."""
SETTLE_S: Final = 1.0
PATIENCE: Final = Patience(grace_s=20.0, settle_s=2.0, pause_s=0.5)
DRIVER: Final = "load generator"
FLAT: Final = 0.1
"""A backlog that has grown by less than this share of what was confirmed meanwhile is flat."""
GOOD_STATUSES: Final = frozenset({200, 201, 503})


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of_seconds(cls, seconds: Sequence[float]) -> Percentiles | None:
        """By rank; None of nothing."""
        if not seconds:
            return None
        ranked = sorted(seconds)
        at = [ranked[min(len(ranked) - 1, int(len(ranked) * share))] for share in (0.5, 0.95, 0.99)]
        return cls(*(round(value * 1000, 2) for value in at))


@dataclass
class Result:
    """One run's figures. `per_order` and rates are of the measured time; `orders` and makespan of all."""

    scenario: str
    clients: int
    rate: float | None
    orders: int = 0
    seconds: float = 0.0
    """Measured."""
    makespan_s: float = 0.0
    """From the first request to the last final order."""
    accepted_per_s: float = 0.0
    confirmed_per_s: float = 0.0
    decided_per_s: float = 0.0
    """Confirmed, rejected or cancelled."""
    gets_per_s: float = 0.0
    post: Percentiles | None = None
    get: Percentiles | None = None
    confirmed: Percentiles | None = None
    """From the request to the confirmation."""
    refused: int = 0
    """Answers with 503."""
    refusal: Percentiles | None = None
    pending: tuple[int, int, int] = (0, 0, 0)
    """Orders that were accepted and not final: at the begin and the end of the measured time, and at most."""
    cpu_ms: dict[str, float] = field(default_factory=dict)
    """By process, for each order that was decided (for each GET when there were no orders)."""
    statements: dict[str, float] = field(default_factory=dict)
    wal_bytes: dict[str, float] = field(default_factory=dict)
    all_wal_bytes: float = 0.0
    messages: float = 0.0
    message_bytes: float = 0.0
    deadlocks: int = 0
    whole_reads: dict[str, int] = field(default_factory=dict)
    """By table: how often it was read whole while it was measured."""
    peak_pss: dict[str, int] = field(default_factory=dict)
    footprints: list[Footprint] = field(default_factory=list)
    probes_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """CPU of the same piece of work before, during (median) and after."""
    load_average: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def all_cpu_ms(self) -> float:
        return sum(self.cpu_ms.values())

    @property
    def peak_pss_bytes(self) -> int:
        """Of the whole platform at one moment."""
        return max((footprint.all_pss for footprint in self.footprints), default=0)


@dataclass(frozen=True)
class Window:
    """What was seen while it was measured."""

    begin: float
    end: float
    before: Snapshot
    after: Snapshot

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def holds(self, at: float) -> bool:
        return self.begin <= at < self.end


def run(platform: BenchPlatform, plan: Plan, say: Callable[[str], None]) -> Result:
    """One run on a platform that is at rest, and leaves it so."""
    result = Result(plan.scenario, plan.clients, plan.rate)
    topics = Topics(platform.instance.kafka_bootstrap)
    begin = published.ends(topics)
    probe_before = probe_ms()
    with driving(plan) as driver:
        others = {DRIVER: psutil.Process(driver.pid)}
        with Sampler(platform, others) as sampler:
            window = _measure(platform, driver, others)
        samples = driver.samples()
    result.load_average = load_average()
    result.probes_ms = (
        probe_before,
        median(sampler.probes_ms or [0.0]),
        probe_ms(),
    )
    result.peak_pss, result.footprints = sampler.peak_pss, sampler.totals
    drain(platform)
    told = published.since(topics, begin)
    count(result, samples, told, window)
    weigh(result, told, window)
    result.problems += [*wrong_answers(samples, told), *_sold(platform, plan, told)]
    report = audit(platform)
    result.problems += [
        f"audit: {v.invariant}: {v.subject}: {v.left} | {v.right}" for v in report.violations
    ]
    say(
        f"{plan.scenario}, {_how(plan)}: {result.confirmed_per_s:.0f} confirmed/s, "
        f"{result.all_cpu_ms:.2f} ms of CPU an order, audit of {report.orders:,} orders "
        f"{'clean' if not report.violations else 'RED'}"
    )
    return result


def audit(platform: BenchPlatform) -> Report:
    """What the auditor sees."""
    return look_at(platform.postgres_url, PATIENCE)


def drain(platform: BenchPlatform) -> None:
    """Until every order is final, every outbox empty, and forgotten what has expired."""
    deadline, least = 0.0, sys.maxsize
    while (left := _unfinished(platform)) > 0:
        if left < least:
            deadline, least = time.monotonic() + MOVES_WITHIN_S, left
        assert time.monotonic() < deadline, f"{left} orders, messages or old rows are left undone"
        time.sleep(0.2)
    time.sleep(SETTLE_S)


def _unfinished(platform: BenchPlatform) -> int:
    is_open = "SELECT count(*) FROM orders WHERE status IN ('pending', 'cancelling')"
    [(orders,)] = platform.sql("orderdb", is_open)
    return int(orders) + outbox_rows(platform) + expired_rows(platform)


def _measure(
    platform: BenchPlatform,
    driver: Driver,
    others: Mapping[str, psutil.Process],
) -> Window:
    driver.until_said(MEASURING)
    begin, before = time.time(), snapshot(platform, others)
    driver.until_said(ENDED)
    return Window(begin, time.time(), before, snapshot(platform, others))


def count(result: Result, samples: Sequence[Sample], told: Publications, window: Window) -> None:
    """Rates, latencies and the backlog."""
    result.seconds = window.seconds
    accepted = {s.order_id: s for s in samples if s.kind == "post" and s.status in (200, 201)}
    result.orders = len(accepted)
    within = [s for s in samples if window.holds(s.end)]
    posts = [s for s in within if s.kind in ("post", "replay") and s.status in (200, 201)]
    gets = [s for s in within if s.kind == "get" and s.status == 200]
    refusals = [s for s in within if s.status == 503]
    result.accepted_per_s = sum(s.kind == "post" for s in posts) / window.seconds
    result.gets_per_s = len(gets) / window.seconds
    result.post = Percentiles.of_seconds([s.seconds for s in posts])
    result.get = Percentiles.of_seconds([s.seconds for s in gets])
    result.refused = len(refusals)
    result.refusal = Percentiles.of_seconds([s.seconds for s in refusals])

    ends = [(order_id, status, at) for order_id, (status, at) in told.finals.items()]
    decided = [(order_id, status, at) for order_id, status, at in ends if window.holds(at)]
    confirmed = [(order_id, at) for order_id, status, at in decided if status == "confirmed"]
    result.decided_per_s = len(decided) / window.seconds
    result.confirmed_per_s = len(confirmed) / window.seconds
    result.confirmed = Percentiles.of_seconds(
        [at - accepted[order_id].begin for order_id, at in confirmed if order_id in accepted]
    )
    if samples and ends:
        result.makespan_s = max(at for _, _, at in ends) - min(s.begin for s in samples)
    result.pending = _backlog(accepted, told, window)


def _backlog(
    accepted: Mapping[str, Sample], told: Publications, window: Window
) -> tuple[int, int, int]:
    moves = [(sample.end, 1) for sample in accepted.values()]
    # An order can be final before its client has its answer.
    moves += [
        (max(at, accepted[order_id].end), -1)
        for order_id, (_, at) in told.finals.items()
        if order_id in accepted
    ]
    pending = most = at_begin = at_end = 0
    for at, change in sorted(moves):
        pending += change
        at_begin = pending if at <= window.begin else at_begin
        at_end = pending if at <= window.end else at_end
        most = max(most, pending)
    return at_begin, at_end, most


def weigh(result: Result, told: Publications, window: Window) -> None:
    """What an order has cost."""
    orders = result.decided_per_s * window.seconds
    units = orders or result.gets_per_s * window.seconds or 1.0
    before, after = window.before, window.after
    result.cpu_ms = {
        name: 1000 * (cpu - before.cpu_s.get(name, 0.0)) / units
        for name, cpu in after.cpu_s.items()
    }
    result.statements = {
        name: (calls - before.statements.get(name, 0)) / units
        for name, calls in after.statements.items()
    }
    result.wal_bytes = {
        name: (written - before.wal_bytes.get(name, 0)) / units
        for name, written in after.wal_bytes.items()
    }
    result.all_wal_bytes = (after.all_wal_bytes - before.all_wal_bytes) / units
    result.deadlocks = after.deadlocks - before.deadlocks
    result.whole_reads = {
        table: scans - before.whole_reads.get(table, 0)
        for table, scans in after.whole_reads.items()
        if scans > before.whole_reads.get(table, 0)
    }
    if told.finals:
        result.messages = told.messages.total() / len(told.finals)
        result.message_bytes = told.bytes.total() / len(told.finals)


def wrong_answers(samples: Sequence[Sample], told: Publications) -> Iterator[str]:
    """Answers that are wrong, and acknowledged orders that never ended."""
    strange = {s.status for s in samples} - GOOD_STATUSES
    if strange:
        yield f"answers with {sorted(strange)}"
    lost = {s.order_id for s in samples if s.order_id} - told.finals.keys()
    if lost:
        yield f"{len(lost)} acknowledged orders have not ended, as {min(lost)}"


def _sold(platform: BenchPlatform, plan: Plan, told: Publications) -> Iterator[str]:
    """Of each hot SKU exactly as many as there were, when all its buyers came."""
    if plan.scenario != "hot":
        return
    rows = platform.sql(
        "inventorydb",
        "SELECT sku, on_hand, reserved, (SELECT count(*) FROM reservation_lines l WHERE l.sku = s.sku) "
        "FROM stock_levels s WHERE sku = ANY(%s)",
        plan.hot_skus,
    )
    for sku, on_hand, reserved, buyers in rows:
        left = max(0, HOT_STOCK - buyers)
        if buyers and (on_hand, reserved) != (left, 0):
            yield f"{sku}: {buyers} buyers of {HOT_STOCK} have left {on_hand}, {reserved} reserved"
        if buyers > HOT_BUYERS:
            yield f"{sku}: {buyers} buyers"
    sold_out = sum(1 for _, on_hand, _, buyers in rows if buyers and on_hand == 0)
    if not sold_out:
        yield "no SKU was sold out: run it for longer"


def _how(plan: Plan) -> str:
    return f"{plan.rate:g}/s" if plan.rate else f"{plan.clients} clients"
