"""Runs the checks: one line each, the findings of those that fail, and a summary."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.checks.contents import registry_addresses, secrets
from tests.checks.files import REPOSITORY
from tests.checks.markdown import broken_links

Check = Callable[[], list[str]]
"""Returns its findings, one a line; none is good."""


@dataclass(frozen=True, slots=True)
class Outcome:
    findings: list[str]
    seconds: float


def program(*command: str | Path) -> Check:
    """A check that is a program: its output, when it fails."""

    def check() -> list[str]:
        result = subprocess.run(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        output = result.stdout.strip().splitlines() or [f"exit code {result.returncode}"]
        return output if result.returncode != 0 else []

    return check


# Beside the interpreter: the environment need not be activated.
_BIN: Final = Path(sys.executable).parent

# The slow ones first: they run side by side, as many as there are processors.
CHECKS: Final[Mapping[str, Check]] = {
    "types": program(_BIN / "mypy"),
    "locks": program(REPOSITORY / "scripts" / "lock", "--check"),
    "format": program(_BIN / "ruff", "format", "--check", "--output-format=concise"),
    "lint": program(_BIN / "ruff", "check", "--quiet", "--output-format=concise"),
    # A script outside of every package; its cache would be fought over with that of the types.
    "bootstrap": program(_BIN / "mypy", "--cache-dir=/dev/null", "infra/local/bootstrap.py"),
    "layers": program(_BIN / "lint-imports", "--no-cache", "--no-logo"),
    "schemas": program(sys.executable, "-m", "ecom_contracts.schemas", "--check"),
    "links": broken_links,
    "registries": registry_addresses,
    "secrets": secrets,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/check", description=__doc__)
    parser.add_argument("check", nargs="*", help=f"only these of {', '.join(CHECKS)}")
    names = parser.parse_args(arguments).check or list(CHECKS)
    if unknown := [name for name in names if name not in CHECKS]:
        parser.error(f"no such check: {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    return 1 if run({name: CHECKS[name] for name in names}) else 0


def run(checks: Mapping[str, Check]) -> list[str]:
    """Run them all, side by side; the names of those that failed."""
    begin = time.monotonic()
    failed = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, outcome in zip(checks, pool.map(timed, checks.values()), strict=True):
            show(name, outcome)
            if outcome.findings:
                failed.append(name)
    seconds = time.monotonic() - begin
    if failed:
        names = ", ".join(failed)
        print(f"{len(failed)} of {len(checks)} checks failed after {seconds:.1f} s: {names}")
    else:
        print(f"{len(checks)} checks passed in {seconds:.1f} s")
    return failed


def timed(check: Check) -> Outcome:
    begin = time.monotonic()
    try:
        findings = check()
    except Exception as error:
        # A check that cannot run has not passed, and must not keep the others from running.
        findings = [f"{type(error).__name__}: {error}"]
    return Outcome(findings, time.monotonic() - begin)


def show(name: str, outcome: Outcome) -> None:
    word = "failed" if outcome.findings else "ok"
    print(f"{name:<12}{word:<8}{outcome.seconds:5.1f} s", flush=True)
    for line in outcome.findings:
        print(f"    {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
