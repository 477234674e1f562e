"""The connection that saves round trips: what it says to the server, and that it is a transaction all the same."""

from collections.abc import Iterator
from uuid import UUID

import psycopg2
import pytest
from ecom_common import prepared
from ecom_common.database import make_engine
from ecom_common.driver import UnitConnection
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from tests.support.chassis import Database, a_database
from tests.support.databases import Databases


@pytest.fixture(scope="module")
def database(databases: Databases) -> Iterator[Database]:
    with a_database(databases) as database:
        yield database


@pytest.fixture(autouse=True)
def empty(database: Database) -> None:
    database.empty()


@pytest.fixture
def connection(database: Database) -> Iterator[UnitConnection]:
    connection = UnitConnection(database.url)
    yield connection
    connection.close()


NOTE = "INSERT INTO effects (note) VALUES (%s)"


def notes(database: Database) -> list[str]:
    return database.rows("SELECT note FROM effects ORDER BY id")


def say(connection: UnitConnection, statement: str, *parameters: object) -> bytes:
    """What went to the server for it."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.query or b""


def test_begin_goes_with_the_first_statement_and_only_with_it(connection: UnitConnection) -> None:
    assert say(connection, "SELECT 1") == b"BEGIN; SELECT 1"
    assert say(connection, "SELECT 2") == b"SELECT 2"
    connection.commit()
    assert connection.get_transaction_status() == TRANSACTION_STATUS_IDLE
    assert say(connection, "SELECT 3") == b"BEGIN; SELECT 3"


def test_a_rollback_takes_everything_back_that_was_said(
    database: Database, connection: UnitConnection
) -> None:
    say(connection, NOTE, "a")
    say(connection, NOTE, "b")
    connection.commit_with(NOTE, ("c",))
    connection.rollback()
    connection.commit()
    assert notes(database) == []


def test_the_last_statement_and_the_commit_are_one_message(
    database: Database, connection: UnitConnection
) -> None:
    say(connection, NOTE, "a")
    connection.commit_with(NOTE, ("b",))
    assert notes(database) == []
    connection.commit()
    assert notes(database) == ["a", "b"]
    connection.commit()
    assert notes(database) == ["a", "b"], "it is said once"


def test_a_last_statement_alone_is_a_transaction_too(
    database: Database, connection: UnitConnection
) -> None:
    connection.commit_with(NOTE, ("a",))
    connection.commit()
    assert notes(database) == ["a"]


def test_when_the_last_statement_fails_nothing_is_committed_and_the_connection_is_free(
    database: Database, connection: UnitConnection
) -> None:
    say(connection, NOTE, "a")
    connection.commit_with(NOTE, ("a",))
    with pytest.raises(psycopg2.errors.UniqueViolation):
        connection.commit()
    assert connection.get_transaction_status() == TRANSACTION_STATUS_IDLE
    assert notes(database) == []
    say(connection, NOTE, "b")
    connection.commit()
    assert notes(database) == ["b"]


def test_in_autocommit_each_statement_stands_alone(
    database: Database, connection: UnitConnection
) -> None:
    connection.autocommit = True
    assert say(connection, NOTE, "a").startswith(b"INSERT")
    connection.rollback()
    assert notes(database) == ["a"]
    connection.autocommit = False
    say(connection, NOTE, "b")
    assert connection.get_transaction_status() == TRANSACTION_STATUS_INTRANS


def test_a_commit_that_fails_gives_a_clean_connection_back_to_the_pool(database: Database) -> None:
    engine = make_engine(database.url, application_name="driver", pool_size=1)
    with Session(engine) as session:
        prepared.run(session, f"{NOTE} RETURNING id", "a")
        prepared.run_with_commit(session, NOTE, "a")
        with pytest.raises(DBAPIError):
            session.commit()
    with Session(engine) as session:
        assert prepared.run(session, "SELECT count(*) FROM effects") == [(0,)]
        session.execute(text(NOTE.replace("%s", "'b'")))
        session.commit()
    engine.dispose()
    assert notes(database) == ["b"]


def test_a_statement_is_prepared_once_on_each_connection_and_survives_a_rollback(
    database: Database,
) -> None:
    engine = make_engine(database.url, application_name="driver", pool_size=1)
    for _ in range(3):
        with Session(engine) as session:
            assert prepared.run(session, "SELECT %s::int + 1", 1) == [(2,)]
            found = session.scalars(text("SELECT name FROM pg_prepared_statements")).all()
            assert found == ["ecom_0"]
            session.rollback()
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "parameter", "expected"),
    [
        ("SELECT (%s::uuid[])[1]", ["00000000-0000-0000-0000-000000000001"], UUID),
        ("SELECT %s::timestamp with time zone[]", [], list),
        ("SELECT count(*) FROM effects WHERE note = ANY(%s)", ["it's 100 %", "%s"], int),
        ("SELECT note FROM effects WHERE note LIKE '%%' AND id > %s LIMIT 1", 0, None),
    ],
)
def test_parameters_keep_their_types(
    database: Database, statement: str, parameter: object, expected: type | None
) -> None:
    with database.sessions() as session:
        rows = prepared.run(session, statement, parameter)
        assert (rows == []) if expected is None else isinstance(rows[0][0], expected)


def test_a_connection_that_was_cut_is_not_given_to_anybody_again(database: Database) -> None:
    engine = make_engine(database.url, application_name="driver-cut", pool_size=1)
    with Session(engine) as session:
        prepared.run(session, "SELECT 1")
        session.commit()
        prepared.run(session, "SELECT 1")
        database.cut("driver-cut")
        with pytest.raises(psycopg2.OperationalError):
            prepared.run(session, "SELECT 1")
    with Session(engine) as session:
        assert prepared.run(session, "SELECT 1") == [(1,)]
    engine.dispose()


def test_one_lost_connection_has_the_pool_give_up_those_that_were_lost_with_it(
    database: Database,
) -> None:
    engine = make_engine(database.url, application_name="driver-cut", pool_size=4)
    sessions = [Session(engine) for _ in range(4)]
    for session in sessions:
        prepared.run(session, "SELECT 1")
    for session in sessions:
        session.close()
    database.cut("driver-cut")
    with Session(engine) as session, pytest.raises(psycopg2.OperationalError):
        prepared.run(session, "SELECT 1")
    for _ in range(4):
        with Session(engine) as session:
            assert prepared.run(session, "SELECT 1") == [(1,)]
    engine.dispose()


def test_a_statement_that_a_migration_has_made_unusable_is_prepared_anew(
    database: Database,
) -> None:
    engine = make_engine(database.url, application_name="driver", pool_size=1)
    database.as_owner("CREATE TABLE changing (n int); INSERT INTO changing VALUES (1)")
    database.as_owner("GRANT ALL ON changing TO PUBLIC")
    with Session(engine) as session:
        assert prepared.run(session, "SELECT n FROM changing") == [(1,)]
    database.as_owner("ALTER TABLE changing ALTER n TYPE bigint")
    with Session(engine) as session, pytest.raises(psycopg2.Error):
        prepared.run(session, "SELECT n FROM changing")
    with Session(engine) as session:
        assert prepared.run(session, "SELECT n FROM changing") == [(1,)]
    engine.dispose()
    database.as_owner("DROP TABLE changing")
