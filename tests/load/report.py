"""The tables, and the same as JSON: a column for each run, or for the median of its repeats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.load.floor import Floor
from tests.load.measuring import Footprint
from tests.load.running import FLAT, Percentiles, Result

MIB: Final = 1024 * 1024
BEGIN: Final = "<!-- results: scripts/bench --markdown -->"
END: Final = "<!-- end of results -->"
_Cell = Callable[[Result], float | None]


def _percentile(field: str, name: str) -> _Cell:
    def cell(result: Result) -> float | None:
        found: Percentiles | None = getattr(result, field)
        return None if found is None else float(getattr(found, name))

    return cell


def _latency(label: str, field: str) -> list[tuple[str, _Cell, str]]:
    return [
        (f"{label} {name} (ms)", _percentile(field, name), ".1f") for name in ("p50", "p95", "p99")
    ]


def _ends(label: str, value: Callable[[Footprint], float]) -> list[tuple[str, _Cell, str]]:
    """Of a long run: what something was in the first and in the last fifth of it; whether it grows."""
    return [
        (f"{label}, first fifth", lambda r: _fifth(r, value), ".0f"),
        (f"{label}, last fifth", lambda r: _fifth(r, value, last=True), ".0f"),
    ]


def _fifth(
    result: Result, value: Callable[[Footprint], float], *, last: bool = False
) -> float | None:
    size = len(result.footprints) // 5
    looks = result.footprints[-size:] if last else result.footprints[:size]
    return median(map(value, looks)) if size > 1 else None


def _growth_mib(result: Result) -> dict[str, float]:
    """By process, from the first fifth of a long run to the last; nothing of a short one."""
    names = result.footprints[0].pss if result.footprints else ()
    return {name: growth for name in names if (growth := _grown(result, name)) is not None}


def _grown(result: Result, name: str) -> float | None:
    def size(look: Footprint) -> float:
        return look.pss.get(name, 0) / MIB

    first, last = _fifth(result, size), _fifth(result, size, last=True)
    return None if first is None or last is None else last - first


_ROWS: Final[Sequence[tuple[str, _Cell, str]]] = [
    ("confirmed/s", lambda r: r.confirmed_per_s, ".0f"),
    ("decided/s", lambda r: r.decided_per_s, ".0f"),
    ("accepted/s", lambda r: r.accepted_per_s, ".0f"),
    ("GET/s", lambda r: r.gets_per_s or None, ".0f"),
    *_latency("POST", "post"),
    *_latency("GET", "get"),
    *_latency("confirmed after", "confirmed"),
    ("503s", lambda r: float(r.refused), ".0f"),
    *_latency("503", "refusal")[2:],
    ("orders", lambda r: float(r.orders), ".0f"),
    ("makespan (s)", lambda r: r.makespan_s, ".1f"),
    ("pending at begin", lambda r: float(r.pending[0]), ".0f"),
    ("pending at end", lambda r: float(r.pending[1]), ".0f"),
    ("pending at most", lambda r: float(r.pending[2]), ".0f"),
    ("messages an order", lambda r: r.messages, ".1f"),
    ("message bytes an order", lambda r: r.message_bytes, ".0f"),
    ("WAL bytes an order, whole cluster", lambda r: r.all_wal_bytes, ".0f"),
    ("deadlocks", lambda r: float(r.deadlocks), ".0f"),
    ("peak memory, PSS (MiB)", lambda r: r.peak_pss_bytes / MIB, ".0f"),
    *_ends("memory, PSS (MiB)", lambda look: look.all_pss / MIB),
    *_ends("connections", lambda look: float(look.connections)),
    *_ends("threads", lambda look: float(look.threads)),
    *_ends("outbox rows", lambda look: float(look.outbox)),
    ("probe before (ms)", lambda r: r.probes_ms[0], ".2f"),
    ("probe during (ms)", lambda r: r.probes_ms[1], ".2f"),
    ("probe after (ms)", lambda r: r.probes_ms[2], ".2f"),
    ("load average", lambda r: r.load_average, ".1f"),
]


def name_of(result: Result) -> str:
    """Of the column."""
    how = f"{result.rate:g}/s" if result.rate else f"{result.clients} clients"
    return f"{result.scenario}, {how}"


def table(runs: Sequence[Sequence[Result]]) -> str:
    """Markdown; each of `runs` is the repeats of one run, and their medians are shown."""
    head = ["", *(name_of(repeats[0]) for repeats in runs)]
    lines = [_line(head), _line(["---", *(["--:"] * len(runs))])]
    for label, cell, shape in _ROWS:
        lines += _row(label, runs, cell, shape)
    lines += _by_name("CPU, ms an order, or a GET", runs, lambda r: r.cpu_ms, ".2f", total=True)
    lines += _by_name("statements an order", runs, lambda r: r.statements, ".1f", total=True)
    lines += _by_name("WAL bytes an order", runs, lambda r: r.wal_bytes, ".0f")
    lines += _by_name(
        "peak PSS (MiB)", runs, lambda r: {k: v / MIB for k, v in r.peak_pss.items()}, ".0f"
    )
    lines += _by_name("growth of PSS (MiB)", runs, _growth_mib, "+.1f")
    return "\n".join(lines)


def floor_table(floor: Floor, runs: Sequence[Sequence[Result]]) -> str:
    """What the machine allows, and the share of it that ours reached, each beside the run that is like it."""
    best = max(runs, key=lambda repeats: _median(repeats, lambda r: r.confirmed_per_s) or 0.0)
    ours = _median(best, lambda r: r.confirmed_per_s) or 0.0
    messages = _median(best, lambda r: r.messages) or 1.0
    accepted = max(_median(repeats, lambda r: r.accepted_per_s) or 0.0 for repeats in runs)
    shares = [
        ("broker: orders", floor.broker.messages_per_s / messages, ours),
        ("empty FastAPI app, the same answer: posts", floor.http.posts_per_s, accepted),
    ]
    for batch, rate in floor.rows.all_databases.items():
        # One order in a transaction is what a single client comes to.
        like = best if batch > 1 else next((r for r in runs if r[0].clients == 1), None)
        if like is not None:
            reached = _median(like, lambda r: r.confirmed_per_s) or 0.0
            what = f"the same rows by pgbench, {batch} in a transaction: orders, {name_of(like[0])}"
            shares.append((what, rate, reached))
    trip = floor.broker.round_trip
    return "\n".join(
        [
            _line(["floor, by itself", "a second", "ours, everything at once"]),
            _line(["---", "--:", "--:"]),
            *(
                _line([what, f"{rate:,.0f}", f"{reached:,.0f} ({reached / rate:.0%})"])
                for what, rate, reached in shares
            ),
            "",
            f"Broker's round trip: p50 {trip.p50} ms, p95 {trip.p95} ms, p99 {trip.p99} ms.",
        ]
    )


def text(runs: Sequence[Sequence[Result]], floor: Floor | None) -> str:
    """All tables, and what a reader of them has to know."""
    parts = [table(runs)]
    if floor is not None:
        parts.append(floor_table(floor, runs))
    if notes := remarks(runs):
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def machine(about: Mapping[str, Any]) -> str:
    return f"{about['cores']} cores, {about['memory_gib']} GiB, {about['system']}, Python {about['python']}"


def write_markdown(path: Path, body: str) -> None:
    """Put the text between the markers of a document."""
    whole = path.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    assert pattern.search(whole), f"{path} has no line {BEGIN}"
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{body}\n\n{END}", whole))


def problems(runs: Iterable[Sequence[Result]]) -> list[str]:
    """What did not hold in any of them."""
    return [
        f"{name_of(r)}: {problem}" for repeats in runs for r in repeats for problem in r.problems
    ]


def remarks(runs: Iterable[Sequence[Result]]) -> list[str]:
    """What a reader of the table has to know."""
    found = []
    for result in (r for repeats in runs for r in repeats):
        begin, end, _ = result.pending
        grown = end - begin
        if grown > FLAT * max(1.0, result.decided_per_s * result.seconds):
            found.append(f"{name_of(result)}: the backlog has grown by {grown} orders")
    return found


def as_json(runs: Iterable[Sequence[Result]], **about: Any) -> dict[str, Any]:
    """Every repeat of every run, and `about` the whole."""
    return {**about, "runs": [[asdict(result) for result in repeats] for repeats in runs]}


def _row(label: str, runs: Sequence[Sequence[Result]], cell: _Cell, shape: str) -> list[str]:
    cells = [_median(repeats, cell) for repeats in runs]
    if all(value is None for value in cells):
        return []
    return [_line([label, *("" if value is None else format(value, shape) for value in cells)])]


def _by_name(
    label: str,
    runs: Sequence[Sequence[Result]],
    values: Callable[[Result], Mapping[str, float]],
    shape: str,
    *,
    total: bool = False,
) -> list[str]:
    lines = []
    if total:
        lines += _row(f"**{label}**", runs, lambda r: sum(values(r).values()), shape)
    for name in dict.fromkeys(n for repeats in runs for r in repeats for n in values(r)):
        lines += _row(f"{label}: {name}", runs, lambda r, n=name: values(r).get(n), shape)  # type: ignore[misc]
    return lines


def _median(repeats: Sequence[Result], cell: _Cell) -> float | None:
    found = [value for result in repeats if (value := cell(result)) is not None]
    return median(found) if found else None


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
