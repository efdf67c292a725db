"""Invariants of a study after any fault: checked from outside while no process runs it, on SQLite and PostgreSQL.

I1 exact budget, I2 no trial stuck in RUNNING, I3 one record for each trial and none changed, I4 curves agree with
checkpoints, I5 the best value is reproducible, I7 nothing left behind. (I6, that no search opens a test image, holds
of these runs because their images have no test part: `cache` in conftest.py.)
"""

import hashlib
import json
import math
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import sqlalchemy as sa

from data.batches import evaluation
from models.evaluate import evaluate
from models.train import start
from search.artifacts import checkpoint
from search.artifacts.study_dir import StudyDirs
from search.process import start_time
from search.spec import stored_spec, study_spec
from search.storage import queries, ranking
from search.storage.read_only import open_reader, sqlite_path
from search.storage.records import TrialRecord
from search.trial import runner
from search.trial.trial_training import step_boundaries
from tests.harness import Harness

#: The tables that hold rows of a trial, and the columns that order them.
TRIAL_ROWS = {
    "trials": "trial_id",
    "trial_params": "param_name",
    "trial_values": "objective",
    "trial_intermediate_values": "step",
    "trial_user_attributes": "key",
    "trial_system_attributes": "key",
}
FINISHED = ("COMPLETE", "PRUNED", "FAIL")
#: An orphan notices the loss of its parent at once, unless it still loads torch: half a minute on a busy machine.
ORPHANS_S = 60.0


def check(
    harness: Harness,
    name: str = "s",
    *,
    before: Mapping[int, str] | None = None,
    over: bool = False,
    ended: bool = False,
) -> None:
    """Check all invariants of a study that no process runs.

    Args:
        harness: Its database and its files.
        name: The name of the study.
        before: An earlier result of `finished`.
        over: Whether the study must be done.
        ended: Whether the last launcher ended by itself, and so has put every trial back.

    Raises:
        AssertionError: An invariant is broken; the message begins with its number.
    """
    _no_process_is_left(harness)
    with _connection(harness.url) as connection:
        study_id = None if connection is None else _study_id(connection, name)
        if connection is None or study_id is None:
            assert not before, f"I3: {name!r} and its finished trials are gone"
            assert not over, f"I1: {name!r} is over, and was never begun"
            return
        _the_database_file_is_intact(connection, harness)
        _the_budget_is_exact(connection, study_id, over=over)
        _no_trial_is_stuck(connection, study_id, none_runs=over or ended)
        _every_trial_is_recorded_once(connection, study_id)
    _finished_trials_are_unchanged(harness.url, name, before or {})
    for trial in harness.trials(name):
        _the_curve_agrees_with_the_checkpoint(harness, trial)
        _the_value_is_the_end_of_the_curve(harness, trial)
    for dirs in harness.homes:
        _no_file_is_half_written(harness, dirs, name)
    if over:
        best_is_reproducible(harness, name)


def finished(url: str, name: str = "s") -> dict[int, str]:
    """SHA-256 over every stored row of each finished trial, by number; empty if there is no such study yet."""
    with _connection(url) as connection:
        study_id = None if connection is None else _study_id(connection, name)
        if connection is None or study_id is None:
            return {}
        trials = _trials(connection, study_id, "number, trial_id, state")
        digests = _digests(connection, study_id)
        return {number: digests[trial_id] for number, trial_id, state in sorted(trials) if state in FINISHED}


def compare(url: str, name: str, before: Mapping[int, str]) -> dict[int, str]:
    """Check I1, and I3 against `before`, while the study may run; returns the current result of `finished`."""
    with _connection(url) as connection:
        study_id = None if connection is None else _study_id(connection, name)
        if connection is not None and study_id is not None:
            _the_budget_is_exact(connection, study_id, over=False)
            _every_trial_is_recorded_once(connection, study_id)
    return _finished_trials_are_unchanged(url, name, before)


def rows(url: str, query: str, **values: object) -> list[tuple[Any, ...]]:
    """The rows of a query in the common SQL of both databases; no rows if there are no studies yet."""
    with _connection(url) as connection:
        if connection is None or not _holds_studies(connection):
            return []
        return _rows(connection, query, **values)


