"""Locking the Python requirements: lists on top of each other, compiled by uv with hashes.

    python -m ecom_local.lock [--check | --upgrade [PACKAGE...]]

Versions stay what they are unless a requirements.in rules them out or --upgrade is given; so `--check` says
whether the locks belong to the inputs, and does not change its mind when somebody else publishes something.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ecom_local.errors import LocalError
from ecom_local.paths import REPOSITORY

# Each has the very versions of the one before: the first three are installed into one environment, and
# images must run, and be built with, what was tested.
LISTS = (
    "base-images/python-flyway/requirements",
    "infra/local/requirements",
    "tests/requirements",
    "base-images/python-flyway/build-requirements",
)

_OPTIONS = (
    "--universal",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--python-version=3.11",
    "--quiet",
)


def compile_all(target: Path, upgrade: Sequence[str]) -> None:
    """Compile all lists into `target`, a folder laid out like the repository."""
    constraint: list[str | Path] = []
    for name in LISTS:
        output = target / f"{name}.txt"
        source = REPOSITORY / f"{name}.in"
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                "uv",
                "pip",
                "compile",
                *_OPTIONS,
                *constraint,
                *upgrade,
                source,
                "-o",
                output,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise LocalError(f"{name}.in cannot be locked:\n{result.stderr.strip()}")
        constraint = ["--constraints", output]


def stale() -> list[str]:
    """The lock files that would change."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        for name in LISTS:
            copy = target / f"{name}.txt"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / f"{name}.txt", copy)
        compile_all(target, [])
        return [
            f"{name}.txt"
            for name in LISTS
            if (target / f"{name}.txt").read_text() != (REPOSITORY / f"{name}.txt").read_text()
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/lock", description="Lock the Python requirements."
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--check", action="store_true", help="only verify that the locks belong to their inputs"
    )
    choice.add_argument(
        "--upgrade", nargs="*", metavar="PACKAGE", help="take newer versions of these, or of all"
    )
    options = parser.parse_args(arguments)
    try:
        if options.check:
            return _check()
        upgrade = [f"--upgrade-package={package}" for package in options.upgrade or []]
        compile_all(REPOSITORY, ["--upgrade"] if options.upgrade == [] else upgrade)
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _check() -> int:
    if names := stale():
        print(
            f"not up to date: {', '.join(names)}; run scripts/lock and commit what it changes",
            file=sys.stderr,
        )
        return 1
    print("the locked requirements are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
