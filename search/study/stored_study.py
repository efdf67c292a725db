"""Open or create a study from a spec; a study that is stored with another spec is refused, with what differs."""

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import _CachedStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from data.dataset import searched
from models.config import Impossible
from search.errors import SpecError
from search.pruners.asha import MIN_TRIALS, Asha
from search.pruners.asha import build as build_pruner
from search.pruners.promotion import AshaPromotion, BarrierPromotion
from search.samplers.evolution import DefaultsTrial, EvolutionSampler, FixedSampler, default_point
from search.samplers.tpe import SubsetStudy
from search.samplers.tpe import build as build_sampler
from search.seeds import derive, is_audited
from search.spec import study_spec as specs
from search.spec.domains import Value
from search.spec.fit import ImageLimits, fitted
from search.spec.search_space import sample
from search.spec.study_spec import StudySpec, start_point
from search.storage import queries
from search.storage.rdb import STUDIES, STUDY_ATTRS, TRIALS, Storage
from search.study.provenance import code_version, environment

#: Keys of [search] that a study keeps as it was begun with: an older version had none of them.
KEPT = ("audit", "baseline", "rung_updates")
#: Which trials are audited is worked out for so many at a time.
AHEAD = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredStudy:
    """A study as every worker, on any machine, reads it from the database."""

    id: int
    name: str
    uid: str
    """Unique for ever: a checkpoint of a deleted study of the same name is not taken for this one's."""
    remote_key: str
    """Its folder among those of the far checkpoints of several studies: of a copy another one than of the original."""
    spec: StudySpec
    data: dict[str, Any]
    """Fingerprint of the images, classes, counts, notes."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the code that runs it now (see `search.study.provenance.code_version`): who joins must have the same."""


def open_or_create(storage: Storage, spec: StudySpec, *, name: str, data: dict[str, Any]) -> StoredStudy:
    """The study `name` with this spec and these images; it is made if there is none of that name.

    Raises:
        SpecError: it exists with another spec or other images, or was not made by this service.
    """
    directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (len(spec.search.objectives) - 1)]
    optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)

    def open_it(connection: sa.Connection) -> StoredStudy:
        study_id = queries.find_study(connection, name)
        storage.lock_study(connection, study_id)
        known = read_attrs(connection, study_id)
        if "spec" not in known:
            _refuse_foreign(connection, study_id, name)
            known = _first_attrs(_with_validation(spec, data), data)
            write_attrs(storage, connection, study_id, **known)
            storage.name_objectives(connection, study_id, spec.search.objectives)
        _refuse_difference(name, known, spec, data)
        # What an older version had not stays as it was: trials are neither chosen nor judged anew.
        begun = specs.restore(known["spec"])
        search = spec.search.model_copy(update={key: getattr(begun.search, key) for key in KEPT})
        wanted = replace(specs.with_stored_settings(spec, begun), search=search)
        # The question may be put in other words, and the same images lie elsewhere now.
        write_attrs(storage, connection, study_id, question=wanted.question, spec=specs.dump(wanted))
        return _stored(study_id, name, known, wanted)

    return storage.write(open_it)


def check(storage: Storage, spec: StudySpec, *, name: str) -> None:
    """Refuse a spec that is not the stored one's, before any image is fetched or decoded.

    Raises:
        SpecError: as `open_or_create` would, later.
    """

    def stored(connection: sa.Connection) -> dict[str, Any]:
        known = connection.execute(sa.select(STUDIES.c.study_id).where(STUDIES.c.study_name == name)).scalar()
        return {} if known is None else read_attrs(connection, known)

    attrs = storage.read(stored)
    if "spec" in attrs:
        _refuse_difference(name, attrs, spec, attrs["data"])


def check_final_of(verdict: StoredStudy, search: StoredStudy) -> StoredStudy:
    """The verdict, if it is on this search.

    Raises:
        SpecError: it is on another one, that had the same name.
    """
    if verdict.spec.verdict_on != search.uid:
        raise SpecError(
            f"the study {verdict.name!r} is of another {search.name!r}, that is deleted; "
            f"`convsearch delete {verdict.name}` makes room for the verdict on this one"
        )
    return verdict


