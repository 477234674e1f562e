"""Dumps of the databases, and setting them back: `scripts/backup` and `scripts/restore`.

A dump is pg_dump's custom format: one database at one moment. The databases are dumped side by side, but not
at the same moment: a restore always ends with `reconcile`, which makes them agree again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ecom_local import reconcile, sql
from ecom_local.errors import LocalError
from ecom_local.parts import DATABASES, Database
from ecom_local.platform import Platform

Say = Callable[[str], None]

_NEW, _OLD = "_restored", "_replaced"


def back_up(platform: Platform, folder: Path, *, say: Say) -> None:
    """Dump every database into the folder, which must be new or empty."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise LocalError(f"{folder} is not empty; a backup needs a folder of its own.")
    with ThreadPoolExecutor(len(DATABASES)) as pool:
        sizes = pool.map(lambda database: _dump(platform, database, folder), DATABASES.values())
        for database, size in zip(DATABASES.values(), sizes, strict=True):
            say(f"{dump_file(folder, database)}  {size / 1024:,.0f} KiB")


def restore(platform: Platform, folder: Path, names: Sequence[str], *, say: Say) -> None:
    """Set the named databases (all, without names) back to their dumps, reconcile, and start everything.

    The dumps are first read into databases beside the present ones; only when all are whole do they take
    their places, and when something fails even then, the present ones take theirs again: a restore that
    fails has changed nothing.
    """
    databases = [DATABASES[name] for name in names or DATABASES]
    for database in databases:
        if not dump_file(folder, database).is_file():
            raise LocalError(
                f"There is no {dump_file(folder, database)}; scripts/backup writes it."
            )
    platform.start_databases()
    try:
        for database in databases:
            say(f"reading {dump_file(folder, database)}")
            _read(platform, database, folder)
        platform.stop_services()
        _replace(platform, databases, say=say)
    finally:
        for database in databases:
            _drop(platform, database, _NEW)
    platform.start_all()
    # Until now they were there to go back to.
    for database in databases:
        _drop(platform, database, _OLD)


def _replace(platform: Platform, databases: Sequence[Database], *, say: Say) -> None:
    """Put the read dumps in place and make them ready; back to the present databases when that fails."""
    replaced: list[Database] = []
    try:
        for database in databases:
            _drop(platform, database, _OLD)
            sql.run(platform, database, swap_statements(database, out=_OLD, back=_NEW))
            replaced.append(database)
        say("set back; now the migrations since then, and the other services' facts")
        platform.migrate()
        reconcile.prepare(platform, say=say)
    except BaseException:
        say("it failed: the databases of before take their places again")
        for database in replaced:
            sql.run(platform, database, swap_statements(database, out=_NEW, back=_OLD))
        for database in databases:
            sql.run(platform, database, [_allow_connections(database, True)])
        platform.start_all()
        raise


def dump_file(folder: Path, database: Database) -> Path:
    return folder / f"{database.name}.dump"


def swap_statements(database: Database, *, out: str, back: str) -> list[str]:
    """The database with the suffix `back` takes the place of the present one, which gets the suffix `out`.

    Both renames are one transaction, and nobody comes in between its being emptied and its being renamed.
    """
    name = database.name
    swap = (
        f"ALTER DATABASE {name} RENAME TO {name}{out}; ALTER DATABASE {name}{back} RENAME TO {name}"
    )
    return [
        _allow_connections(database, False),
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        f"BEGIN; {swap}; COMMIT",
        _allow_connections(database, True),
    ]


def _allow_connections(database: Database, allowed: bool) -> str:
    return f"ALTER DATABASE {database.name} WITH ALLOW_CONNECTIONS {str(allowed).lower()}"


def _drop(platform: Platform, database: Database, suffix: str) -> None:
    sql.run(platform, database, [f"DROP DATABASE IF EXISTS {database.name}{suffix} WITH (FORCE)"])


def _dump(platform: Platform, database: Database, folder: Path) -> int:
    path = dump_file(folder, database)
    partial = path.with_suffix(".partial")
    command = platform.postgres_command(
        database, "pg_dump", "--format=custom", f"--dbname={database.name}"
    )
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            command.run(f"{database.name} could not be dumped", target=file)
    except LocalError:
        partial.unlink()
        raise
    partial.rename(path)
    return path.stat().st_size


def _read(platform: Platform, database: Database, folder: Path) -> None:
    """Into a database of its own beside the present one."""
    new = replace(database, name=database.name + _NEW)
    _drop(platform, database, _NEW)
    platform.provision(new)
    command = platform.postgres_command(
        database, "pg_restore", "--exit-on-error", "--single-transaction", f"--dbname={new.name}"
    )
    with dump_file(folder, database).open("rb") as file:
        command.run(f"{dump_file(folder, database)} could not be read", source=file)
