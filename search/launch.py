"""`convsearch run`: from a spec to finished trials, on this machine."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import optuna

from data.config import DataConfig
from data.dataset import fetch, prepare
from data.errors import DataError
from search import care, final, home, lease, machine, query, study
from search.errors import BusyError, DatabaseError, DiskError, SpecError, UsageError
from search.final import Contestant, Crew
from search.home import Home
from search.pool import End, Pool
from search.post import Post
from search.progress import View
from search.room import Room
from search.rows import FINAL, TrialRow, is_verdict, searched
from search.settings import Final
from search.spec import StudySpec, difference, of_one, queue
from search.storage import Storage
from search.study import StoredStudy
from search.times import Times

#: A last training of fewer would not be worth the look at the test images.
LEAST_EPOCHS = 0.5

Say = Callable[[str], None]
Show = Callable[[StoredStudy], AbstractContextManager[View]]
"""Opens the live view of a study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a command asks for beside the spec."""

    url: str
    cache: Path
    name: str
    trials: int | None = None
    """Budget of the whole study; None is the spec's."""
    hours: float | None = None
    """Wall-clock for this run; None is what is left of the spec's `hours`, which are for all runs together."""
    disk: float | None = None
    """GB that the files of all studies in the home folder may take; None is what the disk has, but for a reserve."""
    workers: int | None = None
    """None is one a core, or one a GPU."""
    device: str | None = None
    """cpu or cuda; None is whatever there is."""
    join: bool = False
    """Add workers to a study that another process of this machine runs."""
    retry_failed: bool = False
    times: Times = field(default_factory=Times)


def launch(order: Order, spec: StudySpec, *, show: Show, say: Say) -> End:
    """Run the study until its budget is spent or somebody stops it, and say which; then its [final], if any.

    `show` opens the live view. Raises SpecError, DataError, DatabaseError, DiskError, BusyError, AllFailed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the live view says it better
    files = home.of(order.url)
    check_name(order.name, spec, files)
    files.make()
    devices = machine.devices(order.workers, device=order.device)
    storage = Storage(order.url, create=True, patience_s=order.times.patience_s)
    study.check(storage, spec, name=order.name)
    spec = replace(spec, data=anchored(spec.data))
    with writing_to(order.cache):
        fetch(spec.data, order.cache, say)
    fetch_backbones(spec, say)
    began = time.monotonic()  # a slow line is nobody's work; else it could use up the hours before the first trial
    stored = study.open_or_create(storage, spec, name=order.name, data=prepare_data(spec, order.cache, say))
    if spec.verdict_on is not None and not order.join:
        return run_verdict(order, storage, stored, show, say, since=began)
    with joined(files, order) if order.join else alone(storage, stored, order, say):
        say(f"{len(devices)} workers on {', '.join(sorted(set(devices)))}")
        with show(stored) as view:
            end = pool(order, storage, stored, devices, view, since=None if order.join else began).run()
        if end is End.DONE and spec.search.pruner == "promote":
            with suppress(DatabaseError, DiskError):  # what paused and was pruned at the end; else the next run does it
                care.sweep(files, storage.engine, stored.name)
        if spec.final is None or order.join or end not in (End.DONE, End.HOURS):
            return end
        since, hours = time.monotonic(), hours_left(order, storage, stored, began)
        verdict = verdict_study(order, storage, stored, say, hours=hours)
        return End.DONE if verdict is None else run_verdict(order, storage, verdict, show, say, since=since)


def judge(order: Order, wanted: Final, *, show: Show, say: Say) -> tuple[str, End]:
    """Train the best of a stored search once more as `wanted` says, and test them; the study of it, and how that ended.

    A verdict on the same terms is gone on with, or is there already; on others it is a further one.

    Raises:
        UsageError: there is nothing to judge. Else as `launch`.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = Storage(order.url)
    stored = study.load(storage, order.name)
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
    found = final.contestants(spec, [trial for trial, _ in query.leading(storage.engine, order.name)])
    if not found:
        raise UsageError(f"no trial of {order.name!r} was judged; `convsearch resume {order.name}` goes on with it")
    terms, epochs = verdict_spec(order, stored, spec, found, hours=order.hours)
    if epochs < LEAST_EPOCHS:
        raise UsageError(
            f"in that time each training would have {epochs:.2f} epochs; give it more --hours, or fewer --seeds"
        )
    verdict = on_terms(storage, stored, terms)
    if query.study(storage.engine, verdict.name).counts.to_do == 0:
        return verdict.name, End.DONE
    return verdict.name, run_verdict(order, storage, verdict, show, say, since=since)


