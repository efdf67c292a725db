"""What the dashboard shows of a study beside Optuna's plots: the answer as a note, a confusion matrix, pictures, files.

Nothing of it is stored in the database, where every poll would carry it and a finished study would grow: it is made
from what is there when somebody looks at the study, and kept for a while, and then until something has changed.
"""

import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import sqlalchemy as sa
from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA, split_plot_data
from optuna_dashboard._note import get_note_from_system_attrs, note_ver_key, split_body
from optuna_dashboard.artifact._backend import ARTIFACTS_ATTR_PREFIX

from search import tables
from search.analysis import charts, selection, test_report, test_results, trial_tables
from search.artifacts import misclassified
from search.artifacts.study_dir import StudyDirs, checked_name
from search.storage import queries, ranking
from search.storage.records import StudyRecord, is_search, is_verdict, searched

#: Best trials whose pictures are shown.
SHOWN = 3
#: The dashboard asks for a study every few seconds; of thousands of trials half a second of reading is behind that.
EVERY_S = 10.0

Reader = Callable[[], BinaryIO]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyOverlay:
    """Of one study, as of some moment."""

    shows: tuple[object, ...]
    """What it depends on: the study, its counts, and those of the verdicts."""
    seen: float
    """When that was last looked up, in seconds of the monotonic clock."""
    note: str
    """In Markdown."""
    attrs: dict[str, Any]
    """System attributes as optuna-dashboard reads them."""
    files: dict[str, Reader]
    """What its artifacts are, by id."""

    def beside(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The stored system attributes of the study and these; a note that somebody wrote stands below ours."""
        own = get_note_from_system_attrs(dict(stored), None)["body"]
        notes = split_body("\n\n".join(filter(None, (self.note, own))), None)
        return {**stored, **self.attrs, note_ver_key(None): 1, **notes}


class OverlayCache:
    """Of all studies of a database, each made when it is asked for."""

    def __init__(self, engine: sa.Engine, files: StudyDirs, *, every_s: float = EVERY_S) -> None:
        self._engine, self._home, self._every_s = engine, files, every_s
        self._made: dict[int, StudyOverlay] = {}
        self._lock = threading.Lock()

    def beside(self, study_id: int, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The stored system attributes of a study, and what was made for it by `refresh`."""
        made = self._made.get(study_id)
        return dict(stored) if made is None else made.beside(stored)

    def refresh(self, study_id: int, name: str) -> None:
        """Make what is shown of a study, if that has changed and was not made a moment ago."""
        with self._lock:
            made = self._made.get(study_id)
            if made is not None and time.monotonic() - made.seen < self._every_s:
                return
            row = queries.study(self._engine, checked_name(name))
            verdicts = (name,) if row.spec.get("verdict_on") else queries.verdicts(self._engine, name)
            shows = (row.uid, row.counts, *(queries.study(self._engine, each).counts for each in verdicts))
            if made is not None and made.shows == shows:
                self._made[study_id] = replace(made, seen=time.monotonic())
            else:
                self._made[study_id] = self._make(row, verdicts, shows)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The content of an artifact, as Optuna's artifact stores have it."""
        for made in list(self._made.values()):
            if artifact_id in made.files:
                return made.files[artifact_id]()
        raise KeyError(f"there is no artifact {artifact_id}")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuse: the dashboard changes nothing."""
        raise PermissionError("the dashboard is read-only")

    def remove(self, artifact_id: str) -> None:
        """Refuse: the dashboard changes nothing."""
        raise PermissionError("the dashboard is read-only")

    def _make(self, row: StudyRecord, verdicts: Sequence[str], shows: tuple[object, ...]) -> StudyOverlay:
        attrs: dict[str, Any] = {}
        files: dict[str, Reader] = {}
        shown = ranking.best(self._engine, row.name, top=SHOWN)
        for trial in shown.trials:
            folder = self._home.trial(row.name, trial.number)
            if (folder / misclassified.PICTURE).exists():
                name = f"trial-{trial.number}-wrong.png"
                _add(attrs, files, row.name, name, "image/png", (folder / misclassified.PICTURE).open)
            found = misclassified.counts(folder)
            if found is not None:
                figure = charts.confusion(found["confusion"], found["classes"])
                figure.update_layout(title=f"trial {trial.number}: what it takes images for, per cent", margin_t=50)
                attrs |= split_plot_data(str(figure.to_json()), f"{SYSTEM_ATTR_PLOT_DATA}confusion-{trial.number}:")
        _add(attrs, files, row.name, "trials.csv", "text/csv", lambda *_: io.BytesIO(self._table(row.name).encode()))
        return StudyOverlay(
            shows=shows, seen=time.monotonic(), note=self._note(row, verdicts), attrs=attrs, files=files
        )

    def _table(self, name: str) -> str:
        return tables.to_csv(
            *trial_tables.trials_csv(queries.study(self._engine, name), queries.trials(self._engine, name))
        )

    def _note(self, row: StudyRecord, verdicts: Sequence[str]) -> str:
        """Question, answer, and the commands that tell more."""
        lines = [f"**{row.question}**"] if row.question else []
        if row.best is not None and not is_verdict(row.name):
            value = tables.format_number(row.best.values[0])
            lines.append(
                f"Best: trial {row.best.number}, {row.objective} {value}: `{tables.format_values(row.best.params)}`."
            )
        if is_search(row):
            lines.append(selection.delivered(self._engine, row).sentence)
        for name in verdicts:
            found = test_results.load(self._engine, name)
            lines += [f"Verdict ({name}): {test_report.comparison_sentence(duel)}." for duel in found.duels[:3]]
            if found.standings and not found.duels:
                lead = selection.of_verdict(self._engine, found)
                test = tables.format_number(lead.test)
                lines.append(f"Verdict ({name}): {lead.name} has {test} on {found.images:,} test images.")
        if row.spec:
            report, export = (f"`convsearch {verb} {searched(row.name)}`" for verb in ("report", "export"))
            lines.append(f"{report} writes all of it on one page, {export} the model.")
        return "\n\n".join(lines)


def _add(
    attrs: dict[str, Any], files: dict[str, Reader], study: str, name: str, kind: str, opened: Callable[..., Any]
) -> None:
    """List a file among the artifacts of a study."""
    artifact_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{study} {name}"))
    files[artifact_id] = lambda: opened("rb")
    meta = {"artifact_id": artifact_id, "filename": name, "mimetype": kind, "encoding": None}
    attrs[f"{ARTIFACTS_ATTR_PREFIX}{artifact_id}"] = json.dumps(meta)
