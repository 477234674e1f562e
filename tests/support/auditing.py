"""The auditor as its command, on a platform that runs natively; and in this process, wherever the databases are."""

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

from ecom_audit.databases import engines
from ecom_audit.invariants import Report
from ecom_audit.look import Patience, look
from ecom_local.instance import Instance
from ecom_local.parts import DATABASES
from ecom_local.paths import REPOSITORY


def audit(instance: Instance, *arguments: str) -> dict[str, Any]:
    """What scripts/audit says of the instance; its exit code goes with it."""
    result = subprocess.run(
        [REPOSITORY / "scripts" / "audit", "--json", *arguments],
        env=os.environ | {"ECOM_HOME": str(instance.layout.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["clean"] == (result.returncode == 0)
    return document


def look_at(postgres_url: Callable[[str, str], str], patience: Patience) -> Report:
    """What the auditor sees, as the services' own roles; `postgres_url` gives a database's address for a role."""
    opened = engines(
        {
            name: postgres_url(database.name, database.service_role)
            for name, database in DATABASES.items()
        }
    )
    try:
        return look(opened, patience)
    finally:
        for engine in opened.values():
            engine.dispose()
