"""Running the services' migrations against an instance's databases, and starting a new one."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ecom_local import environment
from ecom_local.errors import LocalError, PartError
from ecom_local.parts import DATABASES, Database
from ecom_local.paths import REPOSITORY, Layout
from ecom_local.ports import Ports

_NEW = """\
-- {title}.
-- One change, and never edited once merged. DDL that waits for a lock makes all traffic wait behind it:
SET lock_timeout = '2s';

"""


def migrate(
    layout: Layout,
    ports: Ports,
    passwords: Mapping[str, str],
    *,
    only_changed: bool = False,
    new_databases: tuple[str, ...] | list[str] = (),
    progress: Callable[[str], None] = print,
) -> None:
    """Run the migrations of all databases, side by side.

    `only_changed` leaves out a database whose migration files are the ones that were last applied here:
    asking Flyway costs a second of CPU each, and services check the schema's version themselves.
    """
    stamp = layout.postgres / "migrated.json"
    applied: dict[str, str] = json.loads(stamp.read_text()) if stamp.exists() else {}
    wanted = {database: _key(database) for database in DATABASES.values() if _files(database)}
    due = [
        database
        for database, key in wanted.items()
        if not only_changed or database.name in new_databases or applied.get(database.name) != key
    ]
    if not due:
        return
    with ThreadPoolExecutor(len(due)) as pool:
        results = list(pool.map(lambda database: _run(database, ports, passwords), due))
    for database, text in zip(due, results, strict=True):
        progress(f"migrated {database.name}: {text}")
        applied[database.name] = wanted[database]
    stamp.write_text(json.dumps(applied, indent=2))


def new_migration(service: str, name: str) -> Path:
    """An empty file with the next free version."""
    database = DATABASES.get(service.removesuffix("_service"))
    if database is None:
        raise LocalError(f"There is no service {service!r}; choose one of {', '.join(DATABASES)}.")
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not slug:
        raise LocalError("Give the migration a name of letters and digits, as add_delivery_note.")
    versions = [_version(path) for path in _files(database)]
    path = database.migrations / f"V{max(versions, default=0) + 1}__{slug}.sql"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_NEW.format(title=slug.replace("_", " ").capitalize()))
    return path


def _files(database: Database) -> list[Path]:
    return sorted(database.migrations.glob("*.sql"))


def _version(path: Path) -> int:
    match = re.match(r"V(\d+)__", path.name)
    return int(match.group(1)) if match else 0


def _key(database: Database) -> str:
    digest = hashlib.sha256()
    for path in sorted(database.migrations.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _run(database: Database, ports: Ports, passwords: Mapping[str, str]) -> str:
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "ecom_common.flyway",
            "migrate",
            "--migrations",
            database.migrations,
        ],
        env=environment.for_migration(database, ports=ports, passwords=passwords),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        folder = database.migrations.relative_to(REPOSITORY)
        raise PartError(
            f"The migrations of {database.name} ({folder}) failed:\n"
            f"{(result.stdout + result.stderr).strip()}\n"
            "Correct the migration that failed (PostgreSQL has rolled it back) and run `scripts/migrate`."
        )
    return result.stdout.strip().splitlines()[-1] if result.stdout.strip() else "done"
