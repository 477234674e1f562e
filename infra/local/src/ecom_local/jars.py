"""Java artifacts: the pin files, and fetching exactly what they pin.

A pin file names its roots in comments (`# root: group:artifact:version`, with `alone` behind it for a
root whose own dependencies are not wanted) and below them every jar of their closure as
`group:artifact:version[:classifier] sha256`. Resolving dependencies happens only in `pin`, when a version
changes; installing takes the pinned jars and nothing else.

Artifacts come through jgo, from the repositories of the user's own jgo configuration or, without one,
from jgo's default. A jar that the user's Maven repository folder already holds is taken from there.

    python -m ecom_local.jars fetch [kafka|flyway]    download what is missing, of all or of one
    python -m ecom_local.jars pin                     resolve the roots again and rewrite the pin files
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecom_local.errors import DownloadError
from ecom_local.paths import JARS, REPOSITORY

PIN_FILES = {
    "kafka": REPOSITORY / "infra" / "kafka" / "kafka.jars",
    "flyway": REPOSITORY / "base-images" / "python-flyway" / "flyway.jars",
}

STAGING_PREFIX = ".partial-"

_PARALLEL_DOWNLOADS = 8
_TRIES = 4
_TIMEOUT_S = 30
_TELL_EVERY_S = 2

Progress = Callable[[str], None]


@dataclass(frozen=True, order=True)
class Coordinate:
    group: str
    artifact: str
    version: str
    classifier: str = ""

    @classmethod
    def parse(cls, text: str) -> Coordinate:
        fields = text.split(":")
        if not 3 <= len(fields) <= 4 or not all(fields):
            raise ValueError(f"not group:artifact:version[:classifier]: {text!r}")
        return cls(*fields)

    @property
    def filename(self) -> str:
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{suffix}.jar"

    def __str__(self) -> str:
        fields = [self.group, self.artifact, self.version, self.classifier]
        return ":".join(field for field in fields if field)


@dataclass(frozen=True)
class Pin:
    coordinate: Coordinate
    sha256: str


@dataclass(frozen=True)
class Root:
    coordinate: Coordinate
    alone: bool


def read_pins(name: str) -> list[Pin]:
    """The pins of "kafka" or "flyway", in the file's (sorted) order."""
    pins = []
    for line in PIN_FILES[name].read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            coordinate, sha256 = line.split()
            pins.append(Pin(Coordinate.parse(coordinate), sha256))
    return pins


def read_roots(name: str) -> list[Root]:
    roots = []
    for line in PIN_FILES[name].read_text().splitlines():
        if line.startswith("# root:"):
            coordinate, *option = line.removeprefix("# root:").split()
            roots.append(Root(Coordinate.parse(coordinate), alone=option == ["alone"]))
    return roots


def class_path(name: str) -> list[Path]:
    """The jars in the pins' order: a class-data archive is valid for exactly one class path."""
    return [_place(name, pin) for pin in read_pins(name)]


def missing(names: Iterable[str] | None = None) -> list[tuple[str, Pin]]:
    """The pinned jars that are not there, of all programs or of `names`."""
    return [
        (name, pin)
        for name in names or PIN_FILES
        for pin in read_pins(name)
        if not _place(name, pin).exists()
    ]


