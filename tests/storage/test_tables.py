"""The tables that are read and written here, beside Optuna's own."""

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from search.optuna_internals import models
from search.storage import tables

OURS = [table for table in vars(tables).values() if isinstance(table, sa.Table) and table is not tables.LEASES]


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
@pytest.mark.parametrize("ours", OURS, ids=lambda table: table.name)
def test_every_column_has_the_name_and_the_type_of_optunas(ours: sa.Table, dialect: sa.Dialect) -> None:
    theirs = models.BaseModel.metadata.tables[ours.name]

    types = {column.name: column.type.compile(dialect=dialect) for column in ours.columns}
    expected = {column.name: column.type.compile(dialect=dialect) for column in theirs.columns}

    assert types.items() <= expected.items()


@pytest.mark.parametrize("ours", OURS, ids=lambda table: table.name)
def test_every_enum_has_the_values_of_optunas(ours: sa.Table) -> None:
    theirs = models.BaseModel.metadata.tables[ours.name]
    enums = {column.name: column.type for column in ours.columns if isinstance(column.type, sa.Enum)}

    for name, enum in enums.items():
        assert set(enum.enums) == set(theirs.c[name].type.enums)
