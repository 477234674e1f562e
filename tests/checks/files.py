"""Which files belong to the project: those that git tracks, and new ones that it does not ignore.

A copy without git has no such list. Then whatever .gitignore does not name is taken to belong to it: its
patterns are plain names here, so that a simple reading of it is enough.
"""

import fnmatch
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def project_files(root: Path = REPOSITORY) -> list[Path]:
    """The files, relative to `root`, sorted."""
    names = _listed_by_git(root)
    found = _walked(root) if names is None else (Path(name) for name in names)
    return sorted(path for path in found if (root / path).is_file())


def texts(paths: list[Path], root: Path = REPOSITORY) -> Iterator[tuple[Path, str]]:
    """The path and the content of each file that is text."""
    for path in paths:
        try:
            yield path, (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def _listed_by_git(root: Path) -> list[str] | None:
    """None without git, outside of a clone, or in one that git does not trust because it is another user's."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        result = subprocess.run(command, cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    # A folder below some other repository that knows nothing of it lists nothing.
    return [name for name in result.stdout.decode().split("\0") if name] or None


def _walked(root: Path) -> Iterator[Path]:
    ignored = [".git", *_ignored(root / ".gitignore")]

    def is_ignored(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in ignored)

    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_ignored(name)]
        for name in names:
            if not is_ignored(name):
                yield Path(folder, name).relative_to(root)


def _ignored(gitignore: Path) -> list[str]:
    lines = gitignore.read_text().splitlines() if gitignore.exists() else []
    return [line.strip().strip("/") for line in lines if line.strip() and not line.startswith("#")]
