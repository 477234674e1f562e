"""One fault: load, inject, recover, some more load, drain, audit, and compare with what customers were told.

`observe` is the first half and leaves a `Run`; `judge` is what comes after the drain. A whole campaign may
judge every run alone (`--all`), or several after one drain (`--short`), since each has its own customers,
goods and history.
"""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ecom_audit.invariants import INVARIANTS, Report
from ecom_audit.look import Patience

from tests.chaos import published
from tests.chaos.fault import Fault
from tests.chaos.history import lies
from tests.chaos.lab import RESERVATION_TTL_S, Lab
from tests.chaos.load import Load, summary
from tests.chaos.probing import confirmed_within
from tests.support.auditing import look_at
from tests.support.topics import Ends, Topics

RECOVERS_WITHIN_S: Final = 90.0
"""From the end of a fault to an order that was placed after it and is confirmed."""
SETTLES_WITHIN_S: Final = 150.0
HOPELESS_S: Final = 30.0
"""When something did not hold already: perhaps nothing settles any more."""
DRAIN_S: Final = RESERVATION_TTL_S + 3.0
# After the drain nothing is on its way any more.
PATIENCE: Final = Patience(grace_s=10.0, settle_s=2.0, pause_s=0.5)
MOST_SHOWN: Final = 8
FOR_ATTENTION: Final = "left for attention: "
MEANWHILE: Final = "meanwhile: "
"""Begins what did not hold while the fault lasted; the other problems were found after the drain."""


@dataclass
class Run:
    """A fault that was injected under load, and what was seen until the load stopped."""

    fault: Fault
    load: Load
    problems: list[str] = field(default_factory=list)
    firings: Counter[str] = field(default_factory=Counter)
    recovery_s: float | None = None
    attention_before: frozenset[tuple[str, str]] = frozenset()
    ended_at: float = 0.0


@dataclass(frozen=True)
class Result:
    """What a run has shown."""

    fault: Fault
    orders: int
    fired: int
    recovery_s: float | None
    problems: Sequence[str]
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def held(self) -> bool:
        return not self.problems


def run_on(
    lab: Lab, faults: Sequence[Fault], *, orders: int, together: bool = False
) -> Iterator[Result]:
    """Until the first that does not hold: what it has spoilt must not be held against the next.

    `together`: one drain and one audit for all of them.
    """
    if together:
        runs = []
        for number, fault in enumerate(faults, start=1):
            lab.say(f"── {fault.name} ({number} of {len(faults)}): {fault.shows}")
            runs.append(observe(lab, fault, orders=orders))
            if runs[-1].problems:
                break
        yield from judge(lab, runs)
        return
    for fault in faults:
        lab.say(f"── {fault.name}: {fault.shows}")
        [result] = judge(lab, [observe(lab, fault, orders=orders)])
        yield result
        if not result.held:
            return


def observe(lab: Lab, fault: Fault, *, orders: int) -> Run:
    """Inject the fault under a load of at least so many orders; the load has ended and is final after it."""
    source = random.Random(lab.random.getrandbits(64))
    load = Load(lab, source, without=fault.load_without)
    run = Run(fault, load, attention_before=_attention(audit(lab)))
    topics = Topics(lab.kafka_bootstrap)
    begin = topics.all_ends(published.TOPICS)
    lab.begin_run(load)
    with lab.settings(fault.environment), load:
        _guarded(run, lambda: _live_through(lab, run, orders), MEANWHILE)
        if run.problems:
            # Or what was left behind would make everything that follows wait in vain.
            _guarded(run, lab.heal)
        _guarded(run, load.stop)
        run.ended_at = time.monotonic()
        _settle(lab, SETTLES_WITHIN_S if not run.problems else HOPELESS_S)
        run.firings = lab.firings
        _guarded(run, lambda: _compare_topics(lab, run, begin))
    return run


def judge(lab: Lab, runs: Sequence[Run]) -> list[Result]:
    """Wait until the longest deadline has passed, then audit and compare; a result for each run."""
    _drain(lab, max(run.ended_at for run in runs))
    for run in runs:
        if (check := run.fault.check) is not None:
            lab.begin_run(run.load)
            _guarded(run, lambda check=check: check(lab))  # type: ignore[misc]
    report = audit(lab)
    taken = _taken(lab)
    for run in runs:
        lab.begin_run(run.load)
        _guarded(run, lambda run=run: _compare(run, taken))  # type: ignore[misc]
        run.problems += _found_by_audit(run, runs, report)
        run.load.close()
    return [conclude(run) for run in runs]


def audit(lab: Lab) -> Report:
    """What the auditor sees now."""
    return look_at(lab.postgres_url, PATIENCE)


