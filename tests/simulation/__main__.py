"""The command: `scripts/simulate --help`."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count, islice
from typing import Final

from ecom_common.errors import EcomError
from ecom_common.safeguards import SAFEGUARDS
from ecom_local.errors import LocalError

from tests.simulation.campaign import Campaign, explain, fresh_seeds, own_databases
from tests.simulation.laboratory import Laboratory
from tests.simulation.run import Result

HOLDS: Final = 0
VIOLATED: Final = 1
COULD_NOT_RUN: Final = 2

ORDERS: Final = 20
MINUTES: Final = 1.0
PROGRESS_EVERY_S: Final = 10.0
CONCURRENT: Final = frozenset({"row-locks", "relay-lock", "oversell-check"})
"""Safeguards that only matter between two transactions at once, which there never are here."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    without = frozenset(options.without)
    try:
        with (
            own_databases() as databases,
            closing(Laboratory(databases, without=without)) as laboratory,
        ):
            return _run(Campaign(laboratory, options.orders), options, without)
    except (LocalError, EcomError, OSError) as error:
        sys.stderr.write(f"could not run: {error}\n")
        return COULD_NOT_RUN
    except KeyboardInterrupt:
        return 130


def _run(campaign: Campaign, options: argparse.Namespace, without: frozenset[str]) -> int:
    deadline = time.monotonic() + 60 * options.minutes
    is_bounded_by_time = options.seed is None and options.runs is None
    shown_at = time.monotonic()
    for seed in _seeds(options):
        if is_bounded_by_time and time.monotonic() > deadline:
            break
        result = campaign.run(seed, print if options.verbose else None)
        if options.trace:
            print("\n".join(result.about(options.trace)))
        if options.seed is not None:
            print(_verdict(result))
        if campaign.failed is not None:
            break
        if time.monotonic() - shown_at > PROGRESS_EVERY_S:
            shown_at = time.monotonic()
            print(f"{campaign.summary()}; last seed {seed}", flush=True)
    print(campaign.summary())
    if campaign.failed is not None:
        print(explain(campaign.failed, without=without))
        return VIOLATED
    print("everything holds")
    return HOLDS


def _seeds(options: argparse.Namespace) -> Iterator[int]:
    seeds = fresh_seeds() if options.seed is None else count(options.seed)
    number = options.runs or (1 if options.seed is not None else None)
    return islice(seeds, number)


def _verdict(result: Result) -> str:
    paths = ", ".join(f"{name} {number}" for name, number in sorted(result.met.items()))
    return (
        f"seed {result.seed}: {result.steps} steps, {result.placed} orders, "
        f"digest {result.digest[:16]}; met {paths}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate",
        description="Run the three services in one process, one step at a time, with everything going "
        "wrong that can, and see whether everything holds in the end. Starts a Postgres of its own.",
        epilog="exit codes: 0 everything holds   1 a violation   2 could not run\n"
        "docs/simulation.md says what is simulated, and what is not.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="this run, and with --runs those after it")
    parser.add_argument(
        "--orders", type=int, default=ORDERS, help=f"in each run (default: {ORDERS})"
    )
    parser.add_argument("--runs", type=int, help="how many")
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help=f"of runs with fresh seeds, when neither is given (default: {MINUTES:g})",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=[name for name in SAFEGUARDS if name not in CONCURRENT],
        help="leave this safeguard out: a violation has to be found",
    )
    parser.add_argument("--trace", metavar="TEXT", help="print the steps that name it, as an order")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every step")
    return parser


if __name__ == "__main__":
    sys.exit(main())