def all_completed_at_first_attempt(harness: Harness, name: str = "s") -> None:
    """Check that every trial was completed at its first attempt."""
    ends = [(trial.number, trial.state, trial.attempts, trial.crashes) for trial in harness.trials(name)]
    others = [end for end in ends if end[1:] != ("COMPLETE", 1, ())]
    assert not others, f"not completed at the first attempt: {others}"


def best_is_reproducible(harness: Harness, name: str = "s") -> None:
    """I5: the best value is finite, and its checkpoint reaches it again on the validation images."""
    shown = ranking.best(open_reader(harness.url), name)
    if not shown.trials:
        return
    (best,) = shown.trials
    again = measured_again(harness, best)
    assert math.isfinite(best.values[0]), f"I5: the best value is {best.values[0]}"
    assert again == best.values[0], f"I5: trial {best.number} has {best.values[0]}, but its checkpoint {again}"


def measured_again(harness: Harness, trial: TrialRecord) -> float:
    """The objective of a finished trial on the validation images, from its last checkpoint."""
    context = runner.open_training_context(harness.worker_config(trial.study))
    spec, data = context.study.spec, context.data
    model, train, _ = study_spec.to_model_configs(spec, trial.config)
    images = len(data.train)
    step_epochs = spec.budget.step_epochs(images=images, macs=trial.macs or 0)
    ends = step_boundaries(step_images=step_epochs * images, batch_size=train.batch_size, steps=spec.budget.steps)
    training = start(
        model,
        train,
        image_size=data.info.image_size,
        classes=len(data.info.classes),
        total_batches=ends[-1],
        seed=int(trial.seed or 0),
        device="cpu",
    )
    latest = checkpoint.latest(
        harness.home_of(trial).trial(trial.study, trial.number), study=context.study.uid, trial=trial.number
    )
    assert latest is not None, f"I5: the best trial, {trial.number}, has no checkpoint"
    state: Any = latest[1]
    training.load(state)
    result = evaluate(training.eval_model(), evaluation(data.validation, data.info), len(data.info.classes))
    return float(getattr(result, spec.search.objectives[0]))


def processes(harness: Harness) -> list[psutil.Process]:
    """The living processes whose command line, folder, environment or open files name the folder of the harness."""
    ancestors = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in ancestors and _belongs(process, str(harness.folder))
    ]


# -- I7 --------------------------------------------------------------------------------------------------------


def _no_process_is_left(harness: Harness) -> None:
    _, left = psutil.wait_procs(processes(harness), timeout=ORPHANS_S)
    shown = [(process.pid, process.cmdline()) for process in left if process.is_running()]
    assert not shown, f"I7: orphans: {shown}"


