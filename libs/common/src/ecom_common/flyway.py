"""Flyway, as a subprocess: migrate, info and validate one database as its owner.

    python -m ecom_common.flyway migrate|info|validate --migrations DIR

Reads MIGRATION_DATABASE_URL (the owner role) and FLYWAY_COMMAND (default `flyway`). The address, user and
password reach Flyway by its environment, never by its arguments, which everybody on the machine can read.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

import psycopg2
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from ecom_common.database import CONNECT_TIMEOUT_S, sqlalchemy_url
from ecom_common.errors import ConfigurationError, EcomError, MigrationError
from ecom_common.logs import describe
from ecom_common.settings import load

TIMEOUT_S: Final = 600
"""Longest that all migrations of one run may take; a backfill that needs more is a job of its own."""

CONNECT_RETRIES: Final = 60
"""Two seconds apart: a database that is starting, or being restored, is waited for."""

# What a server says to whom it will not let in, however often it is asked. libpq has no code for it.
_REFUSALS: Final = (
    "authentication failed",
    "no pg_hba.conf entry",
    "certificate verify failed",
    "does not match host name",
)

Verb = Literal["migrate", "info", "validate"]
log = logging.getLogger(__name__)


class FlywaySettings(BaseSettings):
    """What the wrapper reads from the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    migration_database_url: SecretStr
    flyway_command: str = Field(default="flyway", min_length=1)


@dataclass(frozen=True, slots=True)
class Migration:
    """One row of `info`: a version, what it does, and where it stands (Pending, Success, …)."""

    version: str
    description: str
    state: str


@dataclass(frozen=True, slots=True)
class Migrated:
    """What `migrate` did."""

    before: str | None
    after: str | None
    applied: int