def with_data_path(spec: StudySpec, path: str | None) -> StudySpec:
    """The same study of the same images, which lie at `path`."""
    return replace(spec, data=spec.data.model_copy(update={"path": path}))


def load(storage: Storage, name: str) -> StoredStudy:
    """The stored study `name`.

    Raises:
        UsageError: there is none of that name.
        SpecError: it was not made by this service.
    """

    def stored(connection: sa.Connection) -> tuple[int, dict[str, Any]]:
        study_id = queries.find_study(connection, name)
        return study_id, read_attrs(connection, study_id)

    study_id, attrs = storage.read(stored)
    if "spec" not in attrs:
        raise SpecError(f"the study {name!r} was not made by convsearch, so it cannot be run by it")
    spec = specs.restore(attrs["spec"])
    return _stored(study_id, name, attrs, spec)


def _stored(study_id: int, name: str, attrs: Mapping[str, Any], spec: StudySpec) -> StoredStudy:
    return StoredStudy(
        id=study_id,
        name=name,
        uid=attrs["uid"],
        remote_key=attrs.get("depot") or attrs["uid"],
        spec=spec,
        data=attrs["data"],
        versions=dict(attrs.get("versions_now") or attrs.get("versions") or {}),
    )


def set_trials(storage: Storage, study: StoredStudy, trials: int) -> int:
    """Set how many trials the study may have; returns how many those are.

    Trials that exist already are never thrown away: a budget below their number becomes their number.
    """

    def set_them(connection: sa.Connection) -> int:
        storage.lock_study(connection, study.id)
        allowed = max(trials, _trials(connection, study.id))
        write_attrs(storage, connection, study.id, trials=allowed)
        return allowed

    return storage.write(set_them)


def set_attrs(storage: Storage, study_id: int, **attrs: Any) -> None:
    """Set user attributes of a study, in one transaction."""
    storage.write(lambda connection: write_attrs(storage, connection, study_id, **attrs))


def reopen_search(storage: Storage, study: StoredStudy, *, judged: int) -> None:
    """Let a search go on that had ended: what was selected then is forgotten, and the trials that were `judged` until
    now do not count any more against one that had found nothing.
    """
    set_attrs(storage, study.id, nothing_found=False, judged_before=judged, selection=None)


def ask_to_stop(storage: Storage, name: str) -> None:
    """Ask everybody who runs the study, on any machine, to stop; the next run takes this back."""
    storage.write(lambda connection: write_attrs(storage, connection, queries.find_study(connection, name), stop=True))


def seconds_run(storage: Storage, study_id: int) -> float:
    """The wall-clock time for which the study has been run, in seconds, over all its runs."""
    return float(storage.read(lambda connection: read_attrs(connection, study_id))["seconds_run"])


def search_seconds_left(storage: Storage, study_id: int) -> float | None:
    """The seconds that a search still has of its hours; None if it has no such limit."""
    attrs = storage.read(lambda connection: read_attrs(connection, study_id))
    return None if attrs.get("hours") is None else max(0.0, 3600 * attrs["hours"] - attrs["seconds_run"])


def settle_epochs(storage: Storage, study: StoredStudy, epochs: float) -> StoredStudy:
    """The study with the epochs of a whole trial, which the first worker that has measured settles for all."""

    def settle(connection: sa.Connection) -> StudySpec:
        storage.lock_study(connection, study.id)
        known = specs.restore(read_attrs(connection, study.id)["spec"])
        if known.budget.epochs is not None:
            return known
        budget = known.budget.model_copy(update={"epochs": epochs, "evaluations": known.budget.steps})
        settled = replace(known, budget=budget)
        write_attrs(storage, connection, study.id, spec=specs.dump(settled))
        return settled

    return replace(study, spec=specs.with_stored_settings(study.spec, storage.write(settle)))


def limits_of(study: StoredStudy) -> ImageLimits | None:
    """What the images allow that the trials of a study are trained on; those of a last training are all there are. None
    where nothing is known of the images.
    """
    if not {"classes", "train_counts", "image_size"} <= study.data.keys():
        return None
    data, classes = study.spec.data, len(study.data["classes"])
    images = sum(study.data["train_counts"])
    if study.spec.verdict_on is None:
        images = searched(data, images, classes=classes)
    return ImageLimits(side=data.search_size or study.data["image_size"], classes=classes, images=images)


