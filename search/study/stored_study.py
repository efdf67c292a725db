"""Open or create a study from a spec. A study that is stored with another spec is refused, with the differences."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.study import StudyDirection

from data import home
from search.errors import SpecError, UsageError
from search.spec import stored_spec, study_spec
from search.spec.study_spec import StudySpec
from search.storage import attr_keys, queries
from search.storage.rdb import Storage
from search.storage.tables import STUDIES, STUDY_ATTRS, TRIALS
from search.study.provenance import code_version, environment
from search.study.stored_recipe import recipe_attrs, with_stored_recipe

#: Keys of [search] that keep their first stored value: older versions had none of them.
KEPT = ("audit", "baseline", "rung_updates")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredStudy:
    """A study as any worker on any machine reads it from the database."""

    id: int
    name: str
    uid: str
    """Unique and never reused; it identifies checkpoints of a deleted study of the same name as foreign."""
    remote_key: str
    """The folder of the study in the remote checkpoint store; a copy has another one than the original."""
    spec: StudySpec
    data: dict[str, Any]
    """Fingerprint of the images, classes, counts, notes."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Code version of the current run (see `provenance.code_version`); a joining process must have the same."""


def open_or_create(storage: Storage, spec: StudySpec, *, name: str, data: dict[str, Any]) -> StoredStudy:
    """Open the study `name`, or create it if it does not exist.

    Args:
        storage: The database.
        spec: The spec of the study file.
        name: The name of the study.
        data: Properties of the images; see `inputs.prepare_data`.

    Raises:
        SpecError: The study exists with another spec or other images, or was not made by this service.
    """
    directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (len(spec.search.objectives) - 1)]
    optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)

    def open_it(connection: sa.Connection) -> StoredStudy:
        study_id = queries.find_study(connection, name)
        storage.lock_study(connection, study_id)
        attrs = read_attrs(connection, study_id)
        if attr_keys.SPEC not in attrs:
            _refuse_foreign(connection, study_id, name)
            attrs = _first_attrs(_with_validation(spec, data), data)
            write_attrs(storage, connection, study_id, attrs)
            storage.name_objectives(connection, study_id, spec.search.objectives)
        begun = stored_spec.restore(attrs[attr_keys.SPEC])
        wanted = with_stored_recipe(spec, begun, attrs.get(attr_keys.RECIPE))  # another machine may have made its own
        _refuse_difference(name, attrs, wanted, data)
        # Settings that older versions lack keep their stored values: trials are neither chosen nor judged again.
        search = wanted.search.model_copy(update={key: getattr(begun.search, key) for key in KEPT})
        updated = replace(study_spec.with_stored_settings(wanted, begun), search=search)
        # The wording of the question and the path of the same images may have changed.
        write_attrs(
            storage,
            connection,
            study_id,
            {attr_keys.QUESTION: updated.question, attr_keys.SPEC: stored_spec.dump(updated)},
        )
        return _stored(study_id, name, attrs, updated)

    return storage.write(open_it)


def check(storage: Storage, spec: StudySpec, *, name: str) -> tuple[StudySpec, str | None]:
    """Refuse a spec that differs from the stored one, before any image is fetched or decoded.

    Returns:
        The spec, with stored settings where it leaves them open, and the fingerprint of the stored images if it has
        their path.

    Raises:
        SpecError: The study exists with another spec.
    """

    def stored(connection: sa.Connection) -> dict[str, Any]:
        study_id = connection.execute(sa.select(STUDIES.c.study_id).where(STUDIES.c.study_name == name)).scalar()
        return {} if study_id is None else read_attrs(connection, study_id)

    attrs = storage.read(stored)
    if attr_keys.SPEC not in attrs:
        return spec, None
    begun = stored_spec.restore(attrs[attr_keys.SPEC])
    spec = with_stored_recipe(spec, begun, attrs.get(attr_keys.RECIPE))
    _refuse_difference(name, attrs, spec, attrs[attr_keys.DATA])
    has_path = with_data_path(spec, spec.data.path).data.path == begun.data.path
    return study_spec.with_stored_settings(spec, begun), attrs[attr_keys.DATA]["fingerprint"] if has_path else None


