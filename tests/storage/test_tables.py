"""Our definitions of Optuna's tables match Optuna's own."""

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from search.optuna_internals import models
from search.storage import tables

OURS = [table for table in vars(tables).values() if isinstance(table, sa.Table) and table is not tables.LEASES]
ENUMS = [column for table in OURS for column in table.columns if isinstance(column.type, sa.Enum)]
DIALECTS: list[sa.Dialect] = [sqlite.dialect(), postgresql.dialect()]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dialect", DIALECTS, ids=["sqlite", "postgresql"])
@pytest.mark.parametrize("ours", OURS, ids=lambda table: table.name)
def test_every_column_has_the_name_and_type_of_optunas_column(ours: sa.Table, dialect: sa.Dialect) -> None:
    theirs = models.BaseModel.metadata.tables[ours.name]

    types = {column.name: column.type.compile(dialect=dialect) for column in ours.columns}
    expected = {column.name: column.type.compile(dialect=dialect) for column in theirs.columns}

    assert types.items() <= expected.items()


@pytest.mark.parametrize("ours", ENUMS, ids=str)
def test_every_enum_has_the_values_of_optunas_enum(ours: sa.Column[str]) -> None:
    theirs = models.BaseModel.metadata.tables[str(ours.table)].c[ours.name]

    assert isinstance(ours.type, sa.Enum)
    assert isinstance(theirs.type, sa.Enum)
    assert set(ours.type.enums) == set(theirs.type.enums)
