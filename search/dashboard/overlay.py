"""Additions to the plots of optuna-dashboard: results as a note, confusion matrices, pictures, files.

Nothing of it is stored in the database, where every poll would transfer it and finished studies would grow. It is built
on a request for a study, and cached until the study changes, with at most one check every EVERY_S seconds.
"""

import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
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
from search.storage.records import StudyRecord, is_search, is_verdict, search_name

#: Number of best trials with pictures.
SHOWN = 3
#: Minimum interval of checks for changes in seconds. The dashboard polls a study every few seconds, and each check of
#: thousands of trials takes half a second of reads.
EVERY_S = 10.0
#: Types of pictures by suffix; older versions wrote PNG files.
MIMETYPES = {".svg": "image/svg+xml", ".png": "image/png"}

Reader = Callable[[], BinaryIO]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyOverlay:
    """Overlay of one study at one point in time."""

    shows: tuple[object, ...]
    """Version of the overlay: the uid of the study, its counts, and the counts of its verdicts."""
    seen: float
    """Time of the last check for changes, in monotonic seconds."""
    note: str
    """Note in Markdown."""
    attrs: dict[str, Any]
    """Additional system attributes in the format of optuna-dashboard."""
    files: dict[str, Reader]
    """Readers of the artifacts by artifact id."""
    history: str = ""
    """Id of the history of the study; see `StudyHistory.id`."""

    def beside(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Merge the overlay into the system attributes of a study. A stored note follows the generated one.

        Args:
            stored: system attributes in the database.

        Returns:
            A new dictionary.
        """
        stored_note = get_note_from_system_attrs(dict(stored), None)["body"]
        notes = split_body("\n\n".join(filter(None, (self.note, stored_note))), None)
        return {**stored, **self.attrs, note_ver_key(None): 1, **notes}


class OverlayCache:
    """Overlays of the studies of a database, built on request. Also a read-only artifact store for optuna-dashboard."""

    def __init__(self, engine: sa.Engine, dirs: StudyDirs, *, every_s: float = EVERY_S) -> None:
        self._engine, self._dirs, self._every_s = engine, dirs, every_s
        self._overlays: dict[int, StudyOverlay] = {}
        self._lock = threading.Lock()

    def beside(self, study_id: int, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Merge the cached overlay of a study, if any, into its system attributes.

        Args:
            study_id: id of the study in the database.
            stored: system attributes in the database.

        Returns:
            A new dictionary.
        """
        overlay = self._overlays.get(study_id)
        return dict(stored) if overlay is None else overlay.beside(stored)

    def refresh(self, study_id: int, name: str, *, history: str = "") -> None:
        """Rebuild the overlay of a study if the study has changed. Checks at most every `every_s` seconds.

        Args:
            study_id: id of the study in the database.
            name: name of the study.
            history: id of its history. An overlay of another one is dropped, even if there is none for this one.

        Raises:
            KeyError, ConvsearchError: the study has no overlay.
        """
        with self._lock:
            overlay = self._overlays.get(study_id)
            if overlay is not None and overlay.history != history:
                del self._overlays[study_id]
                overlay = None
            if overlay is not None and time.monotonic() - overlay.seen < self._every_s:
                return
            row = queries.study(self._engine, checked_name(name))
            verdicts = (name,) if row.spec.get("verdict_on") else queries.verdicts(self._engine, name)
            shows = (row.uid, row.counts, *(queries.study(self._engine, verdict).counts for verdict in verdicts))
            if overlay is not None and overlay.shows == shows:
                self._overlays[study_id] = replace(overlay, seen=time.monotonic())
            else:
                self._overlays[study_id] = replace(self._make(row, verdicts, shows), history=history)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact for reading, as the artifact stores of Optuna do.

        Args:
            artifact_id: id of the artifact.

        Raises:
            KeyError: there is no such artifact.
        """
        for overlay in list(self._overlays.values()):
            if artifact_id in overlay.files:
                return overlay.files[artifact_id]()
        raise KeyError(f"there is no artifact {artifact_id}")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuse, because the dashboard is read-only."""
        raise PermissionError("the dashboard is read-only")

    def remove(self, artifact_id: str) -> None:
        """Refuse, because the dashboard is read-only."""
        raise PermissionError("the dashboard is read-only")

    def _make(self, row: StudyRecord, verdicts: Sequence[str], shows: tuple[object, ...]) -> StudyOverlay:
        attrs: dict[str, Any] = {}
        files: dict[str, Reader] = {}
        leaders = ranking.best(self._engine, row.name, top=SHOWN)
        for trial in leaders.trials:
            folder = self._dirs.trial(row.name, trial.number)
            counts = misclassified.counts(folder, study=row.uid)
            if counts is None:
                continue
            figure = charts.confusion(counts["confusion"], counts["classes"])
            figure.update_layout(title=f"trial {trial.number}: confusion matrix in per cent", margin_t=50)
            attrs |= split_plot_data(str(figure.to_json()), f"{SYSTEM_ATTR_PLOT_DATA}confusion-{trial.number}:")
            picture = misclassified.picture(folder)
            if picture is not None:
                with suppress(FileNotFoundError):  # another trial got among the best meanwhile
                    _add_picture(attrs, files, row, trial.number, picture)
        _add_artifact(
            attrs, files, str(row.uid), "trials.csv", "text/csv", lambda *_: io.BytesIO(self._table(row.name).encode())
        )
        return StudyOverlay(
            shows=shows, seen=time.monotonic(), note=self._note(row, verdicts), attrs=attrs, files=files
        )

    def _table(self, name: str) -> str:
        return tables.to_csv(
            *trial_tables.trials_csv(queries.study(self._engine, name), queries.trials(self._engine, name))
        )

    def _note(self, row: StudyRecord, verdicts: Sequence[str]) -> str:
        """Format the question, the results and the commands for details."""
        lines = [f"**{row.question}**"] if row.question else []
        if row.best is not None and not is_verdict(row.name):
            value = tables.format_number(row.best.values[0])
            lines.append(
                f"Best: trial {row.best.number}, {row.objective} {value}: `{tables.format_values(row.best.params)}`."
            )
        if is_search(row):
            lines.append(selection.delivered(self._engine, row).sentence)
        for name in verdicts:
            results = test_results.load(self._engine, name)
            lines += [
                f"Verdict ({name}): {test_report.comparison_sentence(comparison)}."
                for comparison in results.comparisons[:3]
            ]
            if results.configs and not results.comparisons:
                lead = selection.of_verdict(self._engine, results)
                test = tables.format_number(lead.test)
                averaged = test_report.averaged_sentence(lead)
                lines.append(
                    f"Verdict ({name}): {lead.name} has {test} on {results.images:,} test images"
                    f"{'; ' if averaged else ''}{averaged}."
                )
        if row.spec:
            report, export = (f"`convsearch {verb} {search_name(row.name)}`" for verb in ("report", "export"))
            lines.append(f"{report} writes all results on one page, {export} writes the model.")
        return "\n\n".join(lines)


def _add_picture(attrs: dict[str, Any], files: dict[str, Reader], row: StudyRecord, number: int, picture: Path) -> None:
    name, version = f"trial-{number}-{picture.name}", f"{row.uid} {picture.stat().st_mtime_ns}"
    _add_artifact(attrs, files, version, name, MIMETYPES[picture.suffix], picture.open)


def _add_artifact(
    attrs: dict[str, Any], files: dict[str, Reader], version: str, name: str, mimetype: str, opener: Callable[..., Any]
) -> None:
    """Add a file to the artifacts of a study. `opener` is called with the mode; `version` identifies the content."""
    artifact_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{version} {name}"))
    files[artifact_id] = lambda: opener("rb")
    meta = {"artifact_id": artifact_id, "filename": name, "mimetype": mimetype, "encoding": None}
    attrs[f"{ARTIFACTS_ATTR_PREFIX}{artifact_id}"] = json.dumps(meta)
