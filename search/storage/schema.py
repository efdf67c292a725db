"""Which version of Optuna's tables a database has: two tables tell it, without Optuna or alembic."""

from importlib.metadata import version

import sqlalchemy as sa

from search.errors import DatabaseError

#: Every revision of Optuna's tables that this release knows, oldest first; the last one is the one it works with.
#: Source: optuna/storages/_rdb/alembic/versions.
REVISIONS = (
    "v0.9.0.a",
    "v1.2.0.a",
    "v1.3.0.a",
    "v2.4.0.a",
    "v2.6.0.a",
    "v3.0.0.a",
    "v3.0.0.b",
    "v3.0.0.c",
    "v3.0.0.d",
    "v3.2.0.a",
)
HEAD_REVISION = REVISIONS[-1]

#: What `version_info` holds since Optuna notes revisions. Older files have no `alembic_version`, and the tables of the
#: first revision (optuna/storages/_rdb/storage.py, _VersionManager).
_NOTED = 12

#: As alembic makes it (alembic/ddl/impl.py, version_table_impl).
_ALEMBIC = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
_INFO = sa.table("version_info", *map(sa.column, ("version_info_id", "schema_version", "library_version")))


def note(connection: sa.Connection) -> None:
    """Note the version of tables that were just made, as Optuna does when it opens a database without such a note."""
    _ALEMBIC.create(connection, checkfirst=True)
    connection.execute(sa.insert(_ALEMBIC).values(version_num=HEAD_REVISION))
    info = {"version_info_id": 1, "schema_version": _NOTED, "library_version": version("optuna")}
    connection.execute(sa.insert(_INFO).values(info))


def revision(connection: sa.Connection) -> str | None:
    """The revision of Optuna's tables; None where there are none, or where somebody is making them at this moment."""
    has_table = connection.dialect.has_table  # asked before every answer, and cheaper than an Inspector
    if has_table(connection, "alembic_version"):
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if found is not None:
            return str(found)
    if not has_table(connection, "version_info"):
        return None
    number = connection.exec_driver_sql("SELECT schema_version FROM version_info").scalar()
    if number is None:
        return None
    return REVISIONS[0] if number < _NOTED else HEAD_REVISION if number == _NOTED else f"schema {number}"


def check(connection: sa.Connection, place: str) -> None:
    """Refuse a database whose tables are not those that this release works with; `place` names it for people.

    Raises:
        DatabaseError: with the way out.
    """
    found = revision(connection)
    if found not in (None, HEAD_REVISION):
        raise version_error(found, place)


def version_error(found: str | None, place: str) -> DatabaseError:
    """Why a database with the tables of `found` cannot be used, and what helps."""
    if found in REVISIONS:
        text = f"{place} was made by an older Optuna (tables of {found}, needed are those of {HEAD_REVISION})"
        return DatabaseError(f"{text}; `convsearch migrate`, with the same --storage, brings it up to date")
    text = f"{place} was made by a newer Optuna (tables of {found}, known are those up to {HEAD_REVISION})"
    return DatabaseError(f"{text}; install the convsearch or the optuna that made it")
