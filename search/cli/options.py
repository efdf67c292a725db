"""Options shared by several verbs, and their parameter types."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from search.cli import cache_folder, completion, param_types
from search.errors import UsageError

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

STORAGE = "sqlite:///runs/studies.db"
#: Copy of the values of `models.config.TestTimeAugmentation`, which is not loaded for `--help`.
TEST_TIME_AUGMENTATIONS = ("none", "flip", "flip_shift")


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineOptions:
    """Database and resources of this machine for a verb that trains."""

    storage: str
    """URL of the database."""
    cache: Path
    """Folder of decoded images."""
    workers: int | None
    """Number of worker processes; None means one per core or GPU."""
    device: str | None
    """`cpu`, `cuda`, or None for a GPU if there is one."""
    hang: float | None
    """Seconds without a finished batch after which a worker counts as hung."""
    disk: float | None
    """Limit of the files of all studies together, in gigabytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """Backend of the workers of a search."""

    join: bool
    detach: bool
    engine: Literal["local", "ray"]
    address: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """Address of the dashboard."""

    port: int
    host: str
    expose: bool


@dataclass(slots=True)
class Session:
    """State shared by the whole command line."""

    debug: bool = False
    """Whether errors are printed with their traceback."""
    on_end: str | None = None
    """Shell command that runs when this command has ended."""
    study: str = ""
    """Name of the study of this command."""


def check_working_directory() -> None:
    """Check that the working directory exists and may be used, without which neither torch nor workers start.

    Raises:
        UsageError: it was deleted, or is closed to this user.
    """
    try:
        os.getcwd()
        os.stat(".")
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"the working directory cannot be used ({reason}); change to another one") from error


def storage(*flags: str) -> Decorator:
    """Option for the URL of the database.

    Args:
        flags: names of the option; `--storage` if empty.
    """
    text = f"Database URL without a password (default: $CONVSEARCH_STORAGE, which may have one, or {STORAGE})."
    names = flags or ("--storage",)
    return click.option(
        *names,
        "storage",
        type=param_types.URL,
        multiple=True,  # each URL on the command line is checked for a password, and the last one counts
        callback=lambda _ctx, _param, urls: urls[-1] if urls else None,
        envvar="CONVSEARCH_STORAGE",
        default=[STORAGE],
        metavar="URL",
        help=text,
    )


def cache() -> Decorator:
    """Option for the folder of decoded images."""

    def choose(ctx: click.Context, _: click.Parameter, named: Path | None) -> Path | None:
        if ctx.resilient_parsing:  # of a line that a shell completes
            return named
        check_working_directory()
        folder = named or cache_folder.default_cache()
        cache_folder.use_torch_folder(folder)
        return folder

    text = (
        "Folder of decoded images (default: $CONVSEARCH_CACHE, or convsearch in $XDG_CACHE_HOME or ~/.cache, or "
        "runs/.cache without a home folder)."
    )
    return click.option(
        "--cache",
        type=param_types.PATH,
        callback=choose,
        envvar="CONVSEARCH_CACHE",
        metavar="DIR",
        help=text,
    )