def on_terms(storage: Storage, stored: StoredStudy, terms: StudySpec) -> StoredStudy:
    """The verdict on a search on these terms: the one that is there, or a new one behind those on other terms."""
    for place in count(1):
        name = final.name_of(stored.name, place)
        if not query.is_known(storage.engine, name):
            break
        known = study.of_search(study.load(storage, name), stored)
        if not difference(known.spec, terms):
            break
    return study.open_or_create(storage, terms, name=name, data=stored.data)


def check_name(name: str, spec: StudySpec, files: Home) -> None:
    """Refuse a name that cannot be a folder's, or is in the way of a verdict, before anything is done for it.

    Raises:
        UsageError: says which.
    """
    if is_verdict(name) and spec.verdict_on is None:
        raise UsageError(
            f"the study name {name!r} ends in {FINAL!r}, as that of the last training of {searched(name)!r} "
            "does; choose another one with --name"
        )
    files.study(name)
    if spec.final is not None:
        files.study(final.name_of(name))


def run_verdict(order: Order, storage: Storage, verdict: StoredStudy, show: Show, say: Say, *, since: float) -> End:
    """Run a study `NAME.final`, on all cores or GPUs. Its time is counted from `since` on."""
    devices = machine.devices(order.workers, device=order.device)
    crew = crew_of(devices, trainings=verdict.spec.budget.trials)
    say(f"{verdict.name}: {verdict.spec.question}")
    own = replace(order, name=verdict.name, trials=None, hours=None)
    with alone(storage, verdict, own, say), show(verdict) as view:
        seats = devices[: crew.workers]
        return pool(own, storage, verdict, seats, view, since=since, threads=crew.threads).run()


def crew_of(devices: tuple[str, ...], *, trainings: int) -> Crew:
    """Who trains for the last time: one thread feeds a GPU; cores that no training of its own is for help others."""
    found = final.crew(cores=len(devices), trainings=trainings)
    return found if devices[0] == "cpu" else replace(found, threads=1)


def verdict_study(
    order: Order, storage: Storage, stored: StoredStudy, say: Say, *, hours: float | None
) -> StoredStudy | None:
    """The study that trains who leads for the last time, made for `hours` at the most if it is not there yet; None if
    there is nothing to train or no time, which is said.

    Once made it stays with its trials, whatever the search finds later: the test images are looked at once.

    Raises:
        SpecError: there is one of a deleted study of the same name.
    """
    name = final.name_of(stored.name)
    if query.is_known(storage.engine, name):
        return known_verdict(storage, stored)
    leading = [trial for trial, _ in query.leading(storage.engine, stored.name)]
    found = final.contestants(stored.spec, leading)
    if not found:
        say("no trial was judged, so that none can be trained for the last time; it needs more hours or trials")
        return None
    wanted, epochs = verdict_spec(order, stored, stored.spec, found, hours=hours)
    if epochs < LEAST_EPOCHS:
        say(f"in the time that is left the last training would have {epochs:.2f} epochs; --hours gives it more")
        return None
    if leading[0].state != "COMPLETE":
        say(f"trial {leading[0].number} leads, though not trained to its end; it is trained for the last time")
    try:
        return study.open_or_create(storage, wanted, name=name, data=stored.data)
    except SpecError:  # another machine, which had more time or cores, was a moment earlier
        return known_verdict(storage, stored)


