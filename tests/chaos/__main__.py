"""The command line: run faults against a platform of its own, and print what has held.

scripts/chaos --fault api-killed-before-commit --seed 7
scripts/chaos --all --markdown docs/chaos.md
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ecom_local.errors import LocalError
from ecom_local.paths import DOWNLOADS

from tests.chaos import safeguards
from tests.chaos.campaign import Result, describe, judge, observe, table
from tests.chaos.fault import Fault
from tests.chaos.faults import FAULTS
from tests.chaos.lab import Lab, Settings
from tests.chaos.rotation import of_the_day

HELD: Final = 0
DID_NOT_HOLD: Final = 1
COULD_NOT_RUN: Final = 2

KEPT_LOGS: Final = DOWNLOADS / "chaos-logs"

ORDERS: Final = 120
SHORT_ORDERS: Final = 40
BEGIN: Final = "<!-- results: scripts/chaos --all --markdown -->"
END: Final = "<!-- end of results -->"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:<34} {fault.shows}" for name, fault in FAULTS.items()))
        return HELD
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    say = _clocked()
    say(f"seed {seed}")
    try:
        if options.without:
            return safeguards.show(
                options.without, _lab, seed=seed, orders=options.orders or ORDERS, say=say
            )
        faults = _chosen(options, say)
        results = run(
            faults,
            seed=seed,
            orders=options.orders or (SHORT_ORDERS if options.short else ORDERS),
            together=options.short,
            say=say,
            keep=lambda results: _keep(options.markdown, results, seed=seed),
        )
    except LocalError as error:
        print(f"could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    print(table(results))
    return HELD if all(result.held for result in results) else DID_NOT_HOLD


def run(
    faults: Sequence[Fault],
    *,
    seed: int,
    orders: int,
    together: bool,
    say: Callable[[str], None],
    keep: Callable[[Sequence[Result]], None],
) -> list[Result]:
    """Run the faults one after the other, on one platform as long as everything holds on it.

    `together`: one drain and one audit for all of them. `keep` is told of what there is so far.
    """
    results: list[Result] = []
    left = list(faults)
    while left:
        with _lab(seed + len(results), say) as lab:
            done = len(results)
            for result in _run_on(lab, left, orders=orders, together=together, say=say):
                say(describe(result))
                results.append(result)
                keep(results)
            if not all(result.held for result in results[done:]):
                _keep_logs(lab, say)
        left = list(faults)[len(results) :]
    return results


def _run_on(
    lab: Lab, faults: Sequence[Fault], *, orders: int, together: bool, say: Callable[[str], None]
) -> Iterator[Result]:
    """Until the first that does not hold: what it has spoilt must not be held against the next."""
    if together:
        runs = []
        for number, fault in enumerate(faults, start=1):
            say(f"── {fault.name} ({number} of {len(faults)}): {fault.shows}")
            runs.append(observe(lab, fault, orders=orders))
            if runs[-1].problems:
                break
        yield from judge(lab, runs)
        return
    for fault in faults:
        say(f"── {fault.name}: {fault.shows}")
        [result] = judge(lab, [observe(lab, fault, orders=orders)])
        yield result
        if not result.held:
            return


def _keep_logs(lab: Lab, say: Callable[[str], None]) -> None:
    shutil.rmtree(KEPT_LOGS, ignore_errors=True)
    shutil.copytree(lab.home / "logs", KEPT_LOGS)
    say(f"the platform's logs are in {KEPT_LOGS}")


def _keep(document: Path | None, results: Sequence[Result], *, seed: int) -> None:
    """After each result, so that an interrupted campaign leaves what it has found."""
    if document is not None:
        write_markdown(document, results, seed=seed)


@contextmanager
def _lab(seed: int, say: Callable[[str], None], settings: Settings | None = None) -> Iterator[Lab]:
    """A platform in a temporary home, which the account that Postgres runs as may enter."""
    with TemporaryDirectory(prefix="ecom-chaos-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)
        say("starting a platform")
        with Lab(home, seed=seed, say=say, settings=settings) as lab:
            yield lab


def _chosen(options: argparse.Namespace, say: Callable[[str], None]) -> list[Fault]:
    if options.fault:
        chosen = [FAULTS[name] for name in options.fault]
    elif options.short:
        chosen = of_the_day(list(FAULTS.values()), options.date)
        say(f"of {options.date}: {', '.join(fault.name for fault in chosen)}")
    else:
        chosen = list(FAULTS.values())
    if os.geteuid() == 0:
        return chosen
    for fault in chosen:
        if fault.needs_root:
            say(f"left out, since it needs root: {fault.name}")
    return [fault for fault in chosen if not fault.needs_root]


def _clocked() -> Callable[[str], None]:
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {text}", flush=True)

    return say


def write_markdown(path: Path, results: Sequence[Result], *, seed: int) -> None:
    """Put the table between the markers of a document."""
    text = path.read_text()
    orders = sum(result.orders for result in results)
    fired = sum(result.fired for result in results)
    block = (
        f"{BEGIN}\n\nSeed {seed}: {len(results)} faults, {orders} orders, fired {fired} times.\n\n"
        f"{table(results)}\n\n{END}"
    )
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    assert pattern.search(text), f"{path} has no line {BEGIN}"
    path.write_text(pattern.sub(lambda _: block, text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Start a platform of its own, drive a mixed load, inject faults, drain, audit, and compare "
        "with everything that customers were told.",
        epilog="exit codes: 0 everything held   1 something did not   2 could not run",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--fault", action="append", choices=FAULTS, metavar="NAME", help="this one; may be repeated"
    )
    which.add_argument("--all", action="store_true", help="every fault; takes most of an hour")
    which.add_argument(
        "--short", action="store_true", help="the faults of the day, with one drain; some minutes"
    )
    which.add_argument(
        "--list", action="store_true", help="name the faults and what each must show"
    )
    which.add_argument(
        "--without",
        choices=safeguards.SHOWN_BY,
        metavar="NAME",
        help=f"leave a safeguard out ({', '.join(safeguards.SHOWN_BY)}): then a violation must be found",
    )
    parser.add_argument("--seed", type=int, help="of everything that is random; printed")
    parser.add_argument("--orders", type=int, metavar="N", help="at least so many for each fault")
    parser.add_argument(
        "--date",
        type=datetime.date.fromisoformat,
        default=datetime.datetime.now(datetime.UTC).date(),
        help="of --short; default: today",
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="put the table between the markers of FILE"
    )
    return parser


if __name__ == "__main__":
    # Or the platform would outlive us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(COULD_NOT_RUN))
    sys.exit(main())
