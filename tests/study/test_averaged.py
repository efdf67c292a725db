"""A final training with test-time augmentation: its test images are evaluated once, and both results are stored."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.parts import load_test
from models.evaluate import evaluate_averaged
from search.analysis.html_report import to_html
from search.analysis.report import build_report
from search.errors import SpecError
from search.spec import stored_spec
from search.storage import queries
from search.storage.claims import Claim
from search.storage.rdb import Storage
from search.study import stored_study
from search.trial import runner
from search.trial.final_training import averaging_s
from search.trial.recorder import open_trial
from search.trial.trial_training import TrialTraining
from tests.harness import Answer, Harness, reader

BUDGET: dict[str, Any] = {"trials": 2, "epochs": 1}
FINAL: dict[str, Any] = {"epochs": 1}
AVERAGED = FINAL | {"test_time_augmentation": "flip"}
#: Few updates: the network still is undecided about many images.
SPACE: dict[str, Any] = {"learning_rate": {"low": 0.0005, "high": 0.002, "log": True}}
#: The terms of the final training of the study, as options of the verb.
TERMS = ("--top", "1", "--seeds", "1", "--epochs", "1", "--no-baseline", "--workers", "1")


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> tuple[Harness, Answer]:
    """A search whose [final] averages over mirrored images, and the answer of its command."""
    harness = Harness(tmp_path_factory.mktemp("averaged"), images, cache)
    return harness, harness.train(budget=BUDGET, final=AVERAGED, space=SPACE)


pytestmark = pytest.mark.xdist_group("test_averaged")


def test_the_plain_result_remains_the_value_and_the_averaged_one_stands_beside_it(
    tested: tuple[Harness, Answer], tmp_path: Path
) -> None:
    harness, answer = tested
    plain = replace(harness, folder=tmp_path)
    assert (answer.code, plain.train(budget=BUDGET, final=FINAL, space=SPACE).code) == (0, 0)

    (trial,), (without,) = harness.trials("s.final"), plain.trials("s.final")

    assert trial.test is not None
    assert without.test is not None
    assert {key: trial.test[key] for key in without.test if key != "time"} == {
        key: value for key, value in without.test.items() if key != "time"
    }
    assert trial.values == without.values
    assert without.averaged is None
    assert trial.averaged is not None
    assert trial.averaged["confusion"] == averaged_confusion(harness)
    assert trial.averaged["augmentation"] == "flip"
    assert trial.averaged["value"] == trial.averaged["right"] / 40
    low, high = trial.averaged["interval"]
    assert low < trial.averaged["value"] < high
    accesses = queries.test_set_accesses(
        reader(harness.url), stored_study.load(Storage(harness.url), "s").data["fingerprint"]
    )
    assert [(access.study, access.networks) for access in accesses] == [("s.final", 1)]


def averaged_confusion(harness: Harness) -> list[list[int]]:
    """The confusion matrix of the stored weights on the test images, averaged over mirrored images."""
    context = runner.open_training_context(harness.worker_config("s.final"))
    row = harness.trials("s.final")[0]
    trial_id = context.storage.get_trial_id_from_study_id_trial_number(context.study.id, 0)
    claim = Claim(trial_id=trial_id, number=0, attempt=1)
    run = TrialTraining(
        context=context,
        claim=claim,
        trial=open_trial(context, claim),
        values=dict(row.config),
        seed=row.seed or 0,
        step_epochs=context.spec.budget.step_epochs(images=400, macs=1),
        on_batch=lambda: None,
    )
    run.resume()
    test = load_test(context.spec.data, harness.cache)
    _, averaged = evaluate_averaged(run.training.eval_model(), run.evaluation_batches(test), 4, "flip")
    confusion: list[list[int]] = averaged.confusion.tolist()
    return confusion


def test_every_verb_tells_both_results(tested: tuple[Harness, Answer]) -> None:
    harness, run = tested
    (trial,) = harness.trials("s.final")
    assert trial.averaged is not None
    plain, averaged = f"{trial.values[0]:.4f}", f"averaged over mirrored images {trial.averaged['value']:.4f}"

    shown, best, csv = (
        harness.run(*words) for words in (("show", "s.final", "0"), ("best", "s.final"), ("report", "s.final", "--csv"))
    )
    report = harness.run("report", "s", "--markdown").out
    page = to_html(build_report(reader(harness.url), "s"))

    assert f"verdict: {plain} on 40 test images, " in run.out
    assert f"; {averaged}, {trial.averaged['right']} right (95 % interval " in run.out
    assert averaged in shown.out
    assert f"{plain}    {trial.averaged['value']:.4f}" in best.out
    assert "averaged: predictions over mirrored images, 2 passes for each image" in best.out
    assert csv.out.splitlines()[0].startswith("trial,state,accuracy,averaged,")
    for text in (report, page):
        assert f"reaches {plain} (95 % interval " in text
        assert f"; {averaged} (95 % interval " in text
        assert "Averaging costs 2 passes for each image; all other figures are of single images." in text


def test_json_has_both_results(tested: tuple[Harness, Answer]) -> None:
    harness, _ = tested
    (trial,) = harness.trials("s.final")
    assert trial.averaged is not None
    expected = {key: trial.averaged[key] for key in ("augmentation", "value", "right", "interval")}

    best, shown, searched = (
        harness.run(*words, "--json").json for words in (("best", "s.final"), ("show", "s.final", "0"), ("best", "s"))
    )

    assert best["trials"][0]["values"] == list(trial.values)
    assert best["trials"][0]["averaged"] == shown["averaged"] == expected
    assert shown["test"]["averaged"] == trial.averaged
    assert all("averaged" not in trial for trial in searched["trials"])


def test_a_verdict_with_averages_also_answers_without_them_and_other_copies_need_a_new_one(
    harness: Harness, tested: tuple[Harness, Answer]
) -> None:
    shutil.copytree(tested[0].folder / "home", harness.folder / "home")

    default, without, shifted = (
        harness.run("final", "s", *TERMS, *words, "--json")
        for words in ((), ("--tta", "none"), ("--tta", "flip_shift"))
    )

    assert [answer.code for answer in (default, without, shifted)] == [0, 0, 0]
    assert [answer.json["study"] for answer in (default, without, shifted)] == ["s.final", "s.final", "s.final-2"]
    assert without.json == default.json
    (trial,) = harness.trials("s.final")
    (standing,), (other,) = default.json["standings"], shifted.json["standings"]
    assert trial.averaged is not None
    assert standing["averaged"]["test"] == pytest.approx(trial.averaged["value"])
    assert standing["averaged"]["gain"] == pytest.approx(standing["averaged"]["test"] - standing["test"])
    assert standing["averaged"]["confusion"] == trial.averaged["confusion"]
    assert (standing["averaged"]["augmentation"], other["averaged"]["augmentation"]) == ("flip", "flip_shift")
    assert other["test"] == standing["test"]  # the same training
    assert "other terms" not in default.err
    kept = stored_study.load(Storage(harness.url), "s.final").spec
    assert kept.test_time_augmentation == "flip"


def test_a_verdict_has_the_augmentation_of_the_study_file_by_default(
    harness: Harness, tested: tuple[Harness, Answer]
) -> None:
    shutil.copytree(tested[0].folder / "home", harness.folder / "home")

    answer = harness.run("final", "s", *TERMS, "--seeds", "2", "--json")

    assert answer.json["study"] == "s.final-2"
    assert answer.json["standings"][0]["averaged"]["augmentation"] == "flip"


def test_another_augmentation_in_the_study_file_leaves_a_stored_verdict_as_it_is(
    tested: tuple[Harness, Answer],
) -> None:
    harness, _ = tested
    before = harness.trials("s.final")

    answer = harness.run(
        "run", str(harness.folder / "s.toml"), "--set", "final.test_time_augmentation=none", "--workers", "1"
    )

    assert answer.code == 0
    assert harness.trials("s.final") == before
    assert "averaged over mirrored images" in answer.out
    assert stored_study.load(Storage(harness.url), "s.final").spec.test_time_augmentation == "flip"


def test_stored_verdicts_of_older_and_newer_versions(tested: tuple[Harness, Answer]) -> None:
    harness, _ = tested
    stored = stored_spec.dump(stored_study.load(Storage(harness.url), "s.final").spec)

    older = stored_spec.restore({key: value for key, value in stored.items() if key != "test_time_augmentation"})
    with pytest.raises(SpecError, match=r"the stored study: \[final\] test_time_augmentation"):
        stored_spec.restore(stored | {"test_time_augmentation": "rotate"})

    assert older.test_time_augmentation == "none"
    assert stored_spec.restore(stored).test_time_augmentation == "flip"


def test_an_unknown_augmentation_is_refused_with_the_known_ones(harness: Harness) -> None:
    file = harness.write(budget=BUDGET, final=FINAL | {"test_time_augmentation": "mirror"})

    answers = [harness.run("validate", file), harness.run("final", "s", "--tta", "mirror")]

    assert [answer.code for answer in answers] == [78, 2]
    for answer in answers:
        assert "'flip'" in answer.err
        assert "'flip_shift'" in answer.err


def test_the_time_of_further_passes_is_a_third_of_that_of_training() -> None:
    seconds = [averaging_s(kind, images=300, images_per_second=100.0) for kind in ("none", "flip", "flip_shift")]

    assert seconds == [0.0, 1.0, 5.0]
