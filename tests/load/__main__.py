"""The command line: measure the platform's speed on one that is started for it.

scripts/bench                                   every scenario
scripts/bench --scenario uniform --clients 32   one of them
scripts/bench --scenario uniform --rate 50      at half load, without coordinated omission
scripts/bench --floor                           what the machine allows, beside it
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform as machine
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from ecom_local.errors import LocalError

from tests.load import report
from tests.load.floor import measure as measure_floor
from tests.load.plan import Plan
from tests.load.platform import PLENTY, SKUS, BenchPlatform, expire, preload, stock
from tests.load.running import Result, run
from tests.load.scenarios import HOT_BUYERS, HOT_STOCK, SCENARIOS
from tests.support.homes import a_home
from tests.support.shop import Shop

HELD: Final = 0
WRONG: Final = 1
COULD_NOT_RUN: Final = 2

CLIENTS: Final = (1, 8, 32, 128)
OTHERS_CLIENTS: Final = (32,)
"""Of the scenarios beside `uniform`, unless they are asked for."""
SECONDS: Final = 20.0
WARM_UP_S: Final = 5.0
HOT_A_SECOND: Final = 1_500
"""More orders than could come: so many SKUs are put on sale."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    say = _clocked()
    begin = datetime.datetime.now(datetime.UTC)
    try:
        with _platform(options, say) as platform:
            runs = _run_all(platform, options, say)
            floor = measure_floor(platform, say) if options.floor else None
    except (LocalError, RuntimeError) as error:
        print(f"could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    text = report.text(runs, floor)
    print(f"\n{text}")
    about = {"at": begin, "command": _command(), "machine": _machine(), "floor": floor}
    if options.markdown:
        head = f"{begin:%Y-%m-%d %H:%M} UTC, `{about['command']}`; {report.machine(_machine())}."
        report.write_markdown(options.markdown, f"{head}\n\n{text}")
    if options.json:
        options.json.write_bytes(
            orjson.dumps(
                report.as_json(runs, **about), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
            )
        )
    wrong = report.problems(runs)
    for problem in wrong:
        print(f"WRONG: {problem}", file=sys.stderr)
    return WRONG if wrong else HELD


@contextmanager
def _platform(options: argparse.Namespace, say: Callable[[str], None]) -> Iterator[BenchPlatform]:
    with a_home() as home:
        say("starting a platform")
        platform = BenchPlatform(
            home, apis=options.apis, workers=options.workers, settings=_settings(options.set)
        )
        with platform:
            yield platform


def _run_all(
    platform: BenchPlatform, options: argparse.Namespace, say: Callable[[str], None]
) -> list[list[Result]]:
    shop = Shop(platform)
    try:
        if options.preload:
            preload(platform, options.preload, say)
        if options.expired:
            expire(platform, options.expired, say)
        skus = [f"SKU-{number:04}" for number in range(SKUS)]
        stock(shop, skus, PLENTY, say)
        customers = platform.customers()
        runs: list[list[Result]] = []
        for scenario, clients in _chosen(options):
            repeats: list[Result] = []
            for number in range(options.repeat):
                hot = (
                    _hot_skus(shop, options, f"{len(runs)}-{number}", say)
                    if scenario == "hot"
                    else []
                )
                plan = Plan(
                    scenario=scenario,
                    urls=platform.order_urls,
                    tokens=customers,
                    skus=skus,
                    hot_skus=hot,
                    clients=clients,
                    warm_up_s=options.warm_up,
                    seconds=options.seconds,
                    seed=options.seed
                    + 1_000 * len(runs)
                    + number,  # or a run would use another's keys
                    rate=options.rate,
                )
                repeats.append(run(platform, plan, say))
            runs.append(repeats)
        return runs
    finally:
        shop.http.close()


def _hot_skus(
    shop: Shop, options: argparse.Namespace, prefix: str, say: Callable[[str], None]
) -> list[str]:
    orders = (options.warm_up + options.seconds) * HOT_A_SECOND
    skus = [f"HOT-{prefix}-{number}" for number in range(1 + int(orders / HOT_BUYERS))]
    stock(shop, skus, HOT_STOCK, say)
    return skus


def _chosen(options: argparse.Namespace) -> list[tuple[str, int]]:
    scenarios = options.scenario or list(SCENARIOS)
    if options.rate:
        return [(scenario, 0) for scenario in options.scenario or ["uniform"]]
    return [
        (scenario, clients)
        for scenario in scenarios
        for clients in options.clients or (CLIENTS if scenario == "uniform" else OTHERS_CLIENTS)
    ]


def _settings(pairs: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        part, _, variable = name.partition(":")
        found.setdefault(part, {})[variable] = value
    return found


def _command() -> str:
    return " ".join(["scripts/bench", *sys.argv[1:]])


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "system": machine.platform(),
        "python": machine.python_version(),
    }


def _clocked() -> Callable[[str], None]:
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {text}", flush=True)

    return say


def _clients(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if not all(1 <= count <= 1_000 for count in counts):
        raise argparse.ArgumentTypeError("1 to 1000, with commas between")
    return counts


def _setting(text: str) -> str:
    name, equals, _ = text.partition("=")
    part, colon, variable = name.partition(":")
    if not (equals and colon and part and variable):
        raise argparse.ArgumentTypeError("PART:NAME=VALUE, as order:MAX_BATCH=100")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Start a platform with production's settings, drive it from a process of its own, measure, "
        "drain, audit, and print what came of it. A run that is fast and wrong is a failed one.",
        epilog="exit codes: 0 all right   1 something was wrong   2 could not run",
    )
    _add_load(parser.add_argument_group("the load"))
    _add_platform(parser.add_argument_group("the platform"))
    _add_results(parser.add_argument_group("what comes of it"))
    return parser


def _add_load(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--scenario",
        action="append",
        choices=SCENARIOS,
        help="; ".join(f"{name}: {s.shows}" for name, s in SCENARIOS.items()) + "; default: all",
    )
    group.add_argument(
        "--clients",
        type=_clients,
        metavar="N,…",
        help="requests under way at once, one run for each; default 1,8,32,128, of other scenarios 32",
    )
    group.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help="open loop: so many orders a second, whatever comes of them",
    )
    group.add_argument(
        "--seconds", type=float, default=SECONDS, help="measured; default %(default)s"
    )
    group.add_argument(
        "--warm-up",
        type=float,
        default=WARM_UP_S,
        metavar="S",
        help="before it; default %(default)s",
    )
    group.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="so often, and show medians; default 1"
    )
    group.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))


def _add_platform(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preload", type=int, default=0, metavar="N", help="begin with so many orders stored"
    )
    group.add_argument(
        "--expired",
        type=int,
        default=0,
        metavar="N",
        help="begin with so many message ids and keys in each service that are to be forgotten meanwhile",
    )
    group.add_argument("--apis", type=int, default=1, metavar="N", help="api processes a service")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="workers a service")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="PART:NAME=VALUE",
        help="another setting, as order:MAX_BATCH=100, all:LOG_LEVEL=WARNING, postgres:work_mem=4MB",
    )


def _add_results(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--floor",
        action="store_true",
        help="measure what the machine allows as well: the same rows by pgbench, the broker, an empty app",
    )
    group.add_argument(
        "--markdown", type=Path, metavar="FILE", help="put the tables between the markers of FILE"
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE as well")


if __name__ == "__main__":
    sys.exit(main())
