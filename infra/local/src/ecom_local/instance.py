"""One running platform: the interface for tests and for the command line.

with Instance(tmp_path, ports=Ports.free()) as instance:
    instance.start("postgres", "kafka")
    engine = create_engine(instance.postgres_url("orderdb", "order_service"))
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from ecom_local import downloads, environment, postgres, starting, stopping, tokens
from ecom_local.control import Supervisor
from ecom_local.parts import PARTS, Database
from ecom_local.passwords import SUPERUSER
from ecom_local.paths import FLYWAY_COMMAND, Layout
from ecom_local.platform import Command
from ecom_local.ports import HOST, Ports
from ecom_local.site import Say, Site, stored_ports


def _silent(_: str) -> None:
    pass


class Instance:
    """An instance is its home: two objects with one home are the same platform."""

    def __init__(
        self,
        home: Path,
        *,
        ports: Ports | None = None,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        say: Say = _silent,
    ) -> None:
        """Without `ports`: those it was last started with, else the usual ones.

        `environment` adds variables to services, keyed by service or part, as
        {"order": {"ORDER_DEADLINE_S": "5"}, "payment-worker": {...}}; for "kafka" and "postgres" they are
        settings of the server. Starting parts with another `environment` than they run with restarts them.
        """
        self.layout = Layout(Path(home).resolve())
        self.ports = ports or stored_ports(self.layout) or Ports()
        self._site = Site(self.layout, self.ports, environment or {}, say)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # ---- doing

    def start(self, *parts: str) -> None:
        """Start these parts (and make what is not there yet for them) and wait until they are ready.

        Parts that run already are left alone. Starting Postgres makes its databases and roles; starting
        a service runs the migrations that are new.
        """
        downloads.ensure(self._site.say)
        self.layout.create()
        with downloads.locked(self._lock):
            starting.start(self._site, [PARTS[name] for name in parts])

    def start_all(self) -> None:
        self.start(*PARTS)

    def start_databases(self) -> None:
        self.start("postgres")

    def restart(self, part: str) -> None:
        """Stop one part in its orderly way, start it, and wait until it is ready."""
        if self.is_running():
            stopping.stop_parts(self._site, [PARTS[part]])
        self.start(part)

    def stop(self, *parts: str, wipe: bool = False) -> None:
        """Stop these parts, or everything, supervisor included; then nothing of it is left running.

        `wipe` also deletes the data: databases, topics, keys and passwords.
        """
        if parts:
            stopping.stop_parts(self._site, [PARTS[name] for name in parts])
            return
        stopping.stop_all(self._site)
        if wipe:
            stopping.wipe(self._site)

    def stop_services(self) -> None:
        """Stop all our own processes; Postgres and Kafka go on."""
        if self.is_running():
            self.stop(*(part.name for part in PARTS.values() if part.service))

    def migrate(self) -> None:
        """Run the migrations of all databases; Postgres must run."""
        self._site.migrate()

    def provision(self, database: Database) -> None:
        """Make the database and its roles, where they are missing."""
        postgres.run_roles(database, self.ports.postgres, self._site.passwords)

    # ---- asking

    def is_running(self) -> bool:
        return self.supervisor.is_running()

    def pid(self, part: str) -> int | None:
        return self.supervisor.state(part).pid or None

    def problem(self, part: str) -> str | None:
        """Why a part is not ready, or None if it is."""
        return self._site.problem(PARTS[part])

    def url(self, part: str) -> str:
        """Where a service listens, as url("order") for its API or url("order-worker")."""
        known = PARTS[part] if part in PARTS else PARTS[f"{part}-api"]
        return f"http://{HOST}:{known.port_of(self.ports)}"

    def postgres_url(self, database: str, role: str) -> str:
        """As postgres_url("orderdb", "order_owner"); the superuser's role is "postgres"."""
        return environment.database_url(self.ports, self._site.passwords, database, role)

    def token(self, *, sub: str, scope: str, lifetime_s: int = 3600) -> str:
        return tokens.mint(sub=sub, scope=scope, lifetime_s=lifetime_s, home=self.layout.home)

    def postgres_command(self, database: Database, program: str, *arguments: str) -> Command:
        """A program of PostgreSQL as superuser."""
        address = [f"--host={HOST}", f"--port={self.ports.postgres}", f"--username={SUPERUSER}"]
        return Command(
            [str(postgres.binary(program)), *address, *arguments],
            {"PGPASSWORD": self._site.passwords[SUPERUSER]},
        )

    def service_command(self, service: str, *arguments: str) -> Command:
        """Python with the environment that the service's worker has."""
        own = environment.for_service(
            PARTS[f"{service}-worker"],
            layout=self.layout,
            ports=self.ports,
            passwords=self._site.passwords,
            extra=self._site.extra,
        )
        return Command([sys.executable, *arguments], own)

    @property
    def kafka_bootstrap(self) -> str:
        return f"{HOST}:{self.ports.kafka}"

    @property
    def flyway_command(self) -> str:
        return str(FLYWAY_COMMAND)

    @property
    def supervisor(self) -> Supervisor:
        return self._site.supervisor

    @property
    def _lock(self) -> Path:
        return self.layout.run / "lock"
