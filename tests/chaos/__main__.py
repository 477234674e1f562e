"""The command line: run faults against a platform of its own, and print what has held.

scripts/chaos --fault api-killed-before-commit --seed 7
scripts/chaos --all --markdown docs/chaos.md
scripts/chaos --containers --short
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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ecom_local.errors import LocalError
from ecom_local.paths import DOWNLOADS

from tests.chaos import safeguards
from tests.chaos.campaign import Result, describe, run_on, table
from tests.chaos.container_lab import ContainerLab
from tests.chaos.fault import Fault, Place
from tests.chaos.faults import FAULTS
from tests.chaos.lab import Lab, Settings
from tests.chaos.native_lab import NativeLab
from tests.chaos.rotation import of_the_day
from tests.chaos.safeguards import OpenLab
from tests.support.compose import a_project, why_no_engine

HELD: Final = 0
DID_NOT_HOLD: Final = 1
COULD_NOT_RUN: Final = 2

KEPT_LOGS: Final = DOWNLOADS / "chaos-logs"

ORDERS: Final = 120
SHORT_ORDERS: Final = 40
MARKERS: Final[dict[Place, tuple[str, str]]] = {
    "natively": ("<!-- results: scripts/chaos --all --markdown -->", "<!-- end of results -->"),
    "in containers": (
        "<!-- results in containers: scripts/chaos --containers --all --markdown -->",
        "<!-- end of results in containers -->",
    ),
}
"""Between which the table of a place stands in the document."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    place: Place = "in containers" if options.containers else "natively"
    if options.list:
        print("\n".join(_listed(place)))
        return HELD
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    say = _clocked()
    say(f"seed {seed}")
    try:
        open_lab = _container_lab() if options.containers else _native_lab
        if options.without:
            return safeguards.show(
                options.without, open_lab, seed=seed, orders=options.orders or ORDERS, say=say
            )
        faults = _chosen(options, place, say)
        results = run(
            faults,
            open_lab,
            seed=seed,
            orders=options.orders or (SHORT_ORDERS if options.short else ORDERS),
            together=options.short,
            say=say,
            keep=lambda results: _keep(options.markdown, results, seed=seed, place=place),
        )
    except LocalError as error:
        print(f"could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    print(table(results))
    return HELD if all(result.held for result in results) else DID_NOT_HOLD


def run(
    faults: Sequence[Fault],
    open_lab: OpenLab,
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
        with open_lab(seed + len(results), say, {}) as lab:
            done = len(results)
            for result in run_on(lab, left, orders=orders, together=together):
                say(describe(result))
                results.append(result)
                keep(results)
            if not all(result.held for result in results[done:]):
                _keep_logs(lab, say)
        left = list(faults)[len(results) :]
    return results


def _listed(place: Place) -> Iterator[str]:
    """What each fault must show, or why it is left out there."""
    for name, fault in FAULTS.items():
        reason = fault.left_out.get(place)
        yield f"{name:<34} {f'not {place}: {reason}' if reason else fault.shows}"


def _keep_logs(lab: Lab, say: Callable[[str], None]) -> None:
    shutil.rmtree(KEPT_LOGS, ignore_errors=True)
    KEPT_LOGS.mkdir(parents=True)
    lab.keep_logs(KEPT_LOGS)
    say(f"the platform's logs are in {KEPT_LOGS}")


def _keep(document: Path | None, results: Sequence[Result], *, seed: int, place: Place) -> None:
    """After each result, so that an interrupted campaign leaves what it has found."""
    if document is not None:
        write_markdown(document, results, seed=seed, place=place)


@contextmanager
def _native_lab(seed: int, say: Callable[[str], None], settings: Settings) -> Iterator[Lab]:
    """A platform in a temporary home, which the account that Postgres runs as may enter."""
    with TemporaryDirectory(prefix="ecom-chaos-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)
        say("starting a platform")
        with NativeLab(home, seed=seed, say=say, settings=settings) as lab:
            yield lab


def _container_lab() -> OpenLab:
    """Platforms of containers, where an engine can make them; LocalError where none can."""
    if reason := why_no_engine():
        raise LocalError(reason)

    @contextmanager
    def open_lab(seed: int, say: Callable[[str], None], settings: Settings) -> Iterator[Lab]:
        with ExitStack() as stack:
            say("building images")
            try:
                project = stack.enter_context(a_project(KEPT_LOGS))
                say("starting a platform")
                lab = stack.enter_context(
                    ContainerLab(project, seed=seed, say=say, settings=settings)
                )
            except AssertionError as error:  # what docker says when it fails
                raise LocalError(str(error)) from error
            yield lab

    return open_lab


def _chosen(options: argparse.Namespace, place: Place, say: Callable[[str], None]) -> list[Fault]:
    if options.fault:
        chosen = [FAULTS[name] for name in options.fault]
        for fault in chosen:
            if place in fault.left_out:
                raise LocalError(f"{fault.name} is not {place}: {fault.left_out[place]}")
    elif options.short:
        chosen = of_the_day(list(FAULTS.values()), options.date, place)
        say(f"of {options.date}: {', '.join(fault.name for fault in chosen)}")
    else:
        chosen = [fault for fault in FAULTS.values() if place not in fault.left_out]
        for fault in FAULTS.values():
            if place in fault.left_out:
                say(f"left out, not {place}: {fault.name}: {fault.left_out[place]}")
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


def write_markdown(
    path: Path, results: Sequence[Result], *, seed: int, place: Place = "natively"
) -> None:
    """Put the table between the place's markers of a document."""
    begin, end = MARKERS[place]
    text = path.read_text()
    orders = sum(result.orders for result in results)
    fired = sum(result.fired for result in results)
    block = (
        f"{begin}\n\nSeed {seed}: {len(results)} faults, {orders} orders, fired {fired} times.\n\n"
        f"{table(results)}\n\n{end}"
    )
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    assert pattern.search(text), f"{path} has no line {begin}"
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
    parser.add_argument(
        "--containers",
        action="store_true",
        help="on a platform of containers, by a Docker engine, instead of processes",
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