def check_final_of(verdict: StoredStudy, search: StoredStudy) -> StoredStudy:
    """Return the verdict, if it belongs to this search.

    Raises:
        SpecError: The verdict belongs to a deleted search of the same name.
    """
    if verdict.spec.verdict_on != search.uid:
        raise SpecError(
            f"the study {verdict.name!r} belongs to another {search.name!r} that was deleted; "
            f"`convsearch delete {verdict.name}` makes room for the verdict on this one"
        )
    return verdict


def with_data_path(spec: StudySpec, path: str | None) -> StudySpec:
    """The same study with the path of its images on this machine.

    Raises:
        UsageError: Its images have no path.
    """
    if path is not None and spec.data.path is None:
        raise UsageError(f'the images of this study are those of source = "{spec.data.source}"; leave out --data')
    absolute = None if path is None else str(home.expand(path).absolute())
    return replace(spec, data=spec.data.model_copy(update={"path": absolute}))


def load(storage: Storage, name: str) -> StoredStudy:
    """Read the study `name` from the database.

    Raises:
        UsageError: There is no study of that name.
        SpecError: The study was not made by this service.
    """

    def stored(connection: sa.Connection) -> tuple[int, dict[str, Any]]:
        study_id = queries.find_study(connection, name)
        return study_id, read_attrs(connection, study_id)

    study_id, attrs = storage.read(stored)
    if attr_keys.SPEC not in attrs:
        raise SpecError(f"the study {name!r} was not made by convsearch, so it cannot be run by it")
    spec = stored_spec.restore(attrs[attr_keys.SPEC])
    return _stored(study_id, name, attrs, spec)


def _stored(study_id: int, name: str, attrs: Mapping[str, Any], spec: StudySpec) -> StoredStudy:
    return StoredStudy(
        id=study_id,
        name=name,
        uid=attrs[attr_keys.UID],
        remote_key=attrs.get(attr_keys.REMOTE_FOLDER) or attrs[attr_keys.UID],
        spec=spec,
        data=attrs[attr_keys.DATA],
        versions=dict(attrs.get(attr_keys.CURRENT_VERSIONS) or attrs.get(attr_keys.VERSIONS) or {}),
    )


def set_trials(storage: Storage, study: StoredStudy, trials: int, *, configurations: int | None = None) -> int:
    """Set the trial budget of a study; existing trials are never deleted.

    Args:
        storage: The database.
        study: The study.
        trials: The budget.
        configurations: Number of configurations of its space, if the budget allows to try each.

    Returns:
        The new budget: `trials`, or the number of existing trials if that is larger.
    """

    def set_them(connection: sa.Connection) -> int:
        storage.lock_study(connection, study.id)
        allowed = max(trials, _trials(connection, study.id))
        attrs = {attr_keys.BUDGET: allowed, attr_keys.CONFIGURATIONS: configurations}
        write_attrs(storage, connection, study.id, attrs)
        return allowed

    return storage.write(set_them)


def set_attrs(storage: Storage, study_id: int, attrs: Mapping[str, Any]) -> None:
    """Set user attributes of a study (`attr_keys`), in one transaction."""
    storage.write(lambda connection: write_attrs(storage, connection, study_id, attrs))


def reopen_search(storage: Storage, study: StoredStudy, *, judged: int) -> None:
    """Let a finished search go on, and clear its selection.

    Args:
        storage: The database.
        study: The search.
        judged: Number of trials judged until now; they no longer count towards the rule that ends a search that finds
            nothing.
    """
    set_attrs(
        storage, study.id, {attr_keys.NOTHING_FOUND: False, attr_keys.JUDGED_BEFORE: judged, attr_keys.SELECTION: None}
    )


def ask_to_stop(storage: Storage, name: str) -> None:
    """Ask all launchers of the study, on any machine, to stop; the next run takes this back."""
    storage.write(
        lambda connection: write_attrs(
            storage, connection, queries.find_study(connection, name), {attr_keys.STOP: True}
        )
    )


def seconds_run(storage: Storage, study_id: int) -> float:
    """Wall-clock run time of the study in seconds, over all its runs."""
    return float(storage.read(lambda connection: read_attrs(connection, study_id))[attr_keys.SECONDS_RUN])


