"""A report for people, and for programs."""

import json
from dataclasses import asdict
from typing import Final

from ecom_audit.invariants import INVARIANTS, Report

_WIDTH: Final = max(map(len, INVARIANTS))


def as_text(report: Report, *, most: int) -> str:
    """A line for each invariant, then one for each violation, at most `most` of each invariant."""
    lines = [
        f"{'✗' if report.counts[name] else '✓'} {name:<{_WIDTH}} {report.counts[name] or '':>7}  {text}"
        for name, text in INVARIANTS.items()
    ]
    for name in INVARIANTS:
        violations = [v for v in report.violations if v.invariant == name]
        lines += [
            f"✗ {name}  {violation.subject}  {violation.left}  |  {violation.right}"
            for violation in violations[:most]
        ]
        if report.counts[name] > most:
            lines.append(f"✗ {name}  … and {report.counts[name] - most} more")
    lines += [f"! {a.kind}  {a.subject}  {a.note}" for a in report.attention[:most]]
    if len(report.attention) > most:
        lines.append(f"! … and {len(report.attention) - most} more that need attention")
    broken = sum(1 for count in report.counts.values() if count)
    verdict = f"{broken} of {len(INVARIANTS)} invariants violated" if broken else "clean"
    lines.append(
        f"{verdict}: {report.orders} orders, {report.open_orders} of them in flight, "
        f"{report.moving} differences still moving, {len(report.attention)} for attention, "
        f"in {report.seconds:.1f} s"
    )
    return "\n".join(lines)


def as_json(report: Report) -> str:
    return json.dumps(
        {
            "clean": not report.violations,
            "orders": report.orders,
            "in_flight": {"orders": report.open_orders, "differences": report.moving},
            "seconds": round(report.seconds, 3),
            "invariants": {name: report.counts[name] for name in INVARIANTS},
            "violations": [asdict(violation) for violation in report.violations],
            "attention": [asdict(attention) for attention in report.attention],
        },
        ensure_ascii=False,
    )
