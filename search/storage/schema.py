"""Version of Optuna's tables in a database, read from two tables without Optuna or alembic."""

from importlib.metadata import version

import sqlalchemy as sa

from search.errors import DatabaseError

#: All known revisions of Optuna's tables, oldest first; this release works with the last one.
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

#: Value in `version_info` since Optuna stores revisions. Older files have no `alembic_version`, and the tables of the
#: first revision (optuna/storages/_rdb/storage.py, _VersionManager).
_SCHEMA_VERSION = 12

#: Same definition as in alembic (alembic/ddl/impl.py, version_table_impl).
_ALEMBIC = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
_INFO = sa.table("version_info", *map(sa.column, ("version_info_id", "schema_version", "library_version")))


def note(connection: sa.Connection) -> None:
    """Store the version of newly created tables, as Optuna does when it opens a database without a stored version."""
    _ALEMBIC.create(connection, checkfirst=True)
    connection.execute(sa.insert(_ALEMBIC).values(version_num=HEAD_REVISION))
    info = {"version_info_id": 1, "schema_version": _SCHEMA_VERSION, "library_version": version("optuna")}
    connection.execute(sa.insert(_INFO).values(info))


def revision(connection: sa.Connection) -> str | None:
    """Return the revision of Optuna's tables; None if there are none, or if another process is creating them."""
    has_table = connection.dialect.has_table  # called before every query, and cheaper than an Inspector
    if has_table(connection, "alembic_version"):
        stored = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if stored is not None:
            return str(stored)
    if not has_table(connection, "version_info"):
        return None
    number = connection.exec_driver_sql("SELECT schema_version FROM version_info").scalar()
    if number is None:
        return None
    return (
        REVISIONS[0] if number < _SCHEMA_VERSION else HEAD_REVISION if number == _SCHEMA_VERSION else f"schema {number}"
    )


def check(connection: sa.Connection, display_name: str) -> None:
    """Refuse a database whose tables have another version than this release needs.

    Args:
        connection: Connection in a transaction.
        display_name: Name of the database in messages.

    Raises:
        DatabaseError: The tables have another version; the message has the remedy.
    """
    stored = revision(connection)
    if stored not in (None, HEAD_REVISION):
        raise version_error(stored, display_name)


def version_error(stored: str | None, display_name: str) -> DatabaseError:
    """Return the error for a database with the tables of revision `stored`, with the remedy."""
    if stored in REVISIONS:
        text = f"{display_name} was made by an older Optuna (tables of {stored}, needed are those of {HEAD_REVISION})"
        return DatabaseError(f"{text}; `convsearch migrate`, with the same --storage, brings it up to date")
    text = f"{display_name} was made by a newer Optuna (tables of {stored}, known are those up to {HEAD_REVISION})"
    return DatabaseError(f"{text}; install the convsearch or the optuna that made it")
