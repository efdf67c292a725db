"""Completion of the names and numbers of what is stored; click completes verbs and options by itself."""

import glob
import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import sqlalchemy as sa

#: The variable by which a shell asks for completions.
COMPLETE_VARIABLE = "_CONVSEARCH_COMPLETE"


def script(command: click.Command, shell: str) -> str:
    """What a shell evaluates to complete convsearch."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"click completes no {shell}")
    return kind(command, {}, "convsearch", COMPLETE_VARIABLE).source()


def stored_studies(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of stored studies; none where there is no database."""
    from search.errors import ConvsearchError
    from search.storage import queries

    try:
        return [row.name for row in queries.studies(_engine(ctx)) if row.name.startswith(incomplete)]
    except ConvsearchError:
        return []


def study_files(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Names of study files, those that come with the project and those here."""
    from search.spec.study_spec import STUDY_DIRS

    named = dict.fromkeys(path.stem for folder in STUDY_DIRS for path in sorted(folder.glob("*.toml")))
    here = sorted(glob.glob(f"{glob.escape(incomplete)}*.toml"))
    folders = sorted(f"{folder}/" for folder in glob.glob(f"{glob.escape(incomplete)}*") if os.path.isdir(folder))
    return [*(name for name in named if name.startswith(incomplete)), *here, *folders]


def trials(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Numbers of the trials of the study that stands before."""
    from search.errors import ConvsearchError
    from search.storage import queries

    try:
        rows = queries.trials(_engine(ctx), ctx.params.get("study") or "")
    except ConvsearchError:
        return []
    return [str(row.number) for row in rows if str(row.number).startswith(incomplete)]


def trials_and_studies(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What `compare` sets beside a study: another one, or two of its trials."""
    return trials(ctx, param, incomplete) + stored_studies(ctx, param, incomplete)


def _engine(ctx: click.Context) -> "sa.Engine":
    from search.cli.options import STORAGE
    from search.storage.read_only import open_reader

    given: Any = ctx.params.get("storage")
    return open_reader(given or os.environ.get("CONVSEARCH_STORAGE") or STORAGE)
