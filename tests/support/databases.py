"""A fresh, migrated database for each test that wants one, in some tens of milliseconds."""

import itertools
from dataclasses import dataclass, field

import psycopg2
from ecom_common.database import Sessions, make_engine, make_sessions
from ecom_local.instance import Instance
from sqlalchemy import Engine

OWNERS = {
    "orderdb": "order_owner",
    "inventorydb": "inventory_owner",
    "paymentdb": "payment_owner",
    "providerdb": "provider_owner",
}


@dataclass
class Databases:
    """Copies the migrated databases; the originals stay untouched for the running services."""

    instance: Instance
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @classmethod
    def from_migrations(cls, instance: Instance) -> "Databases":
        instance.migrate()
        databases = cls(instance)
        for name, owner in OWNERS.items():
            databases._execute(f"CREATE DATABASE {name}_template TEMPLATE {name} OWNER {owner}")
        return databases

    def fresh(self, name: str) -> str:
        """The name of a new copy of the migrated database `name`."""
        copy = f"{name}_{next(self._numbers)}"
        owner = OWNERS[name]
        self._execute(f"CREATE DATABASE {copy} TEMPLATE {name}_template OWNER {owner}")
        return copy

    def url(self, database: str, role: str) -> str:
        return self.instance.postgres_url(database, role)

    def engine(self, database: str, role: str, *, pool_size: int = 8) -> Engine:
        return make_engine(self.url(database, role), application_name="tests", pool_size=pool_size)

    def sessions(self, database: str, role: str) -> Sessions:
        return make_sessions(self.engine(database, role))

    def _execute(self, statement: str) -> None:
        connection = psycopg2.connect(self.url("postgres", "postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()