def known_point(spec: StudySpec) -> dict[str, Value]:
    """The flat configuration that a search begins with: the first point of [[try]], and what it leaves open at the
    defaults, or at the nearest value of the space.
    """
    return specs.with_defaults(spec, sample(spec.space, DefaultsTrial(start_point(spec))))


def asked(spec: StudySpec, number: int) -> dict[str, Value] | None:
    """What a trial was asked to have, by key: the baseline all that is drawn, a point of [[try]] what it names."""
    if number == specs.baseline(spec):
        return sample(spec.space, DefaultsTrial(start_point(spec)))
    return dict(spec.points[number]) if number < len(spec.points) else None


def queue(study: StoredStudy) -> tuple[dict[str, Value], ...]:
    """What the trials 0, 1, 2, ... are given, as Optuna name -> value: the cells of a grid; else the baseline, as near
    as it can be trained, and the other points to try.
    """
    given = specs.fixed_trials(study.spec)
    if specs.baseline(study.spec) is None:
        return given
    whole, limits = known_point(study.spec), limits_of(study)
    if limits is not None:
        with suppress(Impossible):
            whole = fitted(study.spec, whole, limits)
    return (dict(default_point(study.spec.space, whole).params), *given[1:])


def for_trial(
    cached: _CachedStorage,
    study: StoredStudy,
    number: int,
    seen: Sequence[FrozenTrial],
    *,
    draw: int = 0,
    given: Mapping[str, Value] | None = None,
) -> optuna.Study:
    """Optuna's view of the study, with the sampler and the pruner of this trial; the sampler learns from `seen`.

    `draw` counts how often the trial was drawn before; `given` are values by key, taken in place of drawn ones.
    """
    search, steps = study.spec.search, study.spec.budget.steps
    sampler = _sampler(cached, study, number, seen, draw) if given is None else FixedSampler(given)
    pruner = build_pruner(search.pruner, first_rung=search.first_rung, reduction=search.reduction, steps=steps)
    return _Compared(study.name, cached, sampler, pruner, left_out=audited(study.spec, number))


