"""Bulk writes: every type of column that we use, and every text that has ever broken an SQL statement."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest
from ecom_common import prepared
from ecom_common.bulk import insert_new_rows, insert_rows, send, update_rows
from ecom_common.rows import column_names
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError

from tests.support.chassis import ROLE, Database, a_database
from tests.support.databases import Databases


class Colour(StrEnum):
    RED = "red"


THINGS = Table(
    "things",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("name", Text, unique=True),
    Column("count", BigInteger),
    Column("small", Integer),
    Column("good", Boolean),
    Column("at", DateTime(timezone=True)),
    Column("bytes", LargeBinary),
    Column("document", JSONB(none_as_null=True)),
    Column("colour", Text),
    Column("with_default", Text, server_default=text("'default'")),
)

ODD_TEXTS = [
    "",
    " ",
    "it's \"quoted\" and ''doubled''",
    "back\\slash \\' \\n \\x41 E'x'",
    "100 % of %s and %(name)s and %%",
    "$1 :name ?",
    "{a,b} \\{ NULL null",
    "NULL",
    "ünïcödé – 漢字 🎁 \u202e",
    "line\nbreak\ttab\r",
    "; DROP TABLE things; --",
    "x" * 10_000,
]


@pytest.fixture(scope="module")
def database(databases: Databases) -> Iterator[Database]:
    with a_database(databases) as database:
        database.as_owner(
            "CREATE TABLE things (id uuid PRIMARY KEY, name text UNIQUE, count bigint, small integer, "
            "good boolean, at timestamptz, bytes bytea, document jsonb, colour text, "
            f"with_default text DEFAULT 'default'); GRANT ALL ON things TO {ROLE}"
        )
        yield database


@pytest.fixture(autouse=True)
def empty(database: Database) -> None:
    database.as_owner("TRUNCATE things")


def a_thing(number: int, **values: Any) -> dict[str, Any]:
    return {"id": UUID(int=number), "name": f"thing {number}"} | values


def stored(database: Database, column: str) -> list[Any]:
    with database.sessions() as session:
        return list(session.scalars(select(THINGS.c[column]).order_by(THINGS.c.id)))


def insert(database: Database, rows: list[dict[str, Any]]) -> None:
    with database.sessions.begin() as session:
        insert_rows(session, THINGS, rows)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("name", [*ODD_TEXTS, None]),
        ("count", [0, -1, 2**63 - 1, -(2**63), None]),
        ("small", [0, 2**31 - 1, None]),
        ("good", [True, False, None]),
        (
            "at",
            [datetime(2024, 2, 29, 23, 59, 59, 999999, UTC), datetime(1, 1, 1, tzinfo=UTC), None],
        ),
        ("bytes", [b"", b"\0", bytes(range(256)), b"\\x41", b"'\"%s", None]),
        (
            "document",
            [{}, {"a": [1, {"b": None}]}, [], [[1], "x"], "text", "100 %", 7, 1.5, True, None],
        ),
        ("document", [{"text": text} for text in ODD_TEXTS]),
        ("colour", [Colour.RED, "plain", None]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_value_comes_back_as_it_was(
    database: Database, column: str, values: list[Any]
) -> None:
    insert(database, [{"id": UUID(int=n), column: value} for n, value in enumerate(values)])
    assert stored(database, column) == values


@pytest.mark.parametrize("column", column_names(THINGS)[1:])
def test_a_column_may_hold_nothing_but_nulls(database: Database, column: str) -> None:
    insert(database, [{"id": UUID(int=n), column: None} for n in range(3)])
    assert stored(database, column) == [None] * 3


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("name", ODD_TEXTS),
        ("bytes", [b"\0%s", bytes(range(256)), None]),
        ("document", [{"%s": "'"}, [None], None]),
        ("at", [datetime(2024, 1, 1, tzinfo=UTC), None]),
        ("good", [False, True, None]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_value_survives_an_update_too(
    database: Database, column: str, values: list[Any]
) -> None:
    insert(database, [{"id": UUID(int=n)} for n in range(len(values))])
    with database.sessions.begin() as session:
        rows = [{"id": UUID(int=n), column: value} for n, value in enumerate(values)]
        update_rows(session, THINGS, rows, key="id")
    assert stored(database, column) == values


def test_columns_that_are_not_given_take_their_defaults(database: Database) -> None:
    insert(database, [a_thing(1), a_thing(2)])
    assert stored(database, "with_default") == ["default", "default"]


def test_rows_of_different_shapes_are_a_mistake_and_not_a_loss(database: Database) -> None:
    with pytest.raises(AssertionError, match="same keys"):
        insert(database, [a_thing(1), a_thing(2, count=7)])
    with pytest.raises(AssertionError, match="same keys"):
        insert(database, [a_thing(1, count=7), a_thing(2, small=7)])
    assert stored(database, "id") == []


def test_no_rows_are_no_statement(database: Database) -> None:
    with database.sessions.begin() as session:
        insert_rows(session, THINGS, [])
        update_rows(session, THINGS, [], key="id")
        assert insert_new_rows(session, THINGS, []) == set()


def test_only_new_rows_are_inserted_and_told(database: Database) -> None:
    insert(database, [a_thing(1), a_thing(2)])
    with database.sessions.begin() as session:
        rows = [a_thing(2), a_thing(3), a_thing(4, name="thing 1"), a_thing(5)]
        assert insert_new_rows(session, THINGS, rows) == {UUID(int=3), UUID(int=5)}
    assert len(stored(database, "id")) == 4


def test_an_update_of_a_row_that_is_not_there_is_a_mistake(database: Database) -> None:
    insert(database, [a_thing(1)])
    with (
        pytest.raises(DBAPIError, match="things: wrote 1 rows, not all"),
        database.sessions.begin() as session,
    ):
        update_rows(session, THINGS, [a_thing(1, count=1), a_thing(2, count=1)], key="id")
    assert stored(database, "count") == [None]


def test_a_thousand_rows_are_one_statement(database: Database) -> None:
    insert(database, [a_thing(n, count=n, document={"n": n}) for n in range(1_000)])
    assert stored(database, "count") == list(range(1_000))


def test_an_update_that_was_planned_for_a_small_table_still_goes_by_its_key(
    database: Database,
) -> None:
    shape = "%SET name = new.name, count = new.count FROM%"
    with database.sessions.begin() as session:
        insert_rows(session, THINGS, [a_thing(1)])
        send(session)
        update_rows(session, THINGS, [a_thing(1, count=7)], key="id")
        send(session)
        name = session.scalars(
            text("SELECT name FROM pg_prepared_statements WHERE statement LIKE :shape"),
            {"shape": shape},
        ).one()
        plan = list(session.scalars(text(f"EXPLAIN EXECUTE {name} ('[]', 0, 0)")))
    assert any("Index Cond: (id = new.id)" in line for line in plan), plan


@pytest.mark.parametrize("values", [{"name": "a\0b"}, {"document": ["a\0b"]}], ids=["text", "json"])
def test_what_postgres_cannot_store_is_refused(database: Database, values: dict[str, Any]) -> None:
    with pytest.raises(DBAPIError, match="u0000"):
        insert(database, [a_thing(1, **values)])


def test_a_value_that_json_does_not_have_is_a_mistake_and_not_a_loss(database: Database) -> None:
    with pytest.raises(TypeError, match="object"):
        insert(database, [a_thing(1, name=object())])


@pytest.mark.parametrize(
    ("kind", "values"),
    [("text", ODD_TEXTS), ("bigint", [0, -1, 2**63 - 1]), ("uuid", []), ("bigint", [])],
)
def test_a_list_is_looked_for_as_it_is(database: Database, kind: str, values: list[Any]) -> None:
    with database.sessions() as session:
        rows = prepared.run(session, f"SELECT * FROM unnest(%s::{kind}[])", values)
    assert [value for (value,) in rows] == values
