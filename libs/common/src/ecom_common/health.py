"""Live and ready, for load balancers and supervisors.

Live: the process is worth keeping. Ready: it can do its work now: the database answers and has the schema
that this code needs. An api is ready without Kafka, because orders are accepted while the broker is away.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import text

from ecom_common.database import Sessions
from ecom_common.logs import describe

Check = Callable[[], None]
"""Raises when the part it looks at cannot be used; the error's first line is shown."""

_SCHEMA = text(
    "SELECT version FROM flyway_schema_history WHERE success AND version IS NOT NULL "
    "ORDER BY installed_rank DESC LIMIT 1"
)
_NUMBERS: Final = re.compile(r"\d+")


class SchemaTooOld(Exception):
    """The migrations this code needs have not been run."""


def check_database(sessions: Sessions, *, schema_version: str) -> Check:
    """A check that the database answers and is migrated to at least `schema_version`."""

    def check() -> None:
        with sessions() as session:
            found = session.scalar(_SCHEMA)
        if found is None or _numbers(found) < _numbers(schema_version):
            raise SchemaTooOld(
                f"the schema is at {found or 'nothing'}, this code needs {schema_version}: run the migrations"
            )

    return check


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _NUMBERS.findall(version))


def run_checks(checks: Mapping[str, Check]) -> tuple[bool, dict[str, str]]:
    """Whether all hold, and `ok` or the reason for each."""
    results = {}
    for name, check in checks.items():
        try:
            check()
            results[name] = "ok"
        except Exception as error:
            results[name] = describe(error)
    return all(result == "ok" for result in results.values()), results