class _Compared(optuna.Study):
    """A study whose median is that of the trials that are not audited. (Hyperband asks for its own view.)"""

    def __init__(
        self,
        name: str,
        storage: _CachedStorage,
        sampler: optuna.samplers.BaseSampler,
        pruner: optuna.pruners.BasePruner,
        *,
        left_out: frozenset[int],
    ) -> None:
        super().__init__(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        self._left_out = left_out

    def get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [trial for trial in super().get_trials(*args, **kwargs) if trial.number not in self._left_out]


def _sampler(
    cached: _CachedStorage, study: StoredStudy, number: int, seen: Sequence[FrozenTrial], draw: int
) -> optuna.samplers.BaseSampler:
    search = study.spec.search
    again = (draw,) if draw else ()
    if search.sampler == "evolution":
        known = start_point(study.spec)
        return EvolutionSampler(
            seen,
            number=number,
            start=default_point(study.spec.space, known),
            habits=known,
            seed=derive(search.seed, number, "sampler", *again),
        )
    return build_sampler(
        search.sampler,
        study_seed=search.seed,
        number=number,
        draw=draw,
        startup_trials=search.startup_trials,
        seen=SubsetStudy(study.name, cached, seen),
    )


def asha(spec: StudySpec) -> Asha:
    """The rungs of a study."""
    search = spec.search
    return Asha(
        first_rung=search.first_rung,
        reduction=search.reduction,
        steps=spec.budget.steps,
        updates=search.rung_updates,
        least=MIN_TRIALS if search.rung_updates else 1,  # an older version had neither
    )


def audited(spec: StudySpec, number: int) -> frozenset[int]:
    """The numbers of the trials that the pruner may not stop: those up to the budget, and some beyond `number`."""
    search = spec.search
    if search.pruner == "none" or search.audit == 0.0:
        return frozenset()
    return _audited(search.seed, search.audit, max(number, spec.budget.trials) // AHEAD + 2, specs.baseline(spec))


@lru_cache(maxsize=8)
def _audited(seed: int, share: float, blocks: int, baseline: int | None) -> frozenset[int]:
    return frozenset(
        number for number in range(blocks * AHEAD) if number != baseline and is_audited(seed, number, share)
    )


def ladder(spec: StudySpec) -> AshaPromotion | BarrierPromotion | None:
    """Where trials pause; None for a study whose trials do not."""
    if spec.verdict_on is not None and spec.budget.trials > 1:
        return BarrierPromotion(trials=spec.budget.trials)
    if spec.search.pruner != "promote":
        return None
    rungs = asha(spec)
    return AshaPromotion(
        rungs=rungs.rungs(),
        reduction=rungs.reduction,
        steps=rungs.steps,
        least=rungs.least,
        audited=audited(spec, 0),
        baseline=specs.baseline(spec),
    )


def trial_seed(study: StoredStudy, number: int, repeat: int | None) -> int:
    """The seed of a trial's weights, data order and augmentation.

    Repeats of a designed comparison share theirs over the rows, so that rows can be compared pair by pair.
    """
    search = study.spec.search
    if search.trial_seed is not None:
        return search.trial_seed
    return derive(search.seed, *((number, "trial") if repeat is None else (repeat, "repeat")))


def _first_attrs(spec: StudySpec, data: dict[str, Any]) -> dict[str, Any]:
    """What a study is made with; the budget stands apart from the spec, because it may change."""
    return {
        "question": spec.question,
        "uid": uuid.uuid4().hex,
        "spec": specs.dump(spec),
        "data": data,
        "versions": environment(),
        "versions_now": code_version(),
        "trials": spec.budget.trials,
        "hours": spec.budget.hours,
        "seconds_run": 0.0,
        "stop": False,
    }


def _with_validation(spec: StudySpec, data: Mapping[str, Any]) -> StudySpec:
    """The study with its number of validation images written out, so that a later version changes nothing in it."""
    images, classes = sum(data.get("train_counts", ())), len(data.get("classes", ()))
    if spec.data.validation is not None or not images:
        return spec
    held_out = spec.data.held_out(images, classes=classes)
    return replace(spec, data=spec.data.model_copy(update={"validation": held_out}))


def _refuse_foreign(connection: sa.Connection, study_id: int, name: str) -> None:
    if _trials(connection, study_id):
        raise SpecError(f"the study {name!r} was not made by convsearch; choose another name with --name")


def _refuse_difference(name: str, stored: dict[str, Any], spec: StudySpec, data: dict[str, Any]) -> None:
    begun = specs.restore(stored["spec"])
    lines = specs.difference(begun, specs.with_stored_settings(spec, begun))
    if stored["data"]["fingerprint"] != data["fingerprint"]:
        lines.append("[data] the images themselves are not the same")
    if lines:
        raise SpecError(
            f"the study {name!r} exists with another spec, and one study has one spec:\n  "
            + "\n  ".join(lines)
            + "\nonly [budget] trials and hours may change; run the new spec under a name of its own: --name OTHER"
        )


def read_attrs(connection: sa.Connection, study_id: int) -> dict[str, Any]:
    """All user attributes of a study."""
    rows = sa.select(STUDY_ATTRS.c.key, STUDY_ATTRS.c.value_json).where(STUDY_ATTRS.c.study_id == study_id)
    return {row.key: json.loads(row.value_json) for row in connection.execute(rows)}


def write_attrs(storage: Storage, connection: sa.Connection, study_id: int, **values: Any) -> None:
    """Set user attributes of a study, in this transaction."""
    for key, value in values.items():
        keys: dict[str, object] = {"study_id": study_id, "key": key}
        connection.execute(storage.upsert(STUDY_ATTRS, keys, {"value_json": json.dumps(value)}))


def _trials(connection: sa.Connection, study_id: int) -> int:
    count = sa.select(sa.func.count()).select_from(TRIALS).where(TRIALS.c.study_id == study_id)
    return connection.execute(count).scalar_one()
