"""The chassis' tables are the same in every service's database as in its code."""

import pytest
from ecom_common.tables import chassis_metadata
from sqlalchemy import CheckConstraint, Table, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.reflection import Inspector

from tests.support.databases import OWNERS, Databases

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", ["orderdb", "inventorydb", "paymentdb"])
def test_every_migrated_database_has_the_tables_that_the_code_describes(
    databases: Databases, name: str
) -> None:
    engine = databases.engine(databases.fresh(name), OWNERS[name])
    migrated = inspect(engine)
    for table in chassis_metadata.sorted_tables:
        assert columns_in(migrated, table) == {
            column.name: (column.type.compile(dialect=DIALECT), bool(column.nullable))
            for column in table.columns
        }
        assert indexes_in(migrated, table) == {
            str(index.name): [column.name for column in index.columns] for index in table.indexes
        }
        assert {c["name"] for c in migrated.get_check_constraints(table.name)} == {
            f"ck_{table.name}_{constraint.name}".replace(f"ck_{table.name}_ck_", "ck_")
            for constraint in table.constraints
            if isinstance(constraint, CheckConstraint)
        }
        key = migrated.get_pk_constraint(table.name)
        assert key["name"] == f"pk_{table.name}"
        assert key["constrained_columns"] == [column.name for column in table.primary_key]
    engine.dispose()


def columns_in(migrated: Inspector, table: Table) -> dict[str, tuple[str, bool]]:
    return {
        column["name"]: (column["type"].compile(dialect=DIALECT), column["nullable"])
        for column in migrated.get_columns(table.name)
    }


def indexes_in(migrated: Inspector, table: Table) -> dict[str, list[str | None]]:
    """Those that do not belong to a constraint."""
    unique = {constraint["name"] for constraint in migrated.get_unique_constraints(table.name)}
    return {
        str(index["name"]): list(index["column_names"])
        for index in migrated.get_indexes(table.name)
        if index["name"] not in unique
    }
