"""`convsearch final`: train the best of a search once more, on test images that nobody has chosen by."""

import time
from dataclasses import replace
from itertools import count

import optuna

from data.dataset import fetch
from data.progress import Say
from search.analysis import selection as selections
from search.analysis.selection import Selection
from search.artifacts import study_dir
from search.artifacts.study_dir import StudyDirs
from search.errors import SpecError, UsageError
from search.service.session import RunOptions, Show, exclusive, pool
from search.spec.settings import FinalSettings
from search.spec.stored_spec import difference
from search.spec.study_spec import StudySpec, baseline
from search.storage import queries, ranking
from search.storage.rdb import Storage
from search.study import final_plan, stored_study
from search.study.final_plan import Candidate, ResourceLayout
from search.study.inputs import devices, fetch_backbones, prepare_data, writing_to
from search.study.stored_study import StoredStudy
from search.workers.local import LocalBackend
from search.workers.stop_rules import StopReason

#: A last training of fewer would not be worth the look at the test images.
LEAST_EPOCHS = 0.5


def run_final(order: RunOptions, wanted: FinalSettings, *, show: Show, say: Say) -> tuple[str, StopReason]:
    """Train the best of a stored search once more as `wanted` says, and test them; the study of it, and how that ended.

    A verdict on the same terms is gone on with, or is there already; on others it is a further one.

    Raises:
        UsageError: there is nothing to judge. Else as `launch`.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = Storage(order.url)
    stored = stored_study.load(storage, order.name)
    if stored.spec.rows or stored.spec.verdict_on is not None:
        kind = "a comparison" if stored.spec.rows else "a verdict itself"
        raise UsageError(f"{order.name!r} is {kind}, and a verdict is on the best of a search; name one")
    with writing_to(order.cache):
        fetch(stored.spec.data, order.cache, say)
    fetch_backbones(stored.spec, say)
    since = time.monotonic()
    prepare_data(stored.spec, order.cache, say)
    if wanted.epochs is None and order.hours is None:
        own = stored.spec.final
        wanted = wanted.model_copy(update={"epochs": (own and own.epochs) or stored.spec.budget.epochs})
    spec = replace(stored.spec, final=wanted)
    selection = selections.select(storage.engine, queries.study(storage.engine, order.name))
    found = chosen(storage, replace(stored, spec=spec), selection)
    if not found:
        raise UsageError(f"no trial of {order.name!r} was judged; `convsearch resume {order.name}` goes on with it")
    terms, epochs = verdict_spec(order, stored, spec, found, hours=order.hours)
    if epochs < LEAST_EPOCHS:
        raise UsageError(
            f"in that time each training would have {epochs:.2f} epochs; give it more --hours, or fewer --seeds"
        )
    verdict = find_or_create_final(
        storage, stored, terms, study_dir.of(order.url), is_timed=wanted.epochs is None, say=say
    )
    keep(storage, verdict, selection)
    counts = queries.study(storage.engine, verdict.name).counts
    if counts.finished >= counts.budget and not (order.retry_failed and counts.failed):
        return verdict.name, StopReason.DONE
    return verdict.name, run_verdict(order, storage, verdict, show, say, since=since)


def find_or_create_final(
    storage: Storage, stored: StoredStudy, terms: StudySpec, files: StudyDirs, *, is_timed: bool, say: Say
) -> StoredStudy:
    """The verdict on a search on these terms: the one that is there, or a new one behind those on other terms.

    `is_timed`: its time says how many epochs there are, which then are those that it was begun with: what this machine
    could plan depends on its cores and on who else uses it. Raises UsageError where its name would be too long for a
    folder's.
    """
    for place in count(1):
        name = final_plan.name_of(stored.name, place)
        files.study(name)
        if not queries.is_known(storage.engine, name):
            break
        known = stored_study.check_final_of(stored_study.load(storage, name), stored)
        planned = known.spec.budget.model_dump(include={"epochs", "steps_per_epoch", "evaluations"})
        same = replace(terms, budget=terms.budget.model_copy(update=planned)) if is_timed else terms
        if not difference(known.spec, same):
            terms = same
            break
        if queries.study(storage.engine, name).counts.to_do:
            say(f"{name}, a verdict on other terms, is unfinished; `convsearch resume {name}` goes on with it")
    return stored_study.open_or_create(storage, terms, name=name, data=stored.data)


def run_verdict(
    order: RunOptions, storage: Storage, verdict: StoredStudy, show: Show, say: Say, *, since: float
) -> StopReason:
    """Run a study `NAME.final`, on all cores or GPUs. Its time is counted from `since` on."""
    places = devices(verdict.spec, order.workers, device=order.device)
    layout = layout_of(places, trainings=verdict.spec.budget.trials)
    say(f"{verdict.name}: {verdict.spec.question}")
    own = replace(order, name=verdict.name, trials=None, hours=None)
    workers = LocalBackend(places[: layout.workers])
    with exclusive(storage, verdict, own, say), show(verdict) as view:
        return pool(own, storage, verdict, workers, view, since=since, threads=layout.threads).run()


def layout_of(places: tuple[str, ...], *, trainings: int) -> ResourceLayout:
    """Workers and threads of the final trainings: one thread feeds a GPU; spare cores become more threads."""
    found = final_plan.layout(cores=len(places), trainings=trainings)
    return found if places[0] == "cpu" else replace(found, threads=1)


def verdict_study(
    order: RunOptions, storage: Storage, stored: StoredStudy, say: Say, *, hours: float | None
) -> StoredStudy | None:
    """The study that trains who leads for the last time, made for `hours` at the most if it is not there yet; None if
    there is nothing to train or no time, which is said.

    Once made it stays with its trials, whatever the search finds later: the test images are looked at once. What it
    trains is stored before it is made, so that it is the same after a kill in between.

    Raises:
        SpecError: there is one of a deleted study of the same name.
    """
    name = final_plan.name_of(stored.name)
    row = queries.study(storage.engine, stored.name)
    selection = selections.stored(row)
    if queries.is_known(storage.engine, name):
        return known_verdict(storage, stored, selection)
    if selection is None:
        selection = selections.select(storage.engine, row)
    found = chosen(storage, stored, selection)
    if not found:
        say("no trial has a validation score yet, so there is nothing to train finally; it needs more hours or trials")
        return None
    say(selection.reason)
    wanted, epochs = verdict_spec(order, stored, stored.spec, found, hours=hours)
    if epochs < LEAST_EPOCHS:
        say(f"in the time that is left the last training would have {epochs:.2f} epochs; --hours gives it more")
        return None
    keep(storage, stored, selection)
    try:
        verdict = stored_study.open_or_create(storage, wanted, name=name, data=stored.data)
    except SpecError:  # another machine, which had more time or cores, was a moment earlier
        return known_verdict(storage, stored, selection)
    keep(storage, verdict, selection)
    return verdict


def chosen(storage: Storage, stored: StoredStudy, selection: Selection) -> tuple[Candidate, ...]:
    """The configurations that are trained for the last time, the selected one first."""
    if selection.trial is None:
        return ()
    selected = queries.trial(storage.engine, stored.name, selection.trial)
    leading = [trial for trial, _ in ranking.ranked_by_best_value(storage.engine, stored.name)]
    number = baseline(stored.spec)
    known = None if number is None else queries.trial(storage.engine, stored.name, number).config
    return final_plan.candidates(stored.spec, leading, selected=selected, known=known)


def keep(storage: Storage, stored: StoredStudy, selection: Selection | None) -> None:
    """Store what a last training trains, and why, unless that is known."""
    if selection is not None and queries.study(storage.engine, stored.name).selection is None:
        stored_study.set_attrs(storage, stored.id, selection=selection.as_json())


def verdict_spec(
    order: RunOptions, stored: StoredStudy, spec: StudySpec, found: tuple[Candidate, ...], *, hours: float | None
) -> tuple[StudySpec, float]:
    """The study of the last trainings of these, by the [final] of `spec`, and how many epochs each has time for."""
    trainings = len(found) * (spec.final or FinalSettings()).seeds
    layout = layout_of(devices(spec, order.workers, device=order.device), trainings=trainings)
    images = sum(stored.data["train_counts"])
    wanted = final_plan.final_spec(spec, found, uid=stored.uid, hours=hours, images=images, layout=layout)
    return wanted, final_plan.affordable_epochs(spec, found, hours=hours, images=images, layout=layout)


def known_verdict(storage: Storage, stored: StoredStudy, selection: Selection | None) -> StoredStudy:
    """The study of the last training that is there already; it reads its images where its search reads them now."""
    verdict = stored_study.check_final_of(stored_study.load(storage, final_plan.name_of(stored.name)), stored)
    keep(storage, verdict, selection)
    moved = stored_study.with_data_path(verdict.spec, stored.spec.data.path)
    return stored_study.open_or_create(storage, moved, name=verdict.name, data=stored.data)
