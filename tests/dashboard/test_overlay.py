"""Data that the dashboard shows for a study in addition to Optuna's plots."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna_dashboard import save_note
from optuna_dashboard._note import get_note_from_system_attrs
from PIL import Image

from search.artifacts import misclassified
from search.dashboard import server
from search.dashboard.overlay import OverlayCache, StudyOverlay
from search.optuna_internals import OverlayStorage
from search.storage import queries, ranking
from search.storage.read_only import open_reader
from search.storage.records import StudyRecord
from tests.harness import Harness

BUDGET: dict[str, Any] = {"trials": 5, "epochs": 2}


def open_overlays(harness: Harness) -> tuple[OverlayCache, OverlayStorage, int]:
    overlays = OverlayCache(open_reader(harness.url), harness.dirs, every_s=0.0)
    storage = OverlayStorage(server._history(harness.url), overlays.beside)
    return overlays, storage, storage.get_study_id_from_name("s")


@pytest.fixture
def ended(harness: Harness) -> Harness:
    assert harness.train(budget=BUDGET).code == 0
    return harness


def test_the_best_trials_show_their_confusion_and_most_confident_mistakes(ended: Harness) -> None:
    overlays, storage, study_id = open_overlays(ended)

    overlays.refresh(study_id, "s")

    attrs = storage.get_study_system_attrs(study_id)
    files = [json.loads(value) for key, value in attrs.items() if key.startswith("artifacts:")]
    best = [trial.number for trial in ranking.best(open_reader(ended.url), "s", top=3).trials]
    wrong = {file["filename"] for file in files if file["mimetype"] == "image/png"}
    with_mistakes = [number for number in best if (ended.dirs.trial("s", number) / "wrong.png").exists()]
    assert with_mistakes
    assert wrong == {f"trial-{number}-wrong.png" for number in with_mistakes}
    assert {key.split(":")[2] for key in attrs if key.startswith("dashboard:plot_data:")} == {
        f"confusion-{number}" for number in best
    }
    for artifact in files:
        with overlays.open_reader(artifact["artifact_id"]) as stream:
            assert stream.read(4) in (b"\x89PNG", b"tria")


def test_the_note_names_the_best_trial_and_the_report_command(ended: Harness) -> None:
    overlays, storage, study_id = open_overlays(ended)

    overlays.refresh(study_id, "s")

    note = storage.get_study_system_attrs(study_id)["dashboard:note_str:0"]
    best = queries.study(open_reader(ended.url), "s").best
    assert best is not None
    assert f"Best: trial {best.number}, accuracy {best.values[0]:.4f}" in note
    assert "`convsearch report s`" in note


def test_the_overlay_is_rebuilt_only_after_a_trial_ends(ended: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    overlays, _, study_id = open_overlays(ended)
    made: list[str] = []
    before = OverlayCache._make

    def make(self: OverlayCache, row: StudyRecord, verdicts: Sequence[str], shows: tuple[object, ...]) -> StudyOverlay:
        made.append(row.name)
        return before(self, row, verdicts, shows)

    monkeypatch.setattr(OverlayCache, "_make", make)

    for _ in range(3):
        overlays.refresh(study_id, "s")
    assert ended.run("resume", "s", "--trials", "6", "--workers", "1").code == 0
    overlays.refresh(study_id, "s")

    assert made == ["s", "s"]


def test_a_recent_overlay_is_not_rebuilt_for_every_poll(ended: Harness) -> None:
    overlays = OverlayCache(open_reader(ended.url), ended.dirs, every_s=3600.0)
    study_id = server._history(ended.url).get_study_id_from_name("s")
    overlays.refresh(study_id, "s")
    before = overlays.beside(study_id, {})
    assert ended.run("resume", "s", "--trials", "6", "--workers", "1").code == 0

    overlays.refresh(study_id, "s")

    assert overlays.beside(study_id, {}) == before


def test_a_user_note_is_shown_below_the_generated_note(ended: Harness) -> None:
    save_note(optuna.load_study(study_name="s", storage=ended.url), "What **we** make of it.")
    overlays, storage, study_id = open_overlays(ended)

    overlays.refresh(study_id, "s")

    (study,) = storage.get_all_studies()
    for attrs in (storage.get_study_system_attrs(study_id), study.system_attrs):
        note = get_note_from_system_attrs(attrs, None)["body"]
        assert note.startswith("Best: trial")
        assert note.count("What **we** make of it.") == 1
        assert note.endswith("What **we** make of it.")


def test_the_note_of_a_search_has_its_verdict_after_the_final_run(ended: Harness) -> None:
    overlays, storage, study_id = open_overlays(ended)
    overlays.refresh(study_id, "s")
    assert "Verdict" not in storage.get_study_system_attrs(study_id)["dashboard:note_str:0"]
    assert ended.run("final", "s", "--top", "1", "--seeds", "1", "--no-baseline", "--workers", "1").code == 0

    overlays.refresh(study_id, "s")

    assert "Verdict (s.final): trial" in storage.get_study_system_attrs(study_id)["dashboard:note_str:0"]


def test_the_overlay_is_not_written_to_the_database(ended: Harness) -> None:
    overlays, _, study_id = open_overlays(ended)
    file = Path(ended.url.removeprefix("sqlite:///"))
    content = file.read_bytes()

    overlays.refresh(study_id, "s")

    assert file.read_bytes() == content


def test_only_the_best_trials_keep_their_confusion_counts(ended: Harness) -> None:
    best = {trial.number for trial in ranking.best(open_reader(ended.url), "s", top=3).trials}

    kept = {number for number in range(5) if (ended.dirs.trial("s", number) / misclassified.COUNTS).exists()}

    assert kept == best


def test_the_confusion_matrix_is_from_the_last_evaluation(ended: Harness) -> None:
    best = queries.study(open_reader(ended.url), "s").best
    assert best is not None

    stored = misclassified.counts(ended.dirs.trial("s", best.number))

    assert stored is not None
    counts = np.array(stored["confusion"])
    assert counts.sum() == 80
    assert np.trace(counts) / 80 == pytest.approx(best.values[0])


def test_the_picture_has_all_images_in_rows(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)

    misclassified.save(tmp_path, images=images, captions=[("cat", "dog", 0.9)] * 8, confusion=[[8]], classes=["cat"])

    with Image.open(tmp_path / misclassified.PICTURE) as sheet:
        assert sheet.size == (6 * misclassified.SIDE, 2 * (misclassified.SIDE + misclassified.CAPTION))
    assert not list(tmp_path.glob("*.part"))


def test_a_trial_without_mistakes_has_no_picture(tmp_path: Path) -> None:
    misclassified.save(tmp_path, images=np.zeros((0, 8, 8, 3), np.uint8), captions=[], confusion=[[8]], classes=["cat"])

    assert [path.name for path in tmp_path.iterdir()] == [misclassified.COUNTS]