def _belongs(process: psutil.Process, folder: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        words = [*process.cmdline(), process.cwd(), *process.environ().values()]
        return any(folder in text for text in [*words, *(file.path for file in process.open_files())])
    except (psutil.Error, OSError):  # the process ended meanwhile, or belongs to another user
        return False


def _the_database_file_is_intact(connection: sa.Connection, harness: Harness) -> None:
    if connection.dialect.name != "sqlite":  # a server enforces its foreign keys, and its files are private
        return
    problems = [text for (text,) in _rows(connection, "PRAGMA integrity_check")]
    strangers = _rows(connection, "PRAGMA foreign_key_check")
    journal = Path(f"{sqlite_path(harness.url)}-journal")
    assert problems == ["ok"], f"I7: the database is damaged: {problems}"
    assert not strangers, f"I7: rows that belong to nothing: {strangers}"
    # A journal whose header was never written holds nothing to roll back, and the next write removes it.
    hot = journal.exists() and journal.read_bytes()[:1] not in (b"", b"\0")
    assert not hot, "I7: a hot journal is still there after a read"


def _no_file_is_half_written(harness: Harness, dirs: StudyDirs, name: str) -> None:
    """Every checkpoint is intact; partial files lie only in folders of unfinished trials, which remove them later."""
    unfinished = {dirs.trial(name, trial.number) for trial in harness.trials(name) if trial.state not in FINISHED}
    left = [path for path in dirs.study(name).rglob("*.part") if path.parent not in unfinished]
    assert not left, f"I7: half-written files: {left}"
    for path in dirs.study(name).rglob("*.ckpt"):
        checkpoint.load(path)  # raises CorruptCheckpoint with the name of the file


# -- I1, I2, I3 ------------------------------------------------------------------------------------------------


def _the_budget_is_exact(connection: sa.Connection, study_id: int, *, over: bool) -> None:
    attribute = "SELECT value_json FROM study_user_attributes WHERE study_id = :study_id AND key = 'trials'"
    budgets = _rows(connection, attribute, study_id=study_id)
    states = [state for (state,) in _trials(connection, study_id, "state")]
    if not budgets:  # the launcher died between the study's row and its attributes
        assert not states, "I1: there are trials without a budget"
        assert not over, "I1: the study has no budget"
        return
    budget = json.loads(budgets[0][0])
    open_states = {"RUNNING", "WAITING"} & set(states)
    assert len(states) <= budget, f"I1: {len(states)} trials, but a budget of {budget}"
    assert not over or len(states) == budget, f"I1: the study is over with {len(states)} of {budget} trials"
    assert not (over and open_states), f"I1: the study is over, but trials are {sorted(open_states)}"


def _no_trial_is_stuck(connection: sa.Connection, study_id: int, *, none_runs: bool) -> None:
    """Every RUNNING trial has a lease of a dead owner, which the next run can take back; no other trial has a lease."""
    running = {trial_id for trial_id, state in _trials(connection, study_id, "trial_id, state") if state == "RUNNING"}
    held = "SELECT trial_id, pid, started FROM convsearch_leases WHERE study_id = :study_id"
    leases = {trial_id: (pid, began) for trial_id, pid, began in _rows(connection, held, study_id=study_id)}
    assert not (none_runs and running), f"I2: trial ids {running} are RUNNING, and no process runs the study"
    assert running <= leases.keys(), f"I2: trial ids {running - leases.keys()} are RUNNING without a lease, for ever"
    assert leases.keys() <= running, f"I2: leases of trial ids {leases.keys() - running}, which are not RUNNING"
    living = {trial_id: pid for trial_id, (pid, began) in leases.items() if not _is_dead(pid, began)}
    assert not living, f"I2: no process runs the study, but these owners live: {living}"


def _is_dead(pid: int, began: float) -> bool:
    """Wait for a process that is being killed: it has no command line and no files, and is missing in `processes`."""
    deadline = time.monotonic() + ORPHANS_S
    while (since := start_time(pid)) is not None and abs(since - began) < 1.0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _every_trial_is_recorded_once(connection: sa.Connection, study_id: int) -> None:
    count = "(SELECT COUNT(*) FROM trial_values WHERE trial_values.trial_id = trials.trial_id)"
    trials = sorted(_trials(connection, study_id, f"number, state, {count}"))
    numbers = [number for number, _, _ in trials]
    assert numbers == list(range(len(numbers))), f"I3: the numbers are {numbers}"
    for number, state, values in trials:
        allowed = {"COMPLETE": (1,), "PRUNED": (0, 1)}.get(state, (0,))
        assert values in allowed, f"I3: trial {number} is {state} with {values} values"


def _finished_trials_are_unchanged(url: str, name: str, before: Mapping[int, str]) -> dict[int, str]:
    after = finished(url, name)
    changed = sorted(number for number, digest in before.items() if after.get(number) != digest)
    assert not changed, f"I3: finished trials changed: {changed}"
    return after


# -- I4, I5 ----------------------------------------------------------------------------------------------------


def _the_curve_agrees_with_the_checkpoint(harness: Harness, trial: TrialRecord) -> None:
    """A checkpoint is written before its step is reported: it may be one step ahead, and is never behind."""
    assert [step for step, _ in trial.curve] == list(range(1, len(trial.curve) + 1)), f"I4: holes in {trial}"
    kept = _last_curve(harness.home_of(trial).trial(trial.study, trial.number))
    if kept is None:
        is_behind = trial.paused is not None or _is_trained_again(
            harness, trial
        )  # a paused trial may have lost its checkpoint at the rung
        lost = trial.curve and trial.state in ("RUNNING", "WAITING") and not is_behind
        assert not lost, f"I4: trial {trial.number} has {len(trial.curve)} steps to do again: it has no checkpoint"
        return
    ahead = len(kept) - len(trial.curve)
    assert kept[: len(trial.curve)] == trial.curve, f"I4: trial {trial.number}: {trial.curve} stored, {kept} kept"
    most = 0 if trial.state in ("COMPLETE", "PRUNED") else 1
    assert ahead <= most, f"I4: the checkpoint of trial {trial.number} ({trial.state}) is {ahead} steps ahead"
    assert ahead >= 0 or _is_trained_again(harness, trial), (
        f"I4: the checkpoint of trial {trial.number} ({trial.state}) is {ahead} steps ahead"
    )


def _is_trained_again(harness: Harness, trial: TrialRecord) -> bool:
    """Whether its log records that it went on from a rung without a checkpoint."""
    log = harness.home_of(trial).log(trial.study, trial.number)
    return "are trained again" in log.read_text() if log.exists() else False


def _last_curve(folder: Path) -> tuple[tuple[int, float], ...] | None:
    files = sorted(folder.glob("*.ckpt"))
    return checkpoint.load(files[-1])[0].curve if files else None


def _the_value_is_the_end_of_the_curve(harness: Harness, trial: TrialRecord) -> None:
    if trial.state != "COMPLETE":
        return
    steps = stored_spec.restore(queries.study(open_reader(harness.url), trial.study).spec).budget.steps
    assert len(trial.curve) == steps, f"I5: trial {trial.number} is COMPLETE after {len(trial.curve)} of {steps} steps"
    assert trial.values == (trial.curve[-1][1],), (
        f"I5: trial {trial.number}: {trial.values} at the end of {trial.curve}"
    )


# -- the database, by plain SQL --------------------------------------------------------------------------------


@contextmanager
def _connection(url: str) -> Iterator[sa.Connection | None]:
    """A connection to the database; None if there is no file yet."""
    file = sqlite_path(url)
    if file is not None and not file.exists():
        yield None
        return
    with _engine(url, file).connect() as connection:
        yield connection


def _engine(url: str, file: Path | None) -> sa.Engine:
    if file is None:
        return sa.create_engine(url, poolclass=sa.NullPool)
    # Not mode=ro: a process killed in the middle of a write leaves a journal that the next reader rolls back.
    existing = partial(sqlite3.connect, f"file:{quote(str(file))}?mode=rw", uri=True, timeout=30.0)
    return sa.create_engine("sqlite://", creator=existing, poolclass=sa.NullPool)


def _holds_studies(connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table("studies")


def _study_id(connection: sa.Connection, name: str) -> int | None:
    if not _holds_studies(connection):
        return None
    studies = _rows(connection, "SELECT study_id FROM studies WHERE study_name = :name", name=name)
    return int(studies[0][0]) if studies else None


def _trials(connection: sa.Connection, study_id: int, columns: str) -> list[tuple[Any, ...]]:
    return _rows(connection, f"SELECT {columns} FROM trials WHERE study_id = :study_id", study_id=study_id)


def _digests(connection: sa.Connection, study_id: int) -> dict[int, str]:
    """By trial id: SHA-256 over every stored row."""
    stored: dict[int, list[object]] = defaultdict(list)
    of_study = "SELECT trial_id FROM trials WHERE study_id = :study_id"
    for table, order in TRIAL_ROWS.items():
        query = sa.text(f"SELECT * FROM {table} WHERE trial_id IN ({of_study}) ORDER BY {order}")
        for row in connection.execute(query, {"study_id": study_id}):
            stored[row.trial_id].append((table, *row))
    return {trial_id: hashlib.sha256(repr(rows).encode()).hexdigest() for trial_id, rows in stored.items()}


def _rows(connection: sa.Connection, query: str, **values: object) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(sa.text(query), values)]
