"""The environment each of our own processes gets: the same names as in containers, and nothing inherited."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ecom_local.parts import DATABASES, Database, Part
from ecom_local.paths import FLYWAY_COMMAND, Layout
from ecom_local.ports import HOST, Ports
from ecom_local.tokens import AUDIENCE, ISSUER, jwks_path

# What programs need of the caller's environment; anything else would make two starts differ.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "LD_LIBRARY_PATH")


def inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in _INHERITED if os.environ.get(name)}


def database_url(ports: Ports, passwords: Mapping[str, str], database: str, role: str) -> str:
    return f"postgresql://{role}:{passwords[role]}@{HOST}:{ports.postgres}/{database}"


def for_service(
    part: Part,
    *,
    layout: Layout,
    ports: Ports,
    passwords: Mapping[str, str],
    extra: Mapping[str, Mapping[str, str]],
) -> dict[str, str]:
    """`extra` is keyed by service ("order": both its processes) or by part ("order-worker")."""
    own = DATABASES[part.service]
    environment = {
        "ENVIRONMENT": "development",
        "LOG_LEVEL": os.environ.get("LOG_LEVEL", "INFO"),
        "DATABASE_URL": database_url(ports, passwords, own.name, own.service_role),
        "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{ports.kafka}",
        "JWT_JWKS": str(jwks_path(layout)),
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": AUDIENCE,
        "FLYWAY_COMMAND": str(FLYWAY_COMMAND),
        "HTTP_HOST": HOST,
        "HTTP_PORT": str(part.port_of(ports)),
        "PYTHONUNBUFFERED": "1",
    }
    if part.service == "payment":
        book = DATABASES["provider"]
        environment["PROVIDER_DATABASE_URL"] = database_url(
            ports, passwords, book.name, book.service_role
        )
    return environment | dict(extra.get(part.service, {})) | dict(extra.get(part.name, {}))


def for_migration(
    database: Database, *, ports: Ports, passwords: Mapping[str, str]
) -> dict[str, str]:
    return inherited() | {
        "MIGRATION_DATABASE_URL": database_url(ports, passwords, database.name, database.owner),
        "FLYWAY_COMMAND": str(FLYWAY_COMMAND),
    }
