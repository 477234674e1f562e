"""Everything the native runtime needs beside its Python packages: jars, caches, the `flyway` command."""

from __future__ import annotations

import fcntl
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ecom_local import jars, java, kafka, leftovers
from ecom_local.errors import LocalError
from ecom_local.jars import Progress
from ecom_local.java import FLYWAY
from ecom_local.kafka import KAFKA
from ecom_local.paths import DOWNLOADS, JARS


def ensure(progress: Progress = print) -> None:
    """Fetch and prepare what is missing; costs a few milliseconds when nothing is."""
    if not _incomplete():
        java.write_flyway_command()
        return
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    with locked(DOWNLOADS / "downloads.lock"):
        _clean()
        jars.fetch(progress)
        _train(progress)
        java.write_flyway_command()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One at a time across processes; ends with the process, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _incomplete() -> bool:
    return bool(jars.missing()) or not (FLYWAY.cache.exists() and KAFKA.cache.exists())


def _clean() -> None:
    """What runs that were killed have left; we hold the lock, so nobody needs it any more."""
    for prefix in (jars.STAGING_PREFIX, java.TRAINING_PREFIX):
        for folder in JARS.glob(f"{prefix}*"):
            leftovers.end(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _train(progress: Progress) -> None:
    trainings: list[Callable[[], None]] = []
    if not FLYWAY.cache.exists():
        trainings.append(java.train_flyway)
    if not KAFKA.cache.exists():
        trainings.append(kafka.train)
    if trainings:
        progress("preparing Java's class caches (once)")
    with ThreadPoolExecutor() as pool:
        for job in [pool.submit(training) for training in trainings]:
            job.result()


def main() -> int:
    try:
        ensure()
    except LocalError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
