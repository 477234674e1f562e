"""scripts/audit: runs the auditor on the platform that runs, natively or in containers.

Databases that the environment names (AUDIT_ORDER_DATABASE_URL, …) are audited instead, wherever they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ecom_local.containers import Containers
from ecom_local.errors import LocalError
from ecom_local.instance import Instance
from ecom_local.parts import DATABASES
from ecom_local.platform import Command
from ecom_local.running import platform

COULD_NOT_LOOK = 2
_AUDITOR = [sys.executable, "-m", "ecom_audit", "--called", "scripts/audit"]
_VARIABLES = {f"AUDIT_{name.upper()}_DATABASE_URL": part for name, part in DATABASES.items()}


def main(arguments: Sequence[str]) -> int:
    try:
        command = _command(arguments)
    except LocalError as error:
        print(f"could not look: {error}", file=sys.stderr)
        return COULD_NOT_LOOK
    return _become(command)


def _become(command: Command) -> NoReturn:
    """Be replaced by it, so that the signals that end a long watch reach the auditor itself."""
    program, arguments = command.arguments[0], list(command.arguments)
    os.execvpe(program, arguments, command.whole_environment)  # noqa: S606 - of our own making


def _command(arguments: Sequence[str]) -> Command:
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if not missing or {"-h", "--help"} & set(arguments):
        return Command([*_AUDITOR, *arguments])
    found = platform()
    if isinstance(found, Containers):
        return found.auditor_command(*arguments)
    return Command([*_AUDITOR, *arguments], _urls(found, missing))


def _urls(instance: Instance, missing: Sequence[str]) -> dict[str, str]:
    if not instance.is_running():
        raise LocalError(
            f"nothing runs here; start it with scripts/up, or set {', '.join(missing)}"
        )
    databases = {name: _VARIABLES[name] for name in missing}
    return {
        name: instance.postgres_url(database.name, database.service_role)
        for name, database in databases.items()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
