"""SQL on the services' databases, natively and in containers alike: questions, and statements as superuser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ecom_local.parts import Database
from ecom_local.platform import Platform


@dataclass(frozen=True)
class Question:
    """A query, and the variable of the service that says of which database."""

    sql: str
    url: str = "DATABASE_URL"


def ask(platform: Platform, service: str, *questions: Question) -> list[list[list[str]]]:
    """The rows of each query, as text. The service's own code reads them: it reaches its database wherever
    that is, on a server of one's own too."""
    command = platform.service_command(service, "-m", "ecom_common.query")
    text = json.dumps([asdict(question) for question in questions])
    answers: list[list[list[str]]] = json.loads(
        command.run(f"the {service} service's database could not be read", text=text)
    )
    return answers


def run(
    platform: Platform,
    database: Database,
    statements: Sequence[str],
    *,
    connect_to: str = "postgres",
) -> str:
    """Run the statements as superuser in the cluster of the database; what they print, columns parted by tabs.

    Not in the database itself unless that is wanted: nobody may be connected to what is renamed or dropped.
    """
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--field-separator=\t"]
    command = platform.postgres_command(
        database,
        "psql",
        *options,
        "--set=ON_ERROR_STOP=1",
        f"--dbname={connect_to}",
        *(f"--command={statement}" for statement in statements),
    )
    return command.run(f"{database.name}: psql failed")
