"""What the dashboard shows of a study beside Optuna's plots: the answer as a note, a confusion matrix, pictures, files.

Nothing of it is stored in the database, where every poll would carry it and a finished study would grow: it is made
from what is there when somebody looks at the study, and kept until a trial has ended since.
"""

import io
import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import sqlalchemy as sa
from optuna.storages import _CachedStorage
from optuna.study._frozen import FrozenStudy
from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA, split_plot_data
from optuna_dashboard._note import note_ver_key, split_body
from optuna_dashboard.artifact._backend import ARTIFACTS_ATTR_PREFIX

from search import answers, charts, contest, gallery, output, query
from search.history import History
from search.home import Home
from search.rows import StudyRow, searched

#: Best trials whose pictures are shown.
SHOWN = 3

Reader = Callable[[], BinaryIO]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exhibit:
    """Of one study, as of some number of finished trials."""

    finished: int
    attrs: dict[str, Any]
    """System attributes as optuna-dashboard reads them."""
    files: dict[str, Reader]
    """What its artifacts are, by id."""


class Exhibits:
    """Of all studies of a database, each made when it is asked for."""

    def __init__(self, engine: sa.Engine, files: Home) -> None:
        self._engine, self._home = engine, files
        self._made: dict[int, Exhibit] = {}
        self._lock = threading.Lock()

    def attrs(self, study_id: int) -> dict[str, Any]:
        """What was made for a study; nothing before `refresh` was called for it."""
        made = self._made.get(study_id)
        return {} if made is None else made.attrs

    def refresh(self, study_id: int, name: str) -> None:
        """Make what is shown of a study, if a trial has ended since it was made."""
        row = query.study(self._engine, name)
        with self._lock:
            made = self._made.get(study_id)
            if made is None or made.finished != row.counts.finished:
                self._made[study_id] = self._make(row)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The content of an artifact, as Optuna's artifact stores have it."""
        for made in list(self._made.values()):
            if artifact_id in made.files:
                return made.files[artifact_id]()
        raise KeyError(f"there is no artifact {artifact_id}")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuse: the dashboard changes nothing."""
        raise PermissionError("this dashboard shows; it changes nothing")

    def remove(self, artifact_id: str) -> None:
        """Refuse: the dashboard changes nothing."""
        raise PermissionError("this dashboard shows; it changes nothing")

    def _make(self, row: StudyRow) -> Exhibit:
        attrs: dict[str, Any] = {note_ver_key(None): 1, **split_body(self._note(row), None)}
        files: dict[str, Reader] = {}
        ranking = query.best(self._engine, row.name, top=SHOWN)
        for trial in ranking.trials:
            folder = self._home.trial(row.name, trial.number)
            if (folder / gallery.PICTURE).exists():
                _add(attrs, files, f"trial-{trial.number}-wrong.png", "image/png", (folder / gallery.PICTURE).open)
            found = gallery.counts(folder)
            if found is not None:
                figure = charts.confusion(found["confusion"], found["classes"])
                figure.update_layout(title=f"trial {trial.number}: what it takes images for, per cent", margin_t=50)
                attrs |= split_plot_data(str(figure.to_json()), f"{SYSTEM_ATTR_PLOT_DATA}confusion-{trial.number}:")
        _add(attrs, files, "trials.csv", "text/csv", lambda *_: io.BytesIO(self._table(row.name).encode()))
        return Exhibit(finished=row.counts.finished, attrs=attrs, files=files)

    def _table(self, name: str) -> str:
        return output.to_csv(*answers.trials_csv(query.study(self._engine, name), query.trials(self._engine, name)))

    def _note(self, row: StudyRow) -> str:
        """Question, answer, and the commands that tell more."""
        lines = [f"**{row.question}**"] if row.question else []
        if row.best is not None:
            value = output.number(row.best.values[0])
            lines.append(
                f"Best: trial {row.best.number}, {row.objective} {value}: `{output.settings(row.best.params)}`."
            )
        search = searched(row.name)
        for name in query.verdicts(self._engine, search):
            found = contest.load(self._engine, name)
            lines += [f"Verdict ({name}): {contest.duel_line(duel)}." for duel in found.duels[:3]]
            if found.standings and not found.duels:
                lead = found.standings[0]
                lines.append(
                    f"Verdict ({name}): {lead.name} has {output.number(lead.test)} on {found.images:,} test images."
                )
        lines.append(
            f"`convsearch report {search}` writes all of it on one page, `convsearch export {search}` the model."
        )
        return "\n\n".join(lines)


class Shown(_CachedStorage):
    """A storage whose studies have their exhibits among their attributes."""

    def __init__(self, backend: History, exhibits: Exhibits) -> None:
        super().__init__(backend)
        self._exhibits = exhibits

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = super().get_all_studies()
        for study in studies:
            study.system_attrs.update(self._exhibits.attrs(study._study_id))
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return super().get_study_system_attrs(study_id) | self._exhibits.attrs(study_id)


def _add(attrs: dict[str, Any], files: dict[str, Reader], name: str, kind: str, opened: Callable[..., Any]) -> None:
    """List a file among the artifacts of a study."""
    artifact_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{id(attrs)} {name}"))
    files[artifact_id] = lambda: opened("rb")
    meta = {"artifact_id": artifact_id, "filename": name, "mimetype": kind, "encoding": None}
    attrs[f"{ARTIFACTS_ATTR_PREFIX}{artifact_id}"] = json.dumps(meta)
