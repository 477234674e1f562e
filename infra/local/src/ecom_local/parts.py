"""What the platform consists of: databases, parts, and the order in which they start.

This is the one table of them; everything else in the package is derived from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ecom_local.paths import REPOSITORY
from ecom_local.ports import Ports


@dataclass(frozen=True)
class Database:
    """One database with its two roles: the owner runs the migrations, the service role has no DDL."""

    name: str
    owner: str
    service_role: str
    migrations: Path

    @property
    def prefix(self) -> str:
        """Its key in DATABASES, and the start of its roles' names."""
        return self.owner.removesuffix("_owner")


def _database(name: str, prefix: str, migrations: str) -> Database:
    return Database(
        name, f"{prefix}_owner", f"{prefix}_service", REPOSITORY / "services" / migrations
    )


DATABASES = {
    "order": _database("orderdb", "order", "order_service/migrations"),
    "inventory": _database("inventorydb", "inventory", "inventory_service/migrations"),
    "payment": _database("paymentdb", "payment", "payment_service/migrations"),
    # The provider simulator's own book: part of the payment service, but never in its transactions.
    "provider": _database("providerdb", "provider", "payment_service/simulator_migrations"),
}


@dataclass(frozen=True)
class Part:
    """One supervised program.

    `stage` orders starting (lowest first) and stopping (lowest last); parts of one stage go together.
    `ports` are the fields of `Ports` it listens on, its main one first. `service` and `module` are set for
    our own processes.
    """

    name: str
    stage: int
    ports: tuple[str, ...]
    stop_signal: str = "TERM"
    service: str = ""
    module: str = ""

    def port_of(self, ports: Ports) -> int:
        number: int = getattr(ports, self.ports[0])
        return number


def _service_parts(service: str) -> list[Part]:
    package = f"{service}_service"
    return [
        Part(f"{service}-api", 1, (service,), service=service, module=f"{package}.app"),
        Part(
            f"{service}-worker",
            1,
            (f"{service}_worker",),
            service=service,
            module=f"{package}.worker",
        ),
    ]


SERVICES = ("order", "inventory", "payment")
PARTS = {
    part.name: part
    for part in [
        # SIGINT is Postgres' fast shutdown; SIGTERM would wait for every client to leave.
        Part("postgres", 0, ("postgres",), stop_signal="INT"),
        Part("kafka", 0, ("kafka", "kafka_controller")),
        *(part for service in SERVICES for part in _service_parts(service)),
    ]
}
STAGES = (0, 1)


def parts_of_stage(stage: int) -> list[Part]:
    return [part for part in PARTS.values() if part.stage == stage]
