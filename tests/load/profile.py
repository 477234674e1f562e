"""The command line: a flame graph of one process of a platform under load.

scripts/profile order-worker                        into order-worker.svg
scripts/profile order-api --clients 128 --seconds 15 --output api.svg
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ecom_local.errors import LocalError
from ecom_local.parts import PARTS

from tests.load.driving import driving
from tests.load.plan import ENDED, MEASURING, Plan
from tests.load.platform import PLENTY, SKUS, BenchPlatform, stock
from tests.load.running import drain
from tests.load.scenarios import SCENARIOS
from tests.support.homes import a_home
from tests.support.shop import Shop

HELD: Final = 0
COULD_NOT_RUN: Final = 2
RATE: Final = 200
"""Samples a second."""
WARM_UP_S: Final = 4.0
SPARE_S: Final = 3.0
"""What the profiler takes to begin and to end, while the load goes on."""
SHOWN: Final = 25
_PARTS: Final = [part.name for part in PARTS.values() if part.service]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    output: Path = options.output or Path(f"{options.part}.svg")
    try:
        with a_home() as home, BenchPlatform(home) as platform:
            stacks = _record(platform, options, output)
    except (LocalError, RuntimeError) as error:
        print(f"could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    _show(stacks)
    print(f"\nthe flame graph is in {output}")
    return HELD


def _record(
    platform: BenchPlatform, options: argparse.Namespace, output: Path
) -> list[tuple[list[str], int]]:
    """Drive the platform, and have the process sampled twice meanwhile: drawn, and as text."""
    shop = Shop(platform)
    skus = [f"SKU-{number:04}" for number in range(SKUS)]
    stock(shop, skus, PLENTY, print)
    plan = Plan(
        scenario=options.scenario,
        urls=platform.order_urls,
        tokens=platform.customers(),
        skus=skus,
        hot_skus=[],
        clients=options.clients,
        warm_up_s=WARM_UP_S,
        seconds=2 * (options.seconds + SPARE_S),
        seed=1,
        rate=options.rate,
    )
    pid = platform.mains()[options.part].pid
    with driving(plan) as driver, TemporaryDirectory() as folder:
        driver.until_said(MEASURING)
        _sample(pid, options.seconds, "flamegraph", output, options.native)
        text = Path(folder) / "stacks"
        _sample(pid, options.seconds, "raw", text, options.native)
        driver.until_said(ENDED)
        driver.samples()
        stacks = [_stack(line) for line in text.read_text().splitlines()]
    drain(platform)
    shop.http.close()
    return stacks


def _sample(pid: int, seconds: float, shape: str, output: Path, native: bool) -> None:
    begin = time.monotonic()
    command: list[str | Path] = [
        *(Path(sys.executable).with_name("py-spy"), "record", "--pid", str(pid)),
        *("--duration", str(round(seconds)), "--rate", str(RATE)),
        *("--format", shape, "--output", output),
        *(["--native"] if native else ["--gil"]),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise RuntimeError(f"py-spy: {said.stderr.strip()}; does it need root here?")
    print(f"sampled for {time.monotonic() - begin:.0f} s")


def _stack(line: str) -> tuple[list[str], int]:
    frames, _, count = line.rpartition(" ")
    return frames.split(";"), int(count)


def _show(stacks: Sequence[tuple[list[str], int]]) -> None:
    """Where most of the time went: in the function itself, and in all that it called."""
    total = sum(count for _, count in stacks) or 1
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for frames, count in stacks:
        own[_function(frames[-1])] += count
        for name in {_function(frame) for frame in frames}:
            whole[name] += count
    for title, found in (("own", own), ("with what it called", whole)):
        print(f"\n{title}:")
        for name, count in found.most_common(SHOWN):
            print(f"  {count / total:6.1%}  {name}")


def _function(frame: str) -> str:
    """Without its line."""
    return frame.rpartition(":")[0] + ")" if ":" in frame else frame


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/profile",
        description="Start a platform, drive it, and sample one of its processes meanwhile: a flame graph, and "
        "the functions that took most of the time.",
        epilog="exit codes: 0 all right   2 could not run (sampling another process may need root)",
    )
    parser.add_argument("part", choices=_PARTS, metavar="PART", help=", ".join(_PARTS))
    parser.add_argument("--scenario", choices=SCENARIOS, default="uniform")
    parser.add_argument("--clients", type=int, default=32, help="default %(default)s")
    parser.add_argument("--rate", type=float, help="orders a second instead of a number of clients")
    parser.add_argument("--seconds", type=float, default=10.0, help="default %(default)s")
    parser.add_argument(
        "--native",
        action="store_true",
        help="show C functions too, and threads that wait in them; else only who holds the interpreter",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="default PART.svg")
    return parser


if __name__ == "__main__":
    sys.exit(main())
