"""Options that several verbs share, with the types of their values."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
from click.core import ParameterSource

from search import database_url
from search.cli import completion
from search.errors import UsageError

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

STORAGE = "sqlite:///runs/studies.db"


class Count(click.ParamType[int]):
    """A whole number of at least 1."""

    name = "count"

    def __init__(self, *, at_most: int | None = None) -> None:
        self._at_most = at_most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"must be a whole number of at least 1, but got {value}", param, ctx)
        if self._at_most is not None and int(value) > self._at_most:
            self.fail(f"must be at most {self._at_most}, but got {value}", param, ctx)
        return int(value)


class PositiveNumber(click.ParamType[float]):
    """A finite number above 0."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            self.fail(f"must be a number above 0, but got {value!r}", param, ctx)
        return number


class DatabaseUrl(click.ParamType[str]):
    """The URL of a database. Everybody on the machine can read a command line, so it has no password there."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        source = None if ctx is None or param is None else ctx.get_parameter_source(param.name or "")
        if source is ParameterSource.COMMANDLINE and database_url.has_password(value):
            self.fail(
                "must not hold a password, because everybody on this machine can read a command line; "
                "put the URL into CONVSEARCH_STORAGE, or the password into ~/.pgpass or the file PGPASSFILE names",
                param,
                ctx,
            )
        try:
            return database_url.move_password(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class ExpandedPath(click.ParamType[Path]):
    """A path, in which ~ is the home folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value).expanduser()


COUNT, POSITIVE, URL, PATH = Count(), PositiveNumber(), DatabaseUrl(), ExpandedPath()


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineOptions:
    """What a verb that trains may use of this machine."""

    storage: str
    cache: Path
    """Folder of decoded images."""
    workers: int | None
    device: str | None
    hang: float | None
    """Seconds without a finished batch after which a worker hangs."""
    disk: float | None
    """Gigabytes that the files of all studies may take together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """Where the workers of a search run."""

    join: bool
    detach: bool
    engine: Literal["local", "ray"]
    address: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """Where the dashboard is served."""

    port: int
    host: str
    expose: bool


@dataclass(slots=True)
class Session:
    """What the whole command line has in common."""

    debug: bool = False
    on_end: str | None = None
    """A shell's command that is run when this one has ended."""
    study: str = ""
    """The study that this command is about."""


def default_cache() -> str:
    """The folder of decoded images, where none is named."""
    return (os.environ.get("XDG_CACHE_HOME") or "~/.cache") + "/convsearch"


def storage(*flags: str) -> Decorator:
    """The option of the database."""
    text = f"database, without a password (default: $CONVSEARCH_STORAGE, which may have one, else {STORAGE})"
    names = flags or ("--storage",)
    return click.option(
        *names, "storage", type=URL, envvar="CONVSEARCH_STORAGE", default=STORAGE, metavar="URL", help=text
    )


def cache() -> Decorator:
    """The option of the folder of decoded images."""
    text = "folder of decoded images (default: $CONVSEARCH_CACHE, else convsearch in $XDG_CACHE_HOME or ~/.cache)"
    return click.option(
        "--cache", type=PATH, envvar="CONVSEARCH_CACHE", default=default_cache, metavar="DIR", help=text
    )


def json() -> Decorator:
    """The option of an answer for programs."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON")


def stored_study() -> Decorator:
    """The argument of a verb about a stored study."""
    return click.argument("study", metavar="STUDY", shell_complete=completion.stored_studies)


def study_file() -> Decorator:
    """The argument of a verb about a study file."""
    return click.argument("study", metavar="STUDY", shell_complete=completion.study_files)


def watch() -> Decorator:
    """The option of an answer that is given again and again."""
    return click.option("--watch", is_flag=True, help="answer again every two seconds, until Ctrl-C")


def data(text: str = "images to use: a directory, .zip or .tar of train/CLASS/*") -> Decorator:
    """The option of the images."""
    return click.option("--data", metavar="PATH", help=text)


def overrides(text: str = "change the file: budget.epochs=4") -> Decorator:
    """The option of changes to a study file."""
    return click.option("--set", "overrides", multiple=True, metavar="K=V", help=text)


def hours(text: str = "stop this run after H hours; the next one goes on") -> Decorator:
    """The option of a limit in time."""
    return click.option("--hours", type=POSITIVE, metavar="H", help=text)


def retry_failed() -> Decorator:
    """The option of another try for failed trials."""
    return click.option("--retry-failed", is_flag=True, help="put failed trials back to the queue first")


def on_end() -> Decorator:
    """The option of a command for the end; `main` runs it."""

    def note(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        ctx.ensure_object(Session).on_end = value

    text = "command of a shell that is run when this one has ended; it finds CONVSEARCH_STUDY and CONVSEARCH_EXIT"
    return click.option("--on-end", metavar="CMD", expose_value=False, callback=note, help=text)


def machine(function: Function) -> Function:
    """The options of a verb that trains, as `machine`."""

    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        return function(*args, machine=_collect(MachineOptions, values), **values)

    hang = "kill a worker that finishes no batch for S seconds and 10 median epochs (default: 120)"
    disk = "stop before the files of all studies together take more (default: $CONVSEARCH_DISK, else what the disk has)"
    return _decorated(
        call,
        click.option("--workers", type=COUNT, metavar="N", help="processes (default: one a core, or one a GPU)"),
        click.option(
            "--device", type=click.Choice(("cpu", "cuda")), help="where to train (default: a GPU if there is one)"
        ),
        click.option("--hang", type=POSITIVE, metavar="S", help=hang),
        click.option("--disk", type=POSITIVE, envvar="CONVSEARCH_DISK", metavar="GB", help=disk),
        storage(),
        cache(),
    )


def backend(function: Function) -> Function:
    """The options of where workers run, as `backend`."""

    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        return function(*args, backend=_collect(BackendOptions, values), **values)

    engine = "workers: processes of this machine, or actors of a Ray cluster, as many as have room (default: local)"
    return _decorated(
        call,
        click.option("--join", is_flag=True, help="add workers to a study that is already running here"),
        click.option("--detach", is_flag=True, help="only store the study; `convsearch serve` or `worker` works on it"),
        click.option("--engine", type=click.Choice(("local", "ray")), default="local", help=engine),
        click.option(
            "--address",
            metavar="HOST:PORT",
            help="with --engine ray: the cluster's address (default: a Ray of its own on this machine)",
        ),
    )


def server(function: Function) -> Function:
    """The options of the dashboard's server, as `server`."""

    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        return function(*args, server=_collect(ServerOptions, values), **values)

    return _decorated(
        call,
        click.option("--port", type=int, default=8080, metavar="P", help="port (default: 8080)"),
        click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="address (default: 127.0.0.1)"),
        click.option("--expose", is_flag=True, help="let others reach --host; nothing is encrypted"),
    )


def verb(name: str, *options: Decorator, example: str) -> Callable[[Function], click.Command]:
    """A command of the command line; `options` stand in its help in this order."""

    def declare(function: Function) -> click.Command:
        return click.command(name, epilog=f"Example: {example}")(_decorated(function, *options))

    return declare


def _decorated(function: Function, *options: Decorator) -> Function:
    for option in reversed(options):
        function = option(function)
    return function


def _collect(kind: type[Any], values: dict[str, Any]) -> Any:
    """The options of a group, taken out of all values."""
    return kind(**{name: values.pop(name) for name in kind.__dataclass_fields__})
