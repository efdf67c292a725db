"""Shell completion of stored studies and trials. click completes verbs and options itself."""

import glob
import os
from typing import TYPE_CHECKING, Any

import click

from search import database_url

if TYPE_CHECKING:
    import sqlalchemy as sa

#: Environment variable that requests completions.
COMPLETE_VARIABLE = "_CONVSEARCH_COMPLETE"


def script(command: click.Command, shell: str) -> str:
    """Return the completion script of a shell.

    Args:
        command: the root command.
        shell: name of the shell.

    Raises:
        ValueError: click does not support the shell.
    """
    from click.shell_completion import get_completion_class

    completion_class = get_completion_class(shell)
    if completion_class is None:
        raise ValueError(f"click completes no {shell}")
    return completion_class(command, {}, "convsearch", COMPLETE_VARIABLE).source()


def stored_studies(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete names of stored studies; empty if there is no database."""
    from search.errors import ConvsearchError
    from search.storage import queries

    try:
        return [row.name for row in queries.studies(_engine(ctx)) if row.name.startswith(incomplete)]
    except ConvsearchError:
        return []


def study_files(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Complete names of shipped study files, and paths of study files and folders."""
    from search.spec.study_file import STUDY_DIRS

    names = dict.fromkeys(path.stem for folder in STUDY_DIRS for path in sorted(folder.glob("*.toml")))
    paths = sorted(glob.glob(f"{glob.escape(incomplete)}*.toml"))
    folders = sorted(f"{folder}/" for folder in glob.glob(f"{glob.escape(incomplete)}*") if os.path.isdir(folder))
    return [*(name for name in names if name.startswith(incomplete)), *paths, *folders]


def trials(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete trial numbers of the study named before on the command line."""
    from search.errors import ConvsearchError
    from search.storage import queries

    try:
        rows = queries.trials(_engine(ctx), ctx.params.get("study") or "")
    except ConvsearchError:
        return []
    return [str(row.number) for row in rows if str(row.number).startswith(incomplete)]


def trials_and_studies(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the second operand of `compare`: trial numbers of the study, or another study."""
    return trials(ctx, param, incomplete) + stored_studies(ctx, param, incomplete)


def _engine(ctx: click.Context) -> "sa.Engine":
    from search.cli.options import STORAGE
    from search.storage.read_only import open_reader

    url: Any = ctx.params.get("storage")
    return open_reader(url or database_url.expand_home(os.environ.get("CONVSEARCH_STORAGE") or STORAGE))