def search_seconds_left(storage: Storage, study_id: int) -> float | None:
    """The seconds left of the hours of a search; None without such a limit."""
    attrs = storage.read(lambda connection: read_attrs(connection, study_id))
    hours = attrs.get(attr_keys.HOURS)
    return None if hours is None else max(0.0, 3600.0 * float(hours) - float(attrs[attr_keys.SECONDS_RUN]))


def settle_epochs(storage: Storage, study: StoredStudy, epochs: float) -> StoredStudy:
    """Store the epochs of a complete trial, if no other worker has stored them.

    Args:
        storage: The database.
        study: The study.
        epochs: The epochs that this worker has measured.

    Returns:
        The study with the stored epochs.
    """

    def settle(connection: sa.Connection) -> StudySpec:
        storage.lock_study(connection, study.id)
        current = stored_spec.restore(read_attrs(connection, study.id)[attr_keys.SPEC])
        if current.budget.epochs is not None:
            return current
        budget = current.budget.model_copy(update={"epochs": epochs, "evaluations": current.budget.steps})
        settled = replace(current, budget=budget)
        write_attrs(storage, connection, study.id, {attr_keys.SPEC: stored_spec.dump(settled)})
        return settled

    return replace(study, spec=study_spec.with_stored_settings(study.spec, storage.write(settle)))


def _first_attrs(spec: StudySpec, data: dict[str, Any]) -> dict[str, Any]:
    """The first attributes of a study; the budget is separate from the spec, because it may change."""
    return {
        attr_keys.QUESTION: spec.question,
        attr_keys.UID: uuid.uuid4().hex,
        attr_keys.SPEC: stored_spec.dump(spec),
        attr_keys.DATA: data,
        attr_keys.VERSIONS: environment(),
        attr_keys.CURRENT_VERSIONS: code_version(),
        attr_keys.BUDGET: spec.budget.trials,
        attr_keys.HOURS: spec.budget.hours,
        attr_keys.SECONDS_RUN: 0.0,
        attr_keys.STOP: False,
        **recipe_attrs(spec),
    }


def _with_validation(spec: StudySpec, data: Mapping[str, Any]) -> StudySpec:
    """The spec with explicit validation images, independent of the default of later versions."""
    images, classes = sum(data.get("train_counts", ())), len(data.get("classes", ()))
    if spec.data.validation is not None or not images:
        return spec
    held_out = "folder" if data.get("validation_folder") else spec.data.held_out(images, classes=classes)
    return replace(spec, data=spec.data.model_copy(update={"validation": held_out}))


def _refuse_foreign(connection: sa.Connection, study_id: int, name: str) -> None:
    if _trials(connection, study_id):
        raise SpecError(f"the study {name!r} was not made by convsearch; choose another name with --name")


def _refuse_difference(name: str, stored: dict[str, Any], spec: StudySpec, data: dict[str, Any]) -> None:
    begun = stored_spec.restore(stored[attr_keys.SPEC])
    lines = stored_spec.difference(begun, study_spec.with_stored_settings(spec, begun))
    if stored[attr_keys.DATA]["fingerprint"] != data["fingerprint"]:
        lines.append("[data] the images themselves are not the same")
    if lines:
        raise SpecError(
            f"the study {name!r} exists with another spec, and one study has one spec:\n  "
            + "\n  ".join(lines)
            + "\nonly [budget] trials and hours may change; run the new spec under another name: --name OTHER"
        )


def read_attrs(connection: sa.Connection, study_id: int) -> dict[str, Any]:
    """All user attributes of a study."""
    rows = sa.select(STUDY_ATTRS.c.key, STUDY_ATTRS.c.value_json).where(STUDY_ATTRS.c.study_id == study_id)
    return {row.key: json.loads(row.value_json) for row in connection.execute(rows)}


def write_attrs(storage: Storage, connection: sa.Connection, study_id: int, attrs: Mapping[str, Any]) -> None:
    """Set user attributes of a study (`attr_keys`), in this transaction."""
    for key, value in attrs.items():
        keys: dict[str, object] = {"study_id": study_id, "key": key}
        connection.execute(storage.upsert(STUDY_ATTRS, keys, {"value_json": json.dumps(value)}))


def _trials(connection: sa.Connection, study_id: int) -> int:
    count = sa.select(sa.func.count()).select_from(TRIALS).where(TRIALS.c.study_id == study_id)
    return connection.execute(count).scalar_one()
