"""What follows a transaction: once, when it is known, and whatever the others do."""

import logging
from collections.abc import Iterator

import pytest
from ecom_common.durable import when_durable, when_undone
from sqlalchemy import text

from tests.support.chassis import Database, a_database
from tests.support.databases import Databases


@pytest.fixture(scope="module")
def database(databases: Databases) -> Iterator[Database]:
    with a_database(databases) as database:
        yield database


def test_a_commit_is_followed_by_what_was_asked_for_and_not_by_what_undoes(
    database: Database,
) -> None:
    said: list[str] = []
    with database.sessions() as session:
        for _ in range(2):
            session.execute(text("SELECT 1"))
            when_durable(session, lambda: said.append("committed"))
            when_undone(session, lambda: said.append("undone"))
            session.commit()
        session.execute(text("SELECT 1"))
        session.rollback()
    assert said == ["committed"] * 2


def test_a_rollback_is_followed_by_what_undoes_and_by_nothing_else(database: Database) -> None:
    said: list[str] = []
    with database.sessions() as session:
        session.execute(text("SELECT 1"))
        when_durable(session, lambda: said.append("committed"))
        when_undone(session, lambda: said.append("undone"))
        session.rollback()
        session.execute(text("SELECT 1"))
        session.commit()
    assert said == ["undone"]


def test_one_that_fails_is_logged_and_neither_undoes_nor_holds_up_anything(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    with caplog.at_level(logging.ERROR), database.sessions.begin() as session:
        session.execute(text("INSERT INTO effects (note) VALUES ('kept')"))
        when_durable(session, lambda: 1 / 0)
        when_durable(session, lambda: said.append("next"))
    assert said == ["next"]
    assert database.rows("SELECT note FROM effects") == ["kept"]
    assert "what was to follow a transaction has failed" in caplog.text
