"""One instance's place, ports and settings: what starting, stopping and asking about it have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ecom_local import (
    control,
    environment,
    kafka,
    leftovers,
    migrations,
    passwords,
    postgres,
    readiness,
)
from ecom_local.control import Program, Supervisor
from ecom_local.parts import PARTS, Part
from ecom_local.paths import Layout
from ecom_local.ports import Ports

Say = Callable[[str], None]


@dataclass(frozen=True)
class Site:
    layout: Layout
    ports: Ports
    extra: Mapping[str, Mapping[str, str]]
    say: Say

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.layout)

    @property
    def passwords(self) -> dict[str, str]:
        return passwords.load_or_create(self.layout)

    @property
    def marker(self) -> dict[str, str]:
        """What every process of the instance carries in its environment."""
        return {leftovers.MARKER: str(self.layout.home)}

    def running(self) -> set[str]:
        """The names of the parts that have a process."""
        if not self.supervisor.is_running():
            return set()
        return {name for name, state in self.supervisor.states().items() if state.pid}

    def problem(self, part: Part) -> str | None:
        return readiness.problem(part, self.ports, self.passwords)

    def migrate(
        self, *, only_changed: bool = False, new_databases: list[str] | None = None
    ) -> None:
        migrations.migrate(
            self.layout,
            self.ports,
            self.passwords,
            only_changed=only_changed,
            new_databases=new_databases or [],
            progress=self.say,
        )

    def configuration(self) -> str:
        """Supervisor's configuration for all parts."""
        programs = [self._program(part) for part in PARTS.values()]
        return control.configuration(self.layout, programs, self.marker)

    def store_ports(self) -> None:
        (self.layout.run / _PORTS_FILE).write_text(json.dumps(self.ports.to_dict()))

    def _program(self, part: Part) -> Program:
        own: dict[str, str] = {}
        user = None
        settings = self.extra.get(part.name, {})
        if part.name == "postgres":
            command, user = postgres.command(self.layout, settings), postgres.account()
        elif part.name == "kafka":
            command, own = kafka.command(self.layout, settings), kafka.ENVIRONMENT
        else:
            command = [sys.executable, "-m", part.module]
            own = environment.for_service(
                part,
                layout=self.layout,
                ports=self.ports,
                passwords=self.passwords,
                extra=self.extra,
            )
        marked = {**own, leftovers.PART: part.name}
        return Program(part.name, command, marked, part.stop_signal, user)


_PORTS_FILE = "ports.json"


def stored_ports(layout: Layout) -> Ports | None:
    """The ports an instance was last started with."""
    try:
        return Ports(**json.loads((layout.run / _PORTS_FILE).read_text()))
    except FileNotFoundError:
        return None