def verdict_spec(
    order: Order, stored: StoredStudy, spec: StudySpec, found: tuple[Contestant, ...], *, hours: float | None
) -> tuple[StudySpec, float]:
    """The study of the last trainings of these, by the [final] of `spec`, and how many epochs each has time for."""
    trainings = len(found) * (spec.final or Final()).seeds
    crew = crew_of(machine.devices(order.workers, device=order.device), trainings=trainings)
    images = sum(stored.data["train_counts"])
    wanted = final.spec_of(spec, found, uid=stored.uid, hours=hours, images=images, crew=crew)
    return wanted, final.possible(spec, found, hours=hours, images=images, crew=crew)


def known_verdict(storage: Storage, stored: StoredStudy) -> StoredStudy:
    """The study of the last training that is there already; it reads its images where its search reads them now."""
    verdict = study.of_search(study.load(storage, final.name_of(stored.name)), stored)
    moved = study.moved(verdict.spec, stored.spec.data.path)
    return study.open_or_create(storage, moved, name=verdict.name, data=stored.data)


def hours_left(order: Order, storage: Storage, stored: StoredStudy, began: float) -> float | None:
    """What is left for the last training, in hours: of this command's, if it names some, else of the study's."""
    if order.hours is not None:
        return max(0.0, order.hours - (time.monotonic() - began) / 3600)
    total = stored.spec.budget.hours
    return None if total is None else max(0.0, total - study.seconds_run(storage, stored.id) / 3600)


def searching(spec: StudySpec, hours: float | None) -> float | None:
    """The part of `hours` that the search may take."""
    return hours if hours is None or spec.final is None else hours * (1 - spec.final.share)


def pool(
    order: Order,
    storage: Storage,
    stored: StoredStudy,
    devices: tuple[str, ...],
    view: View,
    *,
    since: float | None,
    threads: int = 1,
) -> Pool:
    """The workers of a run, one for each device, of so many threads each; see `Pool.since`."""
    return Pool(
        storage=storage,
        study=stored,
        post=Post(
            url=order.url,
            study=stored.name,
            token="",
            cache=str(order.cache),
            images=stored.spec.data.path,
            device="",
            threads=threads,
            workers=len(devices),
            patience_s=order.times.patience_s,
        ),
        devices=devices,
        view=view,
        room=room_of(order, workers=len(devices)),
        since=since,
        times=order.times,
    )


def room_of(order: Order, *, workers: int) -> Room:
    """The room that a run has for its files."""
    budget = None if order.disk is None else int(order.disk * 1e9)
    return Room(url=order.url, study=order.name, workers=workers, budget=budget)


def anchored(data: DataConfig) -> DataConfig:
    """The same images, wherever the next command is given."""
    return data if data.path is None else data.model_copy(update={"path": str(Path(data.path).absolute())})


def prepare_data(spec: StudySpec, cache: Path, say: Say) -> dict[str, Any]:
    """Decode the images if that was not done yet; what the study keeps of them."""
    with writing_to(cache):
        info = prepare(spec.data, cache, say)
    for note in info.notes:
        say(note)
    kept = ("fingerprint", "classes", "train_counts", "test_counts", "image_size", "notes")
    return {name: value for name, value in asdict(info).items() if name in kept}


def fetch_backbones(spec: StudySpec, say: Say) -> None:
    """Fetch the pretrained weights of every backbone that a study may draw, before workers want them all at once.

    Raises:
        DataError: they are not here, and cannot be fetched; says which file to put where.
    """
    from models.backbone import NoWeights
    from models.backbone import fetch as fetch_weights

    domains = [
        spec.space.parameters["backbone"],
        *(table["backbone"] for table in spec.space.when.values() if "backbone" in table),
    ]
    wanted = {str(value) for domain in domains for value in domain.cells()}
    wanted |= {str(row.values.get("backbone", "none")) for row in spec.rows}
    for name in sorted(wanted - {"none"}):
        try:
            fetch_weights(name, say=say)
        except NoWeights as error:
            raise DataError(str(error)) from error


