"""SQL on a service's database as superuser, through psql: natively and in containers alike."""

from __future__ import annotations

from collections.abc import Sequence

from ecom_local.parts import Database
from ecom_local.platform import Platform


def rows(platform: Platform, database: Database, query: str) -> list[list[str]]:
    """The query's rows, as text; no value may have a tab or a line break."""
    return [line.split("\t") for line in run(platform, database, [query]).splitlines()]


def run(
    platform: Platform, database: Database, statements: Sequence[str], *, connect_to: str = ""
) -> str:
    """Run the statements as superuser in the database's cluster; what they print."""
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--field-separator=\t"]
    command = platform.postgres_command(
        database,
        "psql",
        *options,
        "--set=ON_ERROR_STOP=1",
        f"--dbname={connect_to or database.name}",
        *(f"--command={statement}" for statement in statements),
    )
    return command.run(f"{database.name}: psql failed")