class Flyway:
    """Flyway for one database and one folder of migrations."""

    def __init__(self, *, url: str, migrations: Path, command: str = "flyway") -> None:
        if not migrations.is_dir():
            raise ConfigurationError(f"there is no folder of migrations at {migrations}")
        self._environment = flyway_environment(url, migrations)
        self._url = url
        self._command = command

    def migrate(self) -> Migrated:
        """Apply what is pending; raises MigrationError that names the file and the SQL error."""
        document = self._run("migrate")
        return Migrated(
            before=document.get("initialSchemaVersion"),
            after=document.get("targetSchemaVersion") or document.get("initialSchemaVersion"),
            applied=int(document.get("migrationsExecuted") or 0),
        )

    def info(self) -> list[Migration]:
        """Every known migration, applied or not, in order."""
        return [
            Migration(m.get("version") or "", m.get("description") or "", m["state"])
            for m in self._run("info").get("migrations", [])
        ]

    def validate(self) -> None:
        """Raises MigrationError when applied migrations differ from the files, or some are pending."""
        document = self._run("validate")
        if not document.get("validationSuccessful", True):
            raise MigrationError(_validation_text(document))

    def _run(self, verb: Verb) -> dict[str, Any]:
        if (refusal := _refusal(self._url)) is not None:
            raise MigrationError(f"flyway {verb}: the database refuses the owner: {refusal}")
        try:
            done = subprocess.run(
                [self._command, "-outputType=json", verb],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise ConfigurationError(
                f"Flyway cannot be run as `{self._command}` ({error.strerror}): "
                "set FLYWAY_COMMAND to its path"
            ) from None
        except subprocess.TimeoutExpired:
            raise MigrationError(f"flyway {verb} took longer than {TIMEOUT_S} s") from None
        return _document(verb, done)


def _refusal(url: str) -> str | None:
    """Why the server will never let us in; None when it does, or cannot be asked.

    Asked before Flyway is, which would try a wrong password for two minutes, as it does with a server that
    is not there yet.
    """
    plain = sqlalchemy_url(url).set(drivername="postgresql")
    try:
        psycopg2.connect(
            plain.render_as_string(hide_password=False), connect_timeout=CONNECT_TIMEOUT_S
        ).close()
    except psycopg2.OperationalError as error:
        said = describe(error)
        return said if any(refusal in said for refusal in _REFUSALS) else None
    return None


def flyway_environment(url: str, migrations: Path) -> dict[str, str]:
    """Flyway's settings as environment variables, from a `postgresql://` URL, query options included."""
    parsed = sqlalchemy_url(url)
    if not (parsed.host and parsed.database and parsed.username):
        raise ConfigurationError("MIGRATION_DATABASE_URL needs a user, a host and a database")
    query = {k: v if isinstance(v, str) else v[-1] for k, v in parsed.query.items()}
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    jdbc = f"jdbc:postgresql://{host}:{parsed.port or 5432}/{quote(parsed.database, safe='')}"
    return {
        "FLYWAY_URL": jdbc + (f"?{urlencode(query)}" if query else ""),
        "FLYWAY_USER": parsed.username,
        "FLYWAY_PASSWORD": parsed.password or "",
        "FLYWAY_LOCATIONS": f"filesystem:{migrations.resolve()}",
        "FLYWAY_CONNECT_RETRIES": str(CONNECT_RETRIES),
        "FLYWAY_CONNECT_RETRIES_INTERVAL": "2",
        "FLYWAY_VALIDATE_ON_MIGRATE": "true",
        "FLYWAY_OUT_OF_ORDER": "false",
        "FLYWAY_CLEAN_DISABLED": "true",
        "FLYWAY_BASELINE_ON_MIGRATE": "false",
        # Or CREATE INDEX CONCURRENTLY would wait for Flyway's own transaction, for ever.
        "FLYWAY_POSTGRESQL_TRANSACTIONAL_LOCK": "false",
    }


def _document(verb: str, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON that Flyway printed; raises MigrationError with what it says went wrong."""
    document = _last_json_object(done.stdout)
    error = (document or {}).get("error")
    if error or done.returncode != 0 or document is None:
        raise MigrationError(f"flyway {verb}: {_error_text(error, done)}")
    return document


def _last_json_object(output: str) -> dict[str, Any] | None:
    # Warnings of the JVM can stand before the document.
    start = output.find("{")
    try:
        document = json.loads(output[start:]) if start >= 0 else None
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _error_text(error: Mapping[str, Any] | None, done: subprocess.CompletedProcess[str]) -> str:
    if not error:
        tail = (done.stderr.strip() or done.stdout.strip())[-2000:]
        return f"exit {done.returncode}: {tail or 'no output'}"
    parts = [
        error.get("errorCode"),
        error.get("sqlState") and f"SQLSTATE {error['sqlState']}",
        error.get("path") and Path(str(error["path"])).name,
        error.get("lineNumber") and f"line {error['lineNumber']}",
        str(error.get("message", "")).strip(),
    ]
    return " · ".join(str(part) for part in parts if part)


def _validation_text(document: Mapping[str, Any]) -> str:
    invalid = document.get("invalidMigrations") or []
    details = [
        f"{m.get('filepath') or m.get('version')}: {(m.get('errorDetails') or {}).get('errorMessage')}"
        for m in invalid
    ]
    return "; ".join(details) or str(document.get("errorDetails") or "validation failed")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 1 Flyway refused, 2 bad settings."""
    parser = argparse.ArgumentParser(prog="python -m ecom_common.flyway", description=__doc__)
    parser.add_argument("verb", choices=["migrate", "info", "validate"])
    parser.add_argument("--migrations", type=Path, default=Path("migrations"), metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        settings = load(FlywaySettings)
        flyway = Flyway(
            url=settings.migration_database_url.get_secret_value(),
            migrations=options.migrations,
            command=settings.flyway_command,
        )
        print(_perform(flyway, options.verb))  # noqa: T201 - the command's result
    except EcomError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1 if isinstance(error, MigrationError) else 2
    return 0


def _perform(flyway: Flyway, verb: Verb) -> str:
    if verb == "migrate":
        done = flyway.migrate()
        return f"{done.applied} applied; the schema is at {done.after or 'nothing'}"
    if verb == "validate":
        flyway.validate()
        return "valid"
    return "\n".join(f"{m.version:>8}  {m.state:<12} {m.description}" for m in flyway.info())


if __name__ == "__main__":
    sys.exit(main())
