"""Folders for platforms of tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def a_home() -> Iterator[Path]:
    """A folder for an instance, which is gone afterwards.

    Not below pytest's own folder: every run that starts closes that to all but its owner, and Postgres,
    started by root, runs as a user of its own.
    """
    with TemporaryDirectory(prefix="ecom-test-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)
        yield home
