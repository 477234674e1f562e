"""What ARCHITECTURE.md says no code does, as far as the text of the code shows it.

Imports are the business of import-linter: see `layers` in pyproject.toml.
"""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.checks.files import REPOSITORY, project_files

SERVICES = ("order_service", "inventory_service", "payment_service")


def _ours(suffix: str) -> dict[str, str]:
    """The texts of the libraries and the services, by path."""
    return {
        str(path): (REPOSITORY / path).read_text()
        for path in project_files()
        if path.suffix == suffix and path.parts[0] in ("libs", "services")
    }


def _users(pattern: str) -> set[str]:
    """Names of the modules in which the pattern occurs."""
    return {Path(path).name for path, text in _ours(".py").items() if re.search(pattern, text)}


def _migrations() -> dict[str, str]:
    return {path: text for path, text in _ours(".sql").items() if "migrations" in path}


def test_only_the_relay_produces() -> None:
    assert _users(r"\.produce\(") == {"relay.py"}


def test_only_the_chassis_and_the_jobs_at_the_provider_open_transactions() -> None:
    # The simulator stands for somebody else's system: it has a book and transactions of its own.
    ours = {name for name in _users(r"\.begin\(") if not name.startswith("simulator")}
    # The outbox has one of its own only where it is left out: that is what is wrong with it then.
    assert ours == {"batch.py", "worker.py", "jobs.py", "outbox.py"}
    assert 'is_off("outbox")' in _ours(".py")["libs/common/src/ecom_common/outbox.py"]
    assert _users(r"\bsession\.(commit|rollback)\(") == set()


def test_nobody_notifies_and_no_relay_skips_what_is_locked() -> None:
    assert _users(r"(?i)\"\s*(NOTIFY|LISTEN)\s|pg_notify") == set()
    assert "skip_locked" not in _ours(".py")["libs/common/src/ecom_common/relay.py"].lower()


def test_no_wall_clock_of_a_process_decides_anything_stored() -> None:
    assert _users(r"datetime\.(now|utcnow)\(|func\.(now|current_timestamp)\(") == set()


@pytest.mark.parametrize("path", sorted(_migrations()))
def test_a_migration_tells_the_time_by_one_function(path: str) -> None:
    text = re.sub(r"CREATE FUNCTION db_now.*?\$\$;", "", _migrations()[path], flags=re.DOTALL)
    assert not re.search(r"(?i)(?<!db_)\bnow\(\)|_timestamp\(\)|\bcurrent_(time|date)", text)


@pytest.mark.parametrize("path", sorted(_migrations()))
def test_a_migration_gives_up_on_a_lock_before_traffic_queues_behind_it(path: str) -> None:
    statements = [line for line in _migrations()[path].splitlines() if line and line[:2] != "--"]
    assert re.fullmatch(r"SET lock_timeout = '\d+m?s';", statements[0])


@pytest.mark.parametrize("path", sorted(_migrations()))
def test_money_is_a_bigint_in_every_table(path: str) -> None:
    columns = re.findall(
        r"^    (\w*(?:price|total|amount|captured|refunded)) +(\w+)",
        _migrations()[path],
        re.MULTILINE,
    )
    # `total numeric` is a sum of bigints in the balance trigger of the ledger, not a column.
    assert {kind for name, kind in columns if (name, kind) != ("total", "numeric")} <= {"bigint"}


def test_the_tables_of_the_chassis_are_the_same_everywhere() -> None:
    texts = [
        _migrations()[f"services/{service}/migrations/V1__chassis.sql"].replace(service, "<role>")
        for service in SERVICES
    ]
    assert all(one == other for one, other in pairwise(texts))


def test_of_the_messages_the_chassis_knows_only_the_base() -> None:
    names = {
        match[1].strip()
        for path, text in _ours(".py").items()
        if "ecom_common" in path
        for match in re.finditer(r"from ecom_contracts\.messages import (.+)", text)
    }
    assert names == {"Message"}
