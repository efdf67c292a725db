"""The verbs that check, stop, copy, delete and migrate."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from search import tables
from search.cli import options, param_types
from search.console import echo
from search.errors import BusyError, UsageError
from search.tables import Table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from search.spec.study_spec import StudySpec
    from search.storage.rdb import Storage


@options.verb(
    "validate",
    options.study_file(),
    options.overrides("Override a key of the study file."),
    options.data("Images to use."),
    options.json(),
    options.cache(),
    example="convsearch validate cifar10",
)
def validate(study: str, *, overrides: Sequence[str], data: str | None, as_json: bool, cache: Path) -> int:
    """Check a study file without running it.

    STUDY is the name of a study in studies/, the path of a TOML file, or the path of your images. A study with "auto"
    is checked with the recipe for its images, for which this machine trains a moment.
    """
    from search.analysis import recipe_table, study_tables
    from search.cli import study_argument
    from search.cli.training import parse_overrides
    from search.spec import search_space, stored_spec, study_file, study_spec

    argument = study_argument.resolve(study, data)
    spec = study_spec.load(argument.file, parse_overrides(overrides, argument.images))
    if spec.is_provisional:
        spec = _with_recipe(spec, cache)
    bases = [str(base) for base in study_file.read(argument.file).bases]
    notes = (*search_space.ineffective_tables(spec.space), *_check_images(spec))
    for note in notes:
        echo(note)
    stored, configurations = stored_spec.dump(spec), study_spec.count_configurations(spec)
    recipe = recipe_table.to_json(study_spec.settings(spec))
    table = study_tables.spec_table(stored, configurations, bases=bases, recipe=recipe)
    answer = {"spec": stored, "bases": bases, "configurations": configurations, "notes": notes, "recipe": recipe}
    return tables.print_answer(answer, table, as_json=as_json)


def _with_recipe(spec: "StudySpec", cache: Path) -> "StudySpec":
    """The study with the recipe for its images, if they are on this machine."""
    from search.service import recipes
    from search.study.inputs import devices

    workers = devices(spec, None, device=None)
    return recipes.with_recipe_if_here(spec, cache, devices=workers, hours=spec.budget.hours, say=echo)


def _check_images(spec: "StudySpec") -> tuple[str, ...]:
    """Check that a study can train something on its images, if they are on this machine; returns notes."""
    from data import home
    from data.dataset import count_images
    from data.errors import DataError
    from search.spec.feasibility import check_feasible
    from search.spec.fit import ImageLimits

    try:
        counts = count_images(spec.data)
    except DataError as error:
        if spec.data.path is not None and home.expand(spec.data.path).exists():
            raise
        return (f"not checked against its images: {error}",)
    return check_feasible(
        spec, ImageLimits(side=spec.data.search_size or spec.data.side, classes=counts.classes, images=counts.train)
    ).lines()


@options.verb("doctor", options.json(), options.storage(), options.cache(), example="convsearch doctor")
def doctor(*, as_json: bool, storage: str, cache: Path) -> int:
    """Check this machine; the exit code is 1 if a check fails."""
    from search.maintenance import doctor as checks

    results = checks.checks(storage, cache=cache)
    tables.print_answer(checks.checks_json(results), checks.checks_table(results), as_json=as_json)
    return int(checks.has_failures(results))


@options.verb("stop", options.stored_study(), options.json(), options.storage(), example="convsearch stop cifar10")
def stop(study: str, *, as_json: bool, storage: str) -> int:
    """Stop a running study on all machines."""
    from search.storage import queries
    from search.storage.rdb import Storage
    from search.storage.read_only import open_reader
    from search.study import stored_study

    engine, writable = open_reader(storage), Storage(storage)
    names = _with_finals(engine, study)
    running = sum(queries.study(engine, name).counts.running for name in names)
    for name in names:
        stored_study.ask_to_stop(writable, name)
    echo(
        f"stop requested: {running} running trials go back to the queue; "
        f"`convsearch resume {shlex.quote(study)}` goes on"
    )
    if as_json:
        sys.stdout.write(tables.to_json({"study": study, "running": running}))
    return 0


@options.verb(
    "delete",
    options.stored_study(),
    click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
    options.storage(),
    example="convsearch delete old --yes",
)
def delete(study: str, *, yes: bool, storage: str) -> int:
    """Delete a study and its files."""
    from search.artifacts import study_dir
    from search.storage import queries
    from search.storage.rdb import Storage

    writable, dirs = Storage(storage), study_dir.of(storage)
    names = _with_finals(writable.engine, study)
    finished = sum(queries.study(writable.engine, name).counts.finished for name in names)
    listed = " and ".join(map(repr, names))
    with ExitStack() as locks:
        for name in names:
            if dirs.is_ours(name):
                locks.enter_context(dirs.running(name))
            _refuse_running(writable, name)
        question = f"delete {listed} with {finished} finished trials and its files in {dirs.study(study)}? [y/N] "
        if not yes and not _is_confirmed(question):
            raise UsageError("nothing was deleted; --yes answers the question")
        for name in names:
            _refuse_running(writable, name)  # another machine may have started it in the meantime
        freed = 0
        for name in reversed(names):
            _delete_remote_checkpoints(writable, name)
            writable.delete_study(writable.get_study_id_from_name(name))
            freed += dirs.remove(name) if dirs.is_ours(name) else 0
    echo(f"deleted {listed}; {freed / 1e6:.1f} MB are free again")
    return 0


@options.verb(
    "copy-study",
    options.stored_study(),
    click.option(
        "--to", type=param_types.URL, required=True, metavar="URL", help="Target database; created if missing."
    ),
    options.json(),
    options.storage("--from", "--storage"),
    example="convsearch copy-study cifar10 --to postgresql://server/studies",
)
def copy_study(study: str, *, to: str, as_json: bool, storage: str) -> int:
    """Copy a study with its verdicts and files into another database."""
    from search.maintenance import copy_study as copying
    from search.storage.db_errors import redacted_url

    copied = copying.copy(storage, to, study, say=echo)
    answer = {"studies": copied.studies, "trials": copied.trials, "rows": copied.rows, "bytes": copied.size}
    source_url = shlex.quote(redacted_url(storage))
    table = Table(
        columns=("", ""),
        rows=(
            ("studies", ", ".join(copied.studies)),
            ("trials", f"{copied.trials:,}"),
            ("rows", f"{copied.rows:,}, all fields compared"),
            ("files", f"{copied.size / 1e6:.1f} MB"),
        ),
        after=("", f"`convsearch delete {shlex.quote(study)} --storage {source_url}` removes the original"),
    )
    return tables.print_answer(answer, table, as_json=as_json)


@options.verb(
    "clean",
    click.option("--data", is_flag=True, help="Also remove decoded images that no study uses; they can be rebuilt."),
    options.storage(),
    options.cache(),
    example="convsearch clean",
)
def clean(*, data: bool, storage: str, cache: Path) -> int:
    """Remove files that no study needs."""
    from search.artifacts import cleanup

    freed = cleanup.clean(storage, cache, data=data, say=echo)
    echo(f"{freed / 1e6:.1f} MB are free again" if freed else "nothing to remove: every file belongs to a study")
    return 0


@options.verb("migrate", options.storage(), example="convsearch migrate")
def migrate(*, storage: str) -> int:
    """Migrate a database of an older version of Optuna."""
    from search.maintenance import migrate as migration

    migration.migrate(storage, echo)
    return 0


@options.verb(
    "completion",
    click.argument("shell", type=click.Choice(("bash", "zsh", "fish"))),
    click.pass_context,
    example="convsearch completion bash",
)
def completion(ctx: click.Context, shell: str) -> int:
    """Print a shell script that completes verbs, options, studies and trials."""
    from search.cli.completion import script

    sys.stdout.write(script(ctx.find_root().command, shell))
    return 0


def _with_finals(engine: "sa.Engine", name: str) -> tuple[str, ...]:
    """Return the names of a study and of its final trainings, if any."""
    from search.storage import queries

    return (name, *queries.verdicts(engine, name))


def _refuse_running(storage: "Storage", name: str) -> None:
    """Raise BusyError if a study is running on any machine."""
    from search.storage import queries
    from search.storage.leases import has_no_live_owner

    is_held = not has_no_live_owner(storage, storage.get_study_id_from_name(name), echo)
    running = queries.study(storage.engine, name).counts.running
    if is_held or running:
        raise BusyError(f"others work on {name!r}; `convsearch stop {name}` first")


def _delete_remote_checkpoints(storage: "Storage", name: str) -> None:
    """Delete the remote checkpoints of a study; print their location if that fails."""
    from search.artifacts import remote_checkpoints
    from search.artifacts.remote_store import RemoteStoreError
    from search.storage import queries

    row = queries.study(storage.engine, name)
    remote = remote_checkpoints.of(row.spec.get("checkpoints"), row.remote_key or "")
    if remote is None:
        return
    try:
        remote.delete_all()
    except RemoteStoreError as error:
        echo(f"checkpoints of {name!r} are left in {remote.place}: {error}")


def _is_confirmed(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