def _live_through(lab: Lab, run: Run, orders: int) -> None:
    run.load.until_more(max(1, orders // 4))
    run.fault.inject(lab)
    run.recovery_s = _recover(lab, run.load)
    run.load.until_more(max(orders // 4, orders - run.load.placed))


def _recover(lab: Lab, load: Load) -> float:
    """Seconds until an order that is placed from now on is confirmed."""
    seconds = confirmed_within(load, RECOVERS_WITHIN_S)
    assert seconds is not None, f"nothing was confirmed within {RECOVERS_WITHIN_S:.0f} s of its end"
    lab.say(f"recovered after {seconds:.1f} s")
    return seconds


def _settle(lab: Lab, within_s: float) -> None:
    """Until every order is final. What never is shows as a lie later, with its name."""
    deadline = time.monotonic() + within_s
    open_orders = "SELECT count(*) FROM orders WHERE status IN ('pending', 'cancelling')"
    while time.monotonic() < deadline:
        with suppress(Exception):  # a database that is not back yet
            if lab.sql("orderdb", open_orders) == [(0,)]:
                return
        time.sleep(0.2)


def _drain(lab: Lab, since: float) -> None:
    left_s = since + DRAIN_S - time.monotonic()
    if left_s > 0:
        lab.say(f"draining for {left_s:.0f} s")
        time.sleep(left_s)


def _compare_topics(lab: Lab, run: Run, begin: Ends) -> None:
    if not run.fault.published_in_order:
        return
    found = published.since(Topics(lab.kafka_bootstrap), begin)
    assert found, "nothing was published"
    run.problems += published.disorder(found, once=run.fault.published_once)
    run.problems += published.stale(found)


def _compare(run: Run, taken: dict[str, int]) -> None:
    run.problems += lies(run.load.history, run.load.books(taken))


def _taken(lab: Lab) -> dict[str, int]:
    rows = lab.sql("paymentdb", "SELECT order_id::text, captured - refunded FROM payments")
    return {order_id: taken for order_id, taken in rows}  # noqa: C416 - names say what they are


def _found_by_audit(run: Run, runs: Sequence[Run], report: Report) -> list[str]:
    """Violations of this run's orders; and those that are of no order of any run, which may be anybody's."""
    own = run.load.history.order_ids | set(run.load.received)
    others = {
        subject
        for other in runs
        if other is not run
        for subject in (*other.load.history.order_ids, *other.load.received)
    }
    found = [
        f"audit: {v.invariant}: {v.subject}: {v.left} | {v.right}"
        for v in report.violations
        if _mentions(v.subject, own) or not _mentions(v.subject, others)
    ]
    left_behind = _attention(report) - run.attention_before
    found += [
        f"{FOR_ATTENTION}{kind} {subject}"
        for kind, subject in sorted(left_behind)
        if kind not in run.fault.attention and (len(runs) == 1 or _mentions(subject, own))
    ]
    return found


def _mentions(subject: str, names: Iterable[str]) -> bool:
    return any(name in subject for name in names)


def _attention(report: Report) -> frozenset[tuple[str, str]]:
    return frozenset((a.kind, a.subject) for a in report.attention)


def _guarded(run: Run, step: Callable[[], object], when: str = "") -> None:
    """A step that fails is something that did not hold; the others are taken all the same."""
    try:
        step()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
        run.problems.append(f"{when}{type(error).__name__}: {error} ({place})")


def conclude(run: Run) -> Result:
    """The result; a fault that never happened has shown nothing, which is a failure."""
    nothing = [] if sum(run.firings.values()) else ["the fault did not fire"]
    return Result(
        fault=run.fault,
        orders=len(run.load.history.order_ids),
        fired=sum(run.firings.values()),
        recovery_s=run.recovery_s,
        problems=[*run.problems, *nothing],
        answers=run.load.history.outcomes(),
    )


def describe(result: Result) -> str:
    """Some lines for people."""
    recovery = "–" if result.recovery_s is None else f"{result.recovery_s:.1f} s"
    head = (
        f"{'✓' if result.held else '✗'} {result.fault.name}: {result.orders} orders, fired "
        f"{result.fired} times, recovered after {recovery}; answers: {summary(result.answers)}"
    )
    lines = [head, *(f"    {problem}" for problem in result.problems[:MOST_SHOWN])]
    if len(result.problems) > MOST_SHOWN:
        lines.append(f"    … and {len(result.problems) - MOST_SHOWN} more")
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    """The one table, as Markdown."""
    rows = [
        f"| `{r.fault.name}` | {r.orders} | {r.fired} | "
        f"{'–' if r.recovery_s is None else f'{r.recovery_s:.1f} s'} | {_verdict(r)} |"
        for r in results
    ]
    head = ["| fault | orders | fired | recovery | invariants held |", "|---|--:|--:|--:|---|"]
    return "\n".join([*head, *rows])


def _verdict(result: Result) -> str:
    if result.held:
        return f"all {len(INVARIANTS)}, and every answer true"
    return f"**no**: {result.problems[0][:120]}".replace("|", "/")


__all__ = [
    "Result", "Run", "audit", "conclude", "describe", "judge", "observe", "run_on", "table",
]  # fmt: skip
