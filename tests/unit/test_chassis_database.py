"""What an error of the database means for a unit of work, and how long to back off."""

from typing import Any

import psycopg2
import pytest
from ecom_common.database import Trouble, backoff_s, classify, sql_state
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout


class PostgresError(psycopg2.DatabaseError):
    """An error as the server reports it; psycopg2 lets nobody else set the state."""

    pgcode: Any = None

    def __init__(self, state: str) -> None:
        super().__init__(f"error {state}")
        self.pgcode = state


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "57014", "23505"])
def test_another_transaction_in_the_way_is_contention(state: str) -> None:
    assert classify(_wrapped(state)) is Trouble.CONTENTION


@pytest.mark.parametrize(
    "state",
    ["57P01", "57P02", "57P03", "57P05", "25P03", "25006", "08006", "08P01", "53100", "53300"],
)
def test_a_server_that_cannot_work_now_is_down(state: str) -> None:
    assert classify(_wrapped(state)) is Trouble.DOWN


@pytest.mark.parametrize("state", ["23502", "23514", "23503", "42P01", "22003", "42501", "P0001"])
def test_a_statement_that_is_wrong_is_unexpected(state: str) -> None:
    assert classify(_wrapped(state)) is Trouble.UNEXPECTED


@pytest.mark.parametrize(
    "error",
    [
        psycopg2.OperationalError("could not connect to server"),
        psycopg2.InterfaceError("connection already closed"),
        psycopg2.DatabaseError("server closed the connection unexpectedly"),
        OperationalError("SELECT 1", {}, psycopg2.OperationalError("no route to host")),
        PoolTimeout("QueuePool limit of size 8 overflow 0 reached"),
    ],
)
def test_a_lost_connection_has_no_state_and_is_down(error: Exception) -> None:
    assert sql_state(error) is None
    assert classify(error) is Trouble.DOWN


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        KeyError("sku"),
        TimeoutError(),
        psycopg2.ProgrammingError("can't adapt type"),
        psycopg2.IntegrityError("without a state"),
    ],
)
def test_every_other_error_is_a_bug(error: Exception) -> None:
    assert classify(error) is Trouble.UNEXPECTED


@given(attempt=st.integers(0, 10_000), share=st.floats(0, 1, exclude_max=True))
def test_a_backoff_grows_with_the_attempts_and_never_beyond_its_bound(
    attempt: int, share: float
) -> None:
    waited = backoff_s(attempt, first_s=0.1, most_s=5.0, rand=lambda: share)
    assert 0 <= waited <= min(5.0, 0.1 * 2.0 ** min(attempt, 30))


def _wrapped(state: str) -> DBAPIError:
    return DBAPIError("SELECT 1", {}, PostgresError(state))
