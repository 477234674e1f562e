"""What the code believes about its tables is what the migrations have made."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
from ecom_common.tables import chassis_metadata
from sqlalchemy import (
    CheckConstraint,
    Column,
    Engine,
    ForeignKeyConstraint,
    Inspector,
    MetaData,
    Table,
    UniqueConstraint,
    inspect,
)
from sqlalchemy.dialects import postgresql

from tests.support.databases import Databases

SERVICES: Final = ("order", "inventory", "payment")
_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
_REPOSITORY: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Schema:
    """A service's tables, as the code has them and as migrated."""

    service: str
    mapped: dict[str, Table]
    found: Inspector


def _models(service: str) -> Any:
    return import_module(f"{service}_service.models")


@pytest.fixture(scope="module", params=SERVICES)
def schema(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Schema]:
    service: str = request.param
    # Everything that is there is told to its owner only; a role sees what it has been granted.
    engine: Engine = databases.engine(f"{service}db_template", f"{service}_owner", pool_size=1)
    own: MetaData = _models(service).metadata
    yield Schema(service, {**chassis_metadata.tables, **own.tables}, inspect(engine))
    engine.dispose()


def test_there_are_the_same_tables(schema: Schema) -> None:
    assert schema.mapped.keys() | {"flyway_schema_history"} == set(schema.found.get_table_names())


def test_columns_have_the_same_types_and_may_be_null_alike(schema: Schema) -> None:
    for name, table in schema.mapped.items():
        found = {
            c["name"]: (_sql(c["type"]), c["nullable"]) for c in schema.found.get_columns(name)
        }
        mapped = {c.name: (_sql(c.type), bool(c.nullable)) for c in table.columns}
        assert mapped == found, name


def test_columns_have_defaults_alike(schema: Schema) -> None:
    for name, table in schema.mapped.items():
        found = {
            c["name"] for c in schema.found.get_columns(name) if c["default"] or c.get("identity")
        }
        assert {c.name for c in table.columns if _has_default(c)} == found, name


def test_primary_keys_are_the_same(schema: Schema) -> None:
    for name, table in schema.mapped.items():
        found = schema.found.get_pk_constraint(name)
        mapped = (_name(table.primary_key), [c.name for c in table.primary_key.columns])
        assert mapped == (found["name"], found["constrained_columns"]), name


def test_foreign_keys_are_the_same(schema: Schema) -> None:
    for name, table in schema.mapped.items():
        found = {
            (key["name"], *key["constrained_columns"], key["referred_table"])
            for key in schema.found.get_foreign_keys(name)
        }
        mapped = {
            (_name(c), *(column.name for column in c.columns), c.referred_table.name)
            for c in table.constraints
            if isinstance(c, ForeignKeyConstraint)
        }
        assert mapped == found, name


def test_a_table_maps_all_of_its_checks_or_leaves_them_to_the_migrations(schema: Schema) -> None:
    for name, table in schema.mapped.items():
        found = {check["name"] for check in schema.found.get_check_constraints(name)}
        mapped = {_name(c) for c in table.constraints if isinstance(c, CheckConstraint)}
        assert mapped in (found, set()), name


def test_unique_keys_are_the_same(schema: Schema) -> None:
    for name, table in schema.mapped.items():
        found = {
            (key["name"], *key["column_names"]) for key in schema.found.get_unique_constraints(name)
        }
        mapped = {
            (_name(c), *(column.name for column in c.columns))
            for c in table.constraints
            if isinstance(c, UniqueConstraint)
        }
        assert mapped == found, name


def test_indexes_are_the_same(schema: Schema) -> None:
    for name, table in schema.mapped.items():
        found = {
            (i["name"], bool(i["unique"]), *i["column_names"], _is_partial(i))
            for i in schema.found.get_indexes(name)
            if "duplicates_constraint" not in i
        }
        mapped = {
            (i.name, i.unique, *(c.name for c in i.columns), _where(i) is not None)
            for i in table.indexes
        }
        assert mapped == found, name


@pytest.mark.parametrize("service", SERVICES)
def test_the_code_needs_the_newest_migration(service: str) -> None:
    folder = _REPOSITORY / f"services/{service}_service/migrations"
    versions = [re.fullmatch(r"V(\d+)__\w+\.sql", path.name) for path in folder.iterdir()]
    assert None not in versions
    newest = max(int(version[1]) for version in versions if version)
    assert str(newest) == _models(service).SCHEMA_VERSION


def test_the_chassis_tables_are_the_same_for_every_service() -> None:
    first, *others = (
        (_REPOSITORY / f"services/{service}_service/migrations/V1__chassis.sql")
        .read_text()
        .replace(f"{service}_service", "the_service")
        for service in SERVICES
    )
    assert others == [first, first]


def _sql(kind: Any) -> str:
    # How a column sorts is between the migrations and the queries.
    return str(kind.compile(dialect=_DIALECT)).partition(" COLLATE")[0]


def _has_default(column: Column[Any]) -> bool:
    return column.server_default is not None or column.identity is not None


def _name(constraint: Any) -> str:
    # With the naming convention applied, as it would stand in a CREATE TABLE.
    return str(_DIALECT.identifier_preparer.format_constraint(constraint))


def _where(index: Any) -> Any:
    return index.dialect_options["postgresql"]["where"]


def _is_partial(found: Any) -> bool:
    return "postgresql_where" in found.get("dialect_options", {})