@contextmanager
def writing_to(cache: Path) -> Iterator[None]:
    """Say what to do where the folder of images cannot be written."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write to {cache}: {error.strerror or error}; name another --cache") from error


@contextmanager
def alone(storage: Storage, stored: StoredStudy, order: Order, say: Say) -> Iterator[None]:
    """Be the one who runs the study on this machine: with its budget set and its broken-off trials taken up.

    If somebody else runs it, what was asked for is set all the same before BusyError is raised.
    """
    with ExitStack() as lock:
        try:
            lock.enter_context(home.of(order.url).running(stored.name))
        except BusyError:
            if order.trials is not None:
                set_trials(storage, stored, order.trials, say)
            if order.hours is not None:
                set_hours(storage, stored, order.hours)
            raise
        set_budget(storage, stored, order, say)
        take_up(storage, stored, order, say)
        yield


@contextmanager
def joined(files: Home, order: Order) -> Iterator[None]:
    """Work beside the one who runs the study on this machine.

    Raises:
        UsageError: nobody does.
    """
    with suppress(BusyError), files.running(order.name):
        raise UsageError(f"nobody is running {order.name!r} on this machine; leave out --join to run it")
    yield


def set_budget(storage: Storage, stored: StoredStudy, order: Order, say: Say) -> None:
    """Store the budget that this command asks for; what it leaves open is the spec's."""
    set_trials(storage, stored, order.trials or stored.spec.budget.trials, say)
    if order.hours is None:
        study.set_attrs(storage, stored.id, hours=searching(stored.spec, stored.spec.budget.hours))
    else:
        set_hours(storage, stored, order.hours)


def set_hours(storage: Storage, stored: StoredStudy, hours: float) -> None:
    """Let the study run for so many hours more than it has run until now, the last training included."""
    part = searching(stored.spec, hours) or 0.0
    study.set_attrs(storage, stored.id, hours=part + study.seconds_run(storage, stored.id) / 3600)


def set_trials(storage: Storage, stored: StoredStudy, asked: int, say: Say) -> None:
    """Store how many trials the study may have, and say so where that is not what was asked for."""
    cells = len(queue(stored.spec)) if stored.spec.search.sampler == "grid" else asked
    trials = study.set_trials(storage, stored, min(asked, cells))
    if trials < asked:
        say(f"the budget is {trials} trials, not {asked}: so many cells there are")
    if trials > asked:
        say(f"the budget is {trials} trials, not {asked}: so many have been begun, and none is thrown away")


def take_up(storage: Storage, stored: StoredStudy, order: Order, say: Say) -> None:
    """Put what broke off back to the queue, and say where the study goes on."""
    study.set_attrs(storage, stored.id, stop=False)
    take_back(storage, stored, home.of(order.url))
    lease.Watch(order.times).expire(storage, stored.id)
    storage.patiently(lambda: care.sweep(home.of(order.url), storage.engine, stored.name))
    retried = lease.retry_failed(storage, stored.id) if order.retry_failed else []
    if order.retry_failed:
        say(f"{len(retried)} failed trials are tried again" if retried else "no trial has failed; nothing to retry")
    counts = storage.patiently(lambda: query.study(storage.engine, stored.name)).counts
    if counts.finished or counts.waiting or counts.paused:
        pause = f", {counts.paused} pause at a rung" if counts.paused else ""
        say(f"going on: {counts.finished} of {counts.budget} trials done, {counts.waiting} taken up again{pause}")


def take_back(storage: Storage, stored: StoredStudy, files: Home) -> None:
    """Put those trials back to the queue that an earlier run was to put back, but could not.

    It was stopped on purpose, so that this was no attempt.
    """
    tokens = files.left(stored.name)
    if tokens:
        lease.stop(storage, tokens)
        files.forget_left(stored.name)


def again(stored: StoredStudy, trial: TrialRow) -> StudySpec:
    """A study of one trial that trains this trial's configuration once more, with its seed, to the end.

    Raises:
        UsageError: the trial has no configuration yet, or is a last training, which looks at the test images once.
    """
    if stored.spec.verdict_on is not None:
        raise UsageError(
            f"{stored.name!r} is a last training, which looks at the test images once and is not run again"
        )
    if not trial.config or trial.seed is None:
        raise UsageError(
            f"trial {trial.number} of {stored.name!r} has not been drawn yet; there is nothing to run again"
        )
    question = f"Trial {trial.number} of {stored.name}, once more"
    return of_one(stored.spec, trial.config, question=question, seed=trial.seed, hours=None)
