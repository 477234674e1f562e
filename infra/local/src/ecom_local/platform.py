"""A running platform, natively or in containers: what the demo, and backup and restore, need of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from ecom_local.errors import LocalError
from ecom_local.parts import Database
from ecom_local.paths import REPOSITORY


@dataclass(frozen=True)
class Command:
    """A program to run: its arguments, and what its environment must have beside the caller's."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def run(
        self,
        failure: str,
        *,
        text: str = "",
        source: IO[bytes] | None = None,
        target: IO[bytes] | int = subprocess.PIPE,
    ) -> str:
        """What it prints, unless that goes to `target`; reads `text` or `source`.

        LocalError, beginning with `failure`, when it fails.
        """
        what: dict[str, Any] = {"stdin": source} if source else {"input": text.encode()}
        result = subprocess.run(
            self.arguments,
            env=self.whole_environment,
            cwd=REPOSITORY,
            stdout=target,
            stderr=subprocess.PIPE,
            check=False,
            **what,
        )
        if result.returncode != 0:
            said = (result.stdout or b"") + result.stderr
            raise LocalError(f"{failure}:\n{said.decode(errors='replace').strip()}")
        return (result.stdout or b"").decode(errors="replace")


class Shopfront(Protocol):
    """Where the public APIs are, and who may use them."""

    def url(self, service: str) -> str:
        """Of the service's API, as http://127.0.0.1:8001 for "order"."""

    def token(self, *, sub: str, scope: str, lifetime_s: int = 3600) -> str: ...


class Platform(Shopfront, Protocol):
    """The same, and what lies behind it."""

    def start_all(self) -> None: ...

    def start_databases(self) -> None: ...

    def stop_services(self) -> None:
        """All our own processes; databases and broker go on."""

    def migrate(self) -> None: ...

    def postgres_command(self, database: Database, program: str, *arguments: str) -> Command:
        """A program of PostgreSQL, as psql or pg_dump, as superuser of the database's cluster."""

    def provision(self, database: Database) -> None:
        """Make the database and its roles, where they are missing."""

    def service_command(self, service: str, *arguments: str) -> Command:
        """Python with these arguments, and with the settings of the service."""
