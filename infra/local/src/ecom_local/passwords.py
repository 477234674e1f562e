"""The passwords of the database roles: random, made at the first start, kept in the instance's secrets."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from ecom_local.parts import DATABASES
from ecom_local.paths import Layout

SUPERUSER = "postgres"


def load_or_create(layout: Layout) -> dict[str, str]:
    """Role name → password. Roles that came later get theirs now."""
    path = layout.secrets / "passwords.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    roles = [SUPERUSER]
    for database in DATABASES.values():
        roles += [database.owner, database.service_role]
    if missing := [role for role in roles if role not in known]:
        # Hexadecimal, so that URLs, SQL and configuration files take them as they are.
        known |= {role: secrets.token_hex(16) for role in missing}
        write_private(path, json.dumps(known, indent=2))
    return known


def write_private(path: Path, text: str) -> None:
    """Write whole or not at all, readable by the owner only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