def json() -> Decorator:
    """Option for JSON output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def stored_study() -> Decorator:
    """Argument for the name of a stored study."""
    return click.argument("study", metavar="STUDY", shell_complete=completion.stored_studies)


def study_file() -> Decorator:
    """Argument for the name or path of a study file."""
    return click.argument("study", metavar="STUDY", shell_complete=completion.study_files)


def watch() -> Decorator:
    """Option to repeat the output."""
    return click.option("--watch", is_flag=True, help="Repeat the output every two seconds until Ctrl-C.")


def data(text: str = "Images to use: a directory, .zip or .tar of CLASS/* or train/CLASS/*.") -> Decorator:
    """Option for the path of the images."""
    return click.option("--data", type=param_types.IMAGES, metavar="PATH", help=text)


def overrides(text: str = "Override a key of the study file, as in budget.epochs=4.") -> Decorator:
    """Option for changes to a study file."""
    return click.option("--set", "overrides", multiple=True, metavar="K=V", help=text)


def hours(text: str = "Stop this run after H hours; the next run resumes the study.") -> Decorator:
    """Option for a time limit in hours."""
    return click.option("--hours", type=param_types.POSITIVE, metavar="H", help=text)


def tta(text: str) -> Decorator:
    """Option for test-time augmentation."""
    return click.option("--tta", "augmentation", type=click.Choice(TEST_TIME_AUGMENTATIONS), help=text)


def retry_failed() -> Decorator:
    """Option to retry failed trials."""
    return click.option("--retry-failed", is_flag=True, help="Put failed trials back into the queue first.")


def on_end() -> Decorator:
    """Option for a shell command that `main` runs at the end."""

    def set_hook(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        ctx.ensure_object(Session).on_end = value

    text = "Shell command to run at the end, with CONVSEARCH_STUDY and CONVSEARCH_EXIT in its environment."
    return click.option("--on-end", metavar="CMD", expose_value=False, callback=set_hook, help=text)


def machine(function: Function) -> Function:
    """Add the options of a verb that trains, and pass them as `machine`."""

    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        return function(*args, machine=_collect(MachineOptions, values), **values)

    hang = "Kill a worker that finishes no batch for S seconds and 10 median epochs (default: 120)."
    disk = "Stop before the files of all studies exceed this size (default: $CONVSEARCH_DISK, or the free disk space)."
    return _decorated(
        call,
        click.option(
            "--workers", type=param_types.COUNT, metavar="N", help="Number of processes (default: one per core or GPU)."
        ),
        click.option(
            "--device", type=click.Choice(("cpu", "cuda")), help="Device for training (default: a GPU if there is one)."
        ),
        click.option("--hang", type=param_types.POSITIVE, metavar="S", help=hang),
        click.option("--disk", type=param_types.POSITIVE, envvar="CONVSEARCH_DISK", metavar="GB", help=disk),
        storage(),
        cache(),
    )


def backend(function: Function) -> Function:
    """Add the options of the worker backend, and pass them as `backend`."""

    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        return function(*args, backend=_collect(BackendOptions, values), **values)

    engine = (
        "Run workers as processes of this machine, or as actors in the free slots of a Ray cluster (default: local)."
    )
    return _decorated(
        call,
        click.option("--join", is_flag=True, help="Add workers to a study that is already running here."),
        click.option("--detach", is_flag=True, help="Only store the study, for `convsearch serve` or `worker` to run."),
        click.option("--engine", type=click.Choice(("local", "ray")), default="local", help=engine),
        click.option(
            "--address",
            metavar="HOST:PORT",
            help="Address of the Ray cluster for --engine ray (default: a new Ray instance on this machine).",
        ),
    )


def server(function: Function) -> Function:
    """Add the options of the dashboard server, and pass them as `server`."""

    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        return function(*args, server=_collect(ServerOptions, values), **values)

    return _decorated(
        call,
        click.option("--port", type=int, default=8080, metavar="P", help="Port of the dashboard (default: 8080)."),
        click.option(
            "--host", default="127.0.0.1", metavar="ADDRESS", help="Address of the dashboard (default: 127.0.0.1)."
        ),
        click.option("--expose", is_flag=True, help="Allow a --host that others can reach; nothing is encrypted."),
    )


class _Verb(click.Command):
    """A command whose errors all know the command, so that they show its usage."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click gives none for an option without its value
            raise


def verb(name: str, *options: Decorator, example: str) -> Callable[[Function], click.Command]:
    """Declare a command.

    Args:
        name: name of the verb.
        options: decorators of its options, in the order of the help.
        example: command line for the help.

    Returns:
        A decorator that turns a function into a command.
    """

    def declare(function: Function) -> click.Command:
        return click.command(name, cls=_Verb, epilog=f"Example: {example}")(_decorated(function, *options))

    return declare


def _decorated(function: Function, *options: Decorator) -> Function:
    for option in reversed(options):
        function = option(function)
    return function


def _collect(kind: type[Any], values: dict[str, Any]) -> Any:
    """Move the values of a group of options out of `values`."""
    return kind(**{name: values.pop(name) for name in kind.__dataclass_fields__})