def fetch(progress: Progress = print, names: Iterable[str] | None = None) -> None:
    """Download every pinned jar, of all programs or of `names`, that is not there yet.

    A jar gets its name only after its checksum was verified, so one that is there is whole; running
    again after an interruption fetches the rest.
    """
    wanted = missing(names)
    if not wanted:
        return
    JARS.mkdir(parents=True, exist_ok=True)
    done, size = 0, 0
    begin = told = time.monotonic()
    programs = " and ".join(sorted({name.title() for name, _ in wanted}))
    progress(f"downloading {programs}: {len(wanted)} jars")
    with (
        tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=JARS) as staging,
        ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool,
    ):
        jobs = [pool.submit(_fetch_one, name, pin, Path(staging)) for name, pin in wanted]
        try:
            for job in as_completed(jobs):
                path = job.result()
                done, size = done + 1, size + path.stat().st_size
                if time.monotonic() - told > _TELL_EVERY_S:
                    told = time.monotonic()
                    progress(f"jars {done}/{len(jobs)}, {size / 1e6:.0f} MB: {path.name}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    progress(f"jars: {size / 1e6:.0f} MB in {time.monotonic() - begin:.1f} s")


def _place(name: str, pin: Pin) -> Path:
    return JARS / name / pin.coordinate.filename


def _fetch_one(name: str, pin: Pin, staging: Path) -> Path:
    source = _held_by_maven(pin) or _download(pin, staging)
    place = _place(name, pin)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = staging / f"{name}-{pin.coordinate.filename}"
    shutil.copyfile(source, temporary)
    return temporary.replace(place)


def _held_by_maven(pin: Pin) -> Path | None:
    """The user's own copy, if it is the very file that was pinned."""
    path = _artifact(pin.coordinate, repo_cache=None).cached_path
    if path is not None and path.is_file() and _sha256(path) == pin.sha256:
        return Path(path)
    return None


def _download(pin: Pin, staging: Path) -> Path:
    """Into a repository folder of its own: jgo writes straight to the final name there."""
    problem: Exception | None = None
    for attempt in range(_TRIES):
        folder = staging / f"{hash(pin.coordinate):x}-{attempt}"
        try:
            path = Path(_artifact(pin.coordinate, repo_cache=folder).resolve())
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
            problem = error
            time.sleep(2**attempt / 2)
            continue
        found = _sha256(path)
        if found == pin.sha256:
            return path
        raise DownloadError(
            f"{pin.coordinate}: the file from the Maven repository has SHA-256 {found},"
            f" but {pin.sha256} is pinned.\n"
            "It was not installed. Try again; if it stays so, ask who runs the repository (or its mirror)"
            " what happened to the artifact before changing the pin."
        )
    raise DownloadError(
        f"{pin.coordinate}: could not be downloaded in {_TRIES} tries: {problem}\n"
        "Check the network, or name a reachable Maven repository in jgo's configuration file"
        " (~/.config/jgo.conf, section [repositories]); then run this again, it goes on where it stopped."
    )


def _artifact(coordinate: Coordinate, repo_cache: Path | None) -> Any:
    project = _maven(repo_cache).project(coordinate.group, coordinate.artifact)
    return project.at_version(coordinate.version).artifact(classifier=coordinate.classifier)


def _maven(repo_cache: Path | None) -> Any:
    """jgo's view of Maven with the user's repositories (and so mirrors), or jgo's default."""
    # Imported late: `up` calls `missing()` each time and needs none of it.
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    logging.getLogger("jgo").setLevel(logging.ERROR)
    settings = GlobalSettings.load()
    return MavenContext(
        repo_cache=repo_cache or settings.repo_cache,
        remote_repos=settings.repositories or None,
        timeout=_TIMEOUT_S,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(roots: Iterable[Root]) -> list[Coordinate]:
    """The closure of the roots, sorted."""
    from jgo.maven import Dependency

    with tempfile.TemporaryDirectory() as folder:
        maven = _maven(Path(folder))
        followed = [
            Dependency(_project_artifact(maven, root.coordinate), raw=True)
            for root in roots
            if not root.alone
        ]
        inputs, transitive = maven.resolver.resolve(followed)
    found = {
        Coordinate(d.groupId, d.artifactId, d.version, d.classifier) for d in inputs + transitive
    }
    return sorted(found | {root.coordinate for root in roots})


def _project_artifact(maven: Any, coordinate: Coordinate) -> Any:
    project = maven.project(coordinate.group, coordinate.artifact)
    return project.at_version(coordinate.version).artifact(classifier=coordinate.classifier)


def pin(name: str) -> None:
    """Rewrite one pin file from its roots; its comments stay."""
    path = PIN_FILES[name]
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    coordinates = resolve(read_roots(name))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
        files = pool.map(lambda c: _artifact(c, Path(folder) / str(c)).resolve(), coordinates)
        lines = [f"{c} {_sha256(file)}" for c, file in zip(coordinates, files, strict=True)]
    path.write_text("\n".join(comments + lines) + "\n")
    print(f"{path.relative_to(REPOSITORY)}: {len(lines)} jars")


def main(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["fetch", *names] if set(names) <= set(PIN_FILES):
            try:
                fetch(names=names)
            except DownloadError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
        case ["pin"]:
            for name in PIN_FILES:
                pin(name)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
