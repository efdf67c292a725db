"""`convsearch final`: train the best trials of a search once more, and test them on images not used for selection."""

import time
from dataclasses import replace
from itertools import count

import optuna

from data.progress import Say
from models.config import TestTimeAugmentation
from search.analysis import obstacles
from search.analysis import selection as selections
from search.analysis.selection import Selection
from search.artifacts import study_dir
from search.artifacts.study_dir import StudyDirs
from search.errors import SpecError, UsageError
from search.service.session import RunOptions, Show, exclusive, pool
from search.spec.fit import nearest
from search.spec.settings import FinalSettings
from search.spec.stored_spec import difference
from search.spec.study_spec import StudySpec, baseline
from search.storage import attr_keys, queries, ranking
from search.storage.rdb import Storage
from search.study import final_plan, stored_study
from search.study.final_plan import BASELINE, Candidate, ResourceLayout
from search.study.inputs import check_same_images, devices, fetch_inputs, prepare_data
from search.study.stored_study import StoredStudy
from search.study.strategy import known_point, limits_of
from search.workers.local import LocalBackend
from search.workers.stop_rules import StopReason

#: Minimum length of a final training; fewer epochs do not justify the use of the test images.
LEAST_EPOCHS = 0.5


def run_final(
    order: RunOptions,
    wanted: FinalSettings,
    *,
    augmentation: TestTimeAugmentation | None,
    show: Show,
    say: Say,
    images: str | None = None,
) -> tuple[str, StopReason]:
    """Train the best trials of a stored search once more, and test them.

    A verdict with the same settings is continued or returned; other settings create a further one.

    Args:
        order: Options of the command; `name` is the search.
        wanted: Settings of the final trainings, without `test_time_augmentation`.
        augmentation: Test-time augmentation; None for that of the [final] of the search.
        show: Opens the live view.
        say: Prints a message to the user.
        images: Path of the images, if they have moved.

    Returns:
        The name of the verdict study, and why its run ended.

    Raises:
        UsageError: there is nothing to train.
        AllTrialsFailedError, AllTrialsImpossibleError: the search or its verdict has no result. Other errors as in
            `run_study`.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = Storage(order.url)
    stored = stored_study.load(storage, order.name)
    if stored.spec.rows or stored.spec.verdict_on is not None:
        kind = "a comparison" if stored.spec.rows else "a verdict itself"
        raise UsageError(f"{order.name!r} is {kind}, and a verdict is on the best of a search; name a search")
    if images is not None:
        stored = replace(stored, spec=stored_study.with_data_path(stored.spec, images))
    fingerprint = stored.data["fingerprint"] if images is None else None
    fetch_inputs(stored.spec, order.cache, say)
    since = time.monotonic()
    check_same_images(stored, prepare_data(stored.spec, order.cache, say, fingerprint=fingerprint))
    settings = stored.spec.final or FinalSettings()
    wanted = wanted.model_copy(update={"test_time_augmentation": augmentation or settings.test_time_augmentation})
    if wanted.epochs is None and order.hours is None:
        wanted = wanted.model_copy(update={"epochs": settings.epochs or stored.spec.budget.epochs})
    spec = replace(stored.spec, final=wanted)
    selection = selections.select(storage.engine, queries.study(storage.engine, order.name))
    candidates = chosen(storage, replace(stored, spec=spec), selection)
    if not candidates:
        obstacles.check_results(storage.engine, queries.study(storage.engine, order.name))
        raise UsageError(f"no trial of {order.name!r} was judged; `convsearch resume {order.name}` goes on with it")
    final_spec, epochs = verdict_spec(order, stored, spec, candidates, hours=order.hours)
    if epochs < LEAST_EPOCHS:
        raise UsageError(
            f"in that time each training would have {epochs:.2f} epochs; give it more --hours, or fewer --seeds"
        )
    verdict = find_or_create_final(
        storage, stored, final_spec, study_dir.of(order.url), is_timed=wanted.epochs is None, say=say
    )
    keep(storage, verdict, selection)
    counts = queries.study(storage.engine, verdict.name).counts
    if counts.finished >= counts.budget and not (order.retry_failed and counts.failed):
        obstacles.check_results(storage.engine, queries.study(storage.engine, verdict.name))
        return verdict.name, StopReason.DONE
    return verdict.name, run_verdict(order, storage, verdict, show, say, since=since)


def find_or_create_final(
    storage: Storage, stored: StoredStudy, terms: StudySpec, dirs: StudyDirs, *, is_timed: bool, say: Say
) -> StoredStudy:
    """The verdict on a search with these terms: an existing one, or a new one after those with other terms.

    A verdict with test-time augmentation has the plain results, too, so it also answers a command without it.

    Args:
        storage: Database of the search.
        stored: The search.
        terms: Spec of the verdict.
        dirs: Folders of the studies.
        is_timed: Whether the number of epochs follows from the time. An existing verdict then keeps the epochs that it
            was begun with, because the plan depends on the cores and the load of this machine.
        say: Prints a message to the user.

    Raises:
        UsageError: the name of the verdict is too long for a folder.
    """
    for index in count(1):
        name = final_plan.name_of(stored.name, index)
        dirs.study(name)
        if not queries.is_known(storage.engine, name):
            break
        existing = stored_study.check_final_of(stored_study.load(storage, name), stored)
        planned_budget = existing.spec.budget.model_dump(include={"epochs", "steps_per_epoch", "evaluations"})
        comparable = replace(terms, budget=terms.budget.model_copy(update=planned_budget)) if is_timed else terms
        has_evaluation = terms.test_time_augmentation in ("none", existing.spec.test_time_augmentation)
        if has_evaluation and not difference(existing.spec, comparable):
            terms = comparable
            break
        if queries.study(storage.engine, name).counts.to_do:
            say(f"{name}, a verdict on other terms, is unfinished; `convsearch resume {name}` goes on with it")
    return stored_study.open_or_create(storage, terms, name=name, data=stored.data)


def run_verdict(
    order: RunOptions, storage: Storage, verdict: StoredStudy, show: Show, say: Say, *, since: float
) -> StopReason:
    """Run a study `NAME.final` on all cores or GPUs.

    Args:
        order: Options of the command; its budget is not used.
        storage: Database of the study.
        verdict: The study to run.
        show: Opens the live view.
        say: Prints a message to the user.
        since: Start of its run time, monotonic seconds.

    Returns:
        Why the run ended.
    """
    device_names = devices(verdict.spec, order.workers, device=order.device)
    layout = layout_of(device_names, trainings=verdict.spec.budget.trials)
    say(f"{verdict.name}: {verdict.spec.question}")
    final_order = replace(order, name=verdict.name, trials=None, hours=None)
    backend = LocalBackend(device_names[: layout.workers])
    with exclusive(storage, verdict, final_order, say), show(verdict) as view:
        return pool(final_order, storage, verdict, backend, view, since=since, threads=layout.threads).run()


def layout_of(device_names: tuple[str, ...], *, trainings: int) -> ResourceLayout:
    """Workers and threads of the final trainings: one thread per GPU worker; on CPU, spare cores add threads."""
    layout = final_plan.layout(cores=len(device_names), trainings=trainings)
    return layout if device_names[0] == "cpu" else replace(layout, threads=1)


def verdict_study(
    order: RunOptions, storage: Storage, stored: StoredStudy, say: Say, *, hours: float | None
) -> StoredStudy | None:
    """The verdict study of a search; created if it does not exist.

    Once created it keeps its trials, whatever the search finds later, because the test images are used once. The
    selection is stored first, and so survives a kill before the creation.

    Args:
        order: Options of the command.
        storage: Database of the search.
        stored: The search.
        say: Prints a message to the user.
        hours: Time limit of the final trainings; None is no limit.

    Returns:
        The verdict study; None, after a message, if there is nothing to train or too little time.

    Raises:
        SpecError: a verdict of a deleted study with the same name exists.
    """
    name = final_plan.name_of(stored.name)
    record = queries.study(storage.engine, stored.name)
    selection = selections.stored(record)
    if queries.is_known(storage.engine, name):
        return known_verdict(storage, stored, selection)
    if selection is None:
        selection = selections.select(storage.engine, record)
    candidates = chosen(storage, stored, selection) or (unjudged(storage, stored) if record.recipe else ())
    if not candidates:
        obstructed = queries.obstructed(storage.engine, stored.name)
        why = obstacles.report(record, obstructed) or ("it needs more hours or trials",)
        say("no trial has a validation score yet, so there is nothing to train finally; " + "\n".join(why))
        return None
    if selection.trial is None:
        selection = Selection(
            trial=None, reason="the baseline, the recipe, is delivered: there was no time to judge a trial"
        )
    say(selection.reason)
    final_spec, epochs = verdict_spec(order, stored, stored.spec, candidates, hours=hours)
    if epochs < LEAST_EPOCHS:
        say(f"in the time that is left the last training would have {epochs:.2f} epochs; --hours gives it more")
        return None
    keep(storage, stored, selection)
    try:
        verdict = stored_study.open_or_create(storage, final_spec, name=name, data=stored.data)
    except SpecError:  # another machine, with more time or cores, created it first
        return known_verdict(storage, stored, selection)
    keep(storage, verdict, selection)
    return verdict


def chosen(storage: Storage, stored: StoredStudy, selection: Selection) -> tuple[Candidate, ...]:
    """The configurations of the final trainings, the selected one first."""
    if selection.trial is None:
        return ()
    selected = queries.trial(storage.engine, stored.name, selection.trial)
    leading = [trial for trial, _ in ranking.ranked_by_best_value(storage.engine, stored.name)]
    baseline_number = baseline(stored.spec)
    baseline_config = (
        None if baseline_number is None else queries.trial(storage.engine, stored.name, baseline_number).config
    )
    return final_plan.candidates(stored.spec, leading, selected=selected, known=baseline_config)


def unjudged(storage: Storage, stored: StoredStudy) -> tuple[Candidate, ...]:
    """The recipe, for a search that had no time for a trial; nothing if trials ended without a result."""
    if baseline(stored.spec) is None or queries.obstructed(storage.engine, stored.name):
        return ()
    spec, limits = stored.spec, limits_of(stored)
    config = known_point(spec)
    if limits is not None and spec.budget.epochs is not None:
        config = nearest(spec, config, limits)
    return (Candidate(name=BASELINE, config={key: config[key] for key in spec.space.parameters}),)


def keep(storage: Storage, stored: StoredStudy, selection: Selection | None) -> None:
    """Store the selection for the final training and its reason, unless one is stored."""
    if selection is not None and queries.study(storage.engine, stored.name).selection is None:
        stored_study.set_attrs(storage, stored.id, {attr_keys.SELECTION: selection.as_json()})


def verdict_spec(
    order: RunOptions,
    stored: StoredStudy,
    spec: StudySpec,
    candidates: tuple[Candidate, ...],
    *,
    hours: float | None,
) -> tuple[StudySpec, float]:
    """Spec of the final trainings.

    Args:
        order: Options of the command.
        stored: The search.
        spec: Spec of the search; its [final] applies.
        candidates: Configurations to train.
        hours: Time limit of all trainings; None is no limit.

    Returns:
        The spec of the verdict study, and the epochs for which each training has time.
    """
    trainings = len(candidates) * (spec.final or FinalSettings()).seeds
    layout = layout_of(devices(spec, order.workers, device=order.device), trainings=trainings)
    images = sum(stored.data["train_counts"])
    final_spec = final_plan.final_spec(spec, candidates, uid=stored.uid, hours=hours, images=images, layout=layout)
    return final_spec, final_plan.affordable_epochs(spec, candidates, hours=hours, images=images, layout=layout)


def known_verdict(storage: Storage, stored: StoredStudy, selection: Selection | None) -> StoredStudy:
    """The existing verdict study; it uses the current data path of its search."""
    verdict = stored_study.check_final_of(stored_study.load(storage, final_plan.name_of(stored.name)), stored)
    keep(storage, verdict, selection)
    relocated_spec = stored_study.with_data_path(verdict.spec, stored.spec.data.path)
    return stored_study.open_or_create(storage, relocated_spec, name=verdict.name, data=stored.data)
