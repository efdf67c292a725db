"""The verbs that train: run, resume, final. Slow modules are imported where they are used."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from search import tables
from search.cli import options, param_types
from search.cli.options import BackendOptions, MachineOptions, Session
from search.cli.results import final_table, hand_over, print_results, read_results, selection_lines
from search.console import echo
from search.errors import AllTrialsFailedError, AllTrialsImpossibleError, DatabaseError, DiskError, UsageError

if TYPE_CHECKING:
    from models.config import TestTimeAugmentation
    from search.service.session import RunOptions
    from search.spec.study_spec import StudySpec

#: Copy of the constant in `search.spec.settings`, which is not loaded for `--help`.
MAX_FINAL_TRAININGS = 10


@options.verb(
    "run",
    options.study_file(),
    click.option("--trials", type=param_types.COUNT, metavar="N", help="Budget of the whole study over all runs."),
    options.backend,
    options.hours(),
    options.retry_failed(),
    options.on_end(),
    options.machine,
    options.data(),
    click.option("--dry-run", is_flag=True, help="Only estimate time, memory and disk; write nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON; requires --dry-run."),
    click.option("--name", metavar="NAME", help="Name of the study (default: name of the file)."),
    options.overrides(),
    click.option("--again", type=int, metavar="N", help="Train the configuration of trial N again, to the end."),
    click.pass_obj,
    example="convsearch run cifar10 --trials 30 --workers 2",
)
def run(
    session: Session,
    study: str,
    *,
    trials: int | None,
    backend: BackendOptions,
    hours: float | None,
    retry_failed: bool,
    machine: MachineOptions,
    data: str | None,
    dry_run: bool,
    as_json: bool,
    name: str | None,
    overrides: Sequence[str],
    again: int | None,
) -> int:
    """Run a study, or resume it.

    STUDY is the name of a study in studies/, the path of a TOML file, or the path of your images: a directory, .zip or
    .tar of CLASS/* or train/CLASS/*. Images run the study `auto`, which fits itself to them. With --again STUDY is the
    name of a stored study.
    """
    if as_json and not dry_run:
        raise UsageError("--json is for --dry-run; `convsearch best STUDY --json` prints the results of a run")
    session.study = name or (Path(study).stem if again is None else f"{study}.again-{again}")
    wanted, default_name = (
        _from_file(study, trials=trials, data=data, overrides=overrides, timed=hours is not None)
        if again is None
        else _from_trial(study, again, machine, is_changed=bool(dry_run or data or overrides or trials))
    )
    study_name = default_name if name is None else name  # an empty name is refused like any invalid name
    session.study = study_name
    if dry_run:
        return _estimate(wanted, study_name, machine, hours=hours, as_json=as_json)
    order = replace(run_options(study_name, machine, hours=hours, retry_failed=retry_failed), trials=trials)
    return _run_study(order if again is None else replace(order, trials=1), wanted, backend)


@options.verb(
    "resume",
    options.stored_study(),
    click.option("--trials", type=param_types.COUNT, metavar="N", help="New budget of the whole study."),
    options.backend,
    options.hours(),
    options.retry_failed(),
    options.on_end(),
    options.machine,
    options.data("Images of the study, if they have moved."),
    click.pass_obj,
    example="convsearch resume cifar10 --hours 1",
)
def resume(
    session: Session,
    study: str,
    *,
    trials: int | None,
    backend: BackendOptions,
    hours: float | None,
    retry_failed: bool,
    machine: MachineOptions,
    data: str | None,
) -> int:
    """Resume a stored study."""
    from search.analysis import obstacles, study_tables
    from search.spec import stored_spec
    from search.storage import queries
    from search.storage.rdb import Storage
    from search.storage.read_only import open_reader
    from search.storage.records import search_name
    from search.study import stored_study

    session.study = study
    stored = stored_study.load(Storage(machine.storage), study)
    if trials is not None and stored.spec.verdict_on is not None:
        raise UsageError(
            f"{study!r} is a verdict, which has exactly one training for each configuration and seed; "
            f"`convsearch final {search_name(study)}` makes one with other settings"
        )
    engine = open_reader(machine.storage)
    row = queries.study(engine, study)
    is_over = stored.spec.final is None or final_table(engine, study) is not None
    if row.is_exhausted and is_over and not (retry_failed and row.counts.failed):
        echo(f"nothing to resume: {study_tables.all_tried(row)}")
        return 0
    if trials is None and row.counts.finished >= row.counts.budget and not retry_failed and is_over:
        obstacles.check_results(engine, row)
        more = "; --trials N raises its budget" if study_tables.can_grow(row) else ""
        echo(f"nothing to resume: all {row.counts.budget} trials of {study!r} are done{more}")
        return 0
    budget = stored.spec.budget.model_copy(update={"trials": trials or row.counts.budget})
    # `restore` refuses an invalid budget.
    wanted = stored_spec.restore(stored_spec.dump(replace(stored.spec, budget=budget)))
    if data is not None:
        wanted = stored_study.with_data_path(wanted, data)
    order = replace(run_options(study, machine, hours=hours, retry_failed=retry_failed), trials=trials)
    return _run_study(order, wanted, backend)


@options.verb(
    "final",
    options.stored_study(),
    click.option(
        "--top",
        type=param_types.Count(at_most=MAX_FINAL_TRAININGS),
        default=3,
        metavar="K",
        help="Number of best configurations to train (default: 3).",
    ),
    click.option(
        "--seeds",
        type=param_types.Count(at_most=MAX_FINAL_TRAININGS),
        default=3,
        metavar="S",
        help="Number of trainings per configuration (default: 3).",
    ),
    click.option(
        "--epochs",
        type=param_types.POSITIVE,
        metavar="E",
        help="Passes over train and validation images (default: those of [final], otherwise of the search).",
    ),
    click.option("--no-baseline", is_flag=True, help="Leave out the first [[try]] point, or the defaults."),
    options.tta(
        "Also test predictions averaged over mirrored, or mirrored and shifted images, and report both "
        "(default: as in [final], otherwise none)."
    ),
    options.json(),
    options.hours("Total time of all trainings; each has the number of epochs that its share allows."),
    options.retry_failed(),
    options.on_end(),
    options.machine,
    options.data("Images of the study, if they have moved."),
    click.pass_obj,
    example="convsearch final cifar10 --top 3 --seeds 3",
)
def final(
    session: Session,
    study: str,
    *,
    top: int,
    seeds: int,
    epochs: float | None,
    no_baseline: bool,
    augmentation: "TestTimeAugmentation | None",
    as_json: bool,
    hours: float | None,
    retry_failed: bool,
    machine: MachineOptions,
    data: str | None,
) -> int:
    """Train the best trials again with several seeds, and test them once."""
    from search.analysis import test_report, test_results
    from search.service import final as finals
    from search.spec.settings import FinalSettings
    from search.storage import queries
    from search.storage.read_only import open_reader
    from search.workers import live_view
    from search.workers.stop_rules import EXIT_CODES, StopReason

    session.study = study
    order = run_options(study, machine, hours=hours, retry_failed=retry_failed)
    wanted = FinalSettings(epochs=epochs, top=top, seeds=seeds, baseline=not no_baseline)
    name, end = finals.run_final(
        order,
        wanted,
        augmentation=augmentation,
        show=lambda _: live_view.open_view(sys.stderr, os.environ),
        say=echo,
        images=data,
    )
    engine = open_reader(machine.storage)
    row = queries.study(engine, name)
    if end is not StopReason.DONE or row.counts.finished < row.counts.budget:
        echo(f"{name}: {end}; the same command goes on")
        return EXIT_CODES.get(end, 0)
    result = test_results.load(engine, name)
    accesses = queries.test_set_accesses(engine, row.data["fingerprint"])
    lines = (*selection_lines(row), *test_report.test_set_access_lines(accesses, name))
    answer = test_report.final_result_json(result, accesses) | {"selection": row.selection}
    return tables.print_answer(answer, test_report.final_result_table(result, lines), as_json=as_json)


def parse_overrides(texts: Sequence[str], data: str | None) -> dict[str, str]:
    """Parse the values of --set and --data.

    Args:
        texts: values of --set, KEY=VALUE each.
        data: value of --data, or None.

    Returns:
        Dotted keys of the study file and their values as text.

    Raises:
        UsageError: a value of --set is not KEY=VALUE.
    """
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes a key and a value, as in --set budget.epochs=4, but got {text!r}")
        pairs[key] = value
    if data is not None:
        pairs |= {"data.source": "folder", "data.path": json.dumps(str(Path(data).absolute()), ensure_ascii=False)}
    return pairs


def run_options(
    name: str, machine: MachineOptions, *, hours: float | None = None, retry_failed: bool = False
) -> "RunOptions":
    """Return the options of a run.

    Args:
        name: name of the study.
        machine: options of the verb.
        hours: value of --hours.
        retry_failed: value of --retry-failed.
    """
    from search.service.session import RunOptions
    from search.storage.retry import Timeouts

    return RunOptions(
        url=machine.storage,
        cache=machine.cache,
        name=name,
        hours=hours,
        disk=machine.disk,
        workers=machine.workers,
        device=machine.device,
        retry_failed=retry_failed,
        times=Timeouts() if machine.hang is None else Timeouts(hang_timeout_s=machine.hang),
    )


def _from_file(
    study: str, *, trials: int | None, data: str | None, overrides: Sequence[str], timed: bool
) -> "tuple[StudySpec, str]":
    """Load a study file; returns the spec and the default name of the study."""
    from search.cli import study_argument
    from search.spec import study_spec

    argument = study_argument.resolve(study, data)
    changes = parse_overrides(overrides, argument.images) | ({} if trials is None else {"budget.trials": str(trials)})
    return study_spec.load(argument.file, changes, timed=timed), argument.name


def _from_trial(study: str, number: int, machine: MachineOptions, *, is_changed: bool) -> "tuple[StudySpec, str]":
    """Create a study that repeats one trial of another study; returns the spec and its name."""
    from search.service import run as service
    from search.storage import queries
    from search.storage.rdb import Storage
    from search.storage.read_only import open_reader
    from search.study import stored_study

    if is_changed:
        raise UsageError(
            "--again trains one trial as it is stored; leave out --dry-run, --data, --set and --trials beside it"
        )
    row = queries.trial(open_reader(machine.storage), study, number)
    spec = service.rerun_spec(stored_study.load(Storage(machine.storage), study), row)
    return spec, f"{study}.again-{number}"


def _estimate(wanted: "StudySpec", name: str, machine: MachineOptions, *, hours: float | None, as_json: bool) -> int:
    from search.artifacts import study_dir
    from search.service import dry_run, recipes
    from search.service import run as service
    from search.study.inputs import devices

    service.check_name(name, wanted, study_dir.of(machine.storage))
    wanted = recipes.with_recipe_if_here(
        wanted,
        machine.cache,
        devices=devices(wanted, machine.workers, device=machine.device),
        hours=hours or wanted.budget.hours,
        say=echo,
    )
    echo("training some networks for a moment ...")
    estimate = dry_run.estimate(wanted, workers=machine.workers, device=machine.device, hours=hours)
    return tables.print_answer(dry_run.estimate_json(estimate), dry_run.estimate_table(estimate), as_json=as_json)


def _run_study(order: "RunOptions", wanted: "StudySpec", backend: BackendOptions) -> int:
    """Run a study, and print its results at the end."""
    from search.service import run as service
    from search.workers import live_view
    from search.workers.stop_rules import EXIT_CODES

    if backend.join and (order.trials or order.hours or order.retry_failed or backend.detach):
        raise UsageError("--join only adds workers to a running study; leave out --join, or the options that change it")
    if backend.address and backend.engine != "ray":
        raise UsageError("--address names a Ray cluster; add --engine ray")
    order = replace(order, join=backend.join, detach=backend.detach, engine=backend.engine, address=backend.address)
    try:
        end = service.run_study(order, wanted, show=lambda _: live_view.open_view(sys.stderr, os.environ), say=echo)
    except (AllTrialsFailedError, AllTrialsImpossibleError):
        _print_search(order)  # only the last training has no result
        raise
    code = EXIT_CODES.get(end, 0)
    try:
        row, answers = read_results(order, is_stopped=code != 0)
    except (DatabaseError, DiskError) as error:
        if code == 0:
            raise
        echo(f"{order.name}: {end}; {error}")
        return code
    echo(f"{order.name}: {end}")
    print_results(row, answers)
    if code == 0 and row.recipe and len(answers) > 1:
        hand_over(order)
    return code


def _print_search(order: "RunOptions") -> None:
    """Print the results of a search whose last training has no result; nothing if the search has none either."""
    from search.storage import queries
    from search.storage.read_only import open_reader

    engine = open_reader(order.url)
    if queries.is_known(engine, order.name) and queries.study(engine, order.name).best is not None:
        print_results(*read_results(order, is_stopped=False))
