"""The verdict on several configurations: uncertainty from seeds and test images, and the sentences on it."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from search import tables
from search.analysis import test_report, test_results
from search.analysis.correctness import pack
from search.analysis.intervals import crossed_interval
from search.analysis.test_results import unpack
from search.storage.records import StudyRecord, TrialRecord
from tests.analysis.records import study_record

CLASSES = ("cat", "dog", "owl")
#: Simulated intervals of each kind; the standard error of a share of 0.95 is then one percentage point.
SIMULATIONS = 500
#: Simulated verdicts of each kind. With a true share of 5 %, more than 8 % are significant with a probability of 2 %;
#: without the correction for three comparisons (12 %), with one of 95 %.
VERDICTS = 200


def simulated_scores(
    rng: np.random.Generator, ease: NDArray[np.float64], *, runs: int, spread: float, lift: float = 0.0
) -> NDArray[np.float64]:
    """(runs, images) of a simulated configuration: whether each image is classified correctly."""
    chance = 1 / (1 + np.exp(-ease - lift - rng.normal(0.0, spread, (runs, 1))))
    return (rng.random(chance.shape) < chance).astype(float)


def truth(*, middle: float, spread: float) -> float:
    """The mean over the whole population of images and seeds."""
    logits = np.random.default_rng(0).normal(middle, np.hypot(1.5, spread), 1_000_000)
    return float((1 / (1 + np.exp(-logits))).mean())


@pytest.mark.parametrize(("runs", "spread"), [(2, 0.1), (3, 0.0), (3, 0.1), (3, 0.5), (10, 0.3)])
def test_the_crossed_interval_has_its_nominal_coverage(runs: int, spread: float) -> None:
    rng, expected = np.random.default_rng(runs), truth(middle=1.5, spread=spread)
    covered = 0
    for _ in range(SIMULATIONS):
        interval = crossed_interval(simulated_scores(rng, rng.normal(1.5, 1.5, 400), runs=runs, spread=spread))
        assert interval is not None
        covered += interval.low <= expected <= interval.high

    assert covered / SIMULATIONS >= 0.93


@pytest.mark.parametrize("runs", [2, 3, 10])
def test_an_interval_over_images_alone_has_less_than_80_percent_coverage(runs: int) -> None:
    rng, expected = np.random.default_rng(runs), truth(middle=1.5, spread=0.5)
    covered = 0
    for _ in range(SIMULATIONS):
        scores = simulated_scores(rng, rng.normal(1.5, 1.5, 400), runs=runs, spread=0.5).mean(axis=0)
        covered += abs(scores.mean() - expected) <= 1.96 * scores.std(ddof=1) / np.sqrt(400)

    assert covered / SIMULATIONS < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "spread"), [(2, 0.1), (3, 0.0), (3, 0.2), (10, 0.2)])
def test_at_most_one_verdict_in_twenty_on_equal_configurations_is_significant(runs: int, spread: float) -> None:
    rng, significant = np.random.default_rng(runs), 0
    for _ in range(VERDICTS):
        ease = rng.normal(1.5, 1.5, 400)
        scores = {
            name: simulated_scores(rng, ease, runs=runs, spread=spread) for name in ("trial 1", "trial 2", "trial 3")
        }
        significant += any(comparison.is_significant for comparison in result_of(scores).comparisons)

    assert significant / VERDICTS <= 0.08


def test_a_real_lead_is_significant() -> None:
    rng = np.random.default_rng(0)
    ease = rng.normal(1.5, 1.5, 2000)
    scores = {
        name: simulated_scores(rng, ease, runs=3, spread=0.02, lift=lift)
        for name, lift in [("trial 1", 0.0), ("trial 2", 0.5), ("baseline", 0.02)]
    }

    result = result_of(scores)

    assert result.configs[0].name == "trial 2"
    *leads, rest = result.comparisons
    assert [(comparison.first, comparison.is_significant) for comparison in leads] == [("trial 2", True)] * 2
    assert not rest.is_significant


def result_of(scores: dict[str, NDArray[np.float64]], labels: Sequence[int] | None = None) -> test_results.FinalResult:
    """The verdict on simulated scores."""
    return test_results.final_result(study_of(tuple(scores)), trials_of(scores, labels), {1: 0.9, 2: 0.95})


def study_of(names: Sequence[str], objective: str = "accuracy") -> StudyRecord:
    spec = {"compare": [{"name": name} for name in names], "search": {"objective": objective}}
    return study_record(spec, name="s.final", question="Which is best?", data={"classes": CLASSES})


def trials_of(scores: dict[str, NDArray[np.float64]], labels: Sequence[int] | None = None) -> list[TrialRecord]:
    numbers = itertools.count()
    return [
        TrialRecord(
            study="s.final",
            number=next(numbers),
            state="COMPLETE",
            config={"row": name},
            repeat=repeat,
            values=(float(right.mean()),),
            test=stored_evaluation(right, labels),
            parameters=1000,
            latency_ms=0.5 + repeat,
            epochs=2.0,
            seconds=10.0,
        )
        for name, runs in scores.items()
        for repeat, right in enumerate(runs)
    ]


def stored_evaluation(right: NDArray[np.float64], labels: Sequence[int] | None = None) -> dict[str, object]:
    """A stored evaluation; a wrong image is assigned to the next class."""
    truths = np.asarray(labels if labels is not None else np.arange(len(right)) % 3)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (truths, np.where(right > 0, truths, (truths + 1) % 3)), 1)
    return {
        "images": len(right),
        "right": int(right.sum()),
        "confusion": confusion.tolist(),
        "bits": pack(right > 0, truths),
        "time": "2026-11-26 12:00:00",
    }


def test_correct_images_are_stored_by_class() -> None:
    right = np.array([True, False, True, True, False])
    labels = np.array([2, 0, 1, 0, 2])

    kept = unpack({"bits": pack(right, labels), "images": 5})

    assert kept.tolist() == [False, True, True, True, False]


def test_balanced_accuracy_weights_every_class_equally() -> None:
    labels = [0, 0, 0, 0, 1, 1, 2]
    right = np.array([[1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]])

    result = test_results.final_result(
        study_of(["trial 1"], "balanced_accuracy"), trials_of({"trial 1": right}, labels), {}
    )

    assert result.configs[0].test == pytest.approx((0.75 + 0.5 + 0.0) / 3)


def test_the_table_names_the_winner_and_the_result_of_the_search() -> None:
    rng = np.random.default_rng(0)
    ease = rng.normal(1.5, 1.5, 2000)
    scores = {
        "trial 1": simulated_scores(rng, ease, runs=3, spread=0.02, lift=0.5),
        "trial 2, baseline": simulated_scores(rng, ease, runs=3, spread=0.02),
    }

    text = tables.to_text(test_report.final_result_table(result_of(scores), ("No other study.",)), width=80)

    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "trial 1 beats trial 2, baseline by 0.0" in flat
    assert "trial 2, baseline is 0.0500 ahead of trial 1; on the test images it is -0" in flat
    assert "lowest recall of trial 1: " in flat
    assert "No other study." in flat


def test_the_confusion_matrix_has_every_name_in_full() -> None:
    names = (f"{'a' * 30}b", f"{'a' * 30}c", "红花")
    result = replace(result_of({"trial 1": np.array([[1.0, 0.0, 1.0, 1.0]])}), classes=names)

    lines = tables.to_text(test_report.final_result_table(result, ()), width=None).splitlines()

    head, *rows = lines[lines.index(next(line for line in lines if line.startswith("Of each class"))) + 1 :][:4]
    assert head.split() == ["1", "2", "3"]
    assert [row.split() for row in rows] == [
        ["1", "100.0", "0.0", "0.0", names[0]],
        ["2", "0.0", "0.0", "100.0", names[1]],
        ["3", "0.0", "0.0", "100.0", names[2]],
    ]


def test_one_run_of_one_configuration_has_an_interval_over_images_alone() -> None:
    right = np.array([[1.0] * 80 + [0.0] * 20])

    result = result_of({"trial 1": right})

    assert result.comparisons == ()
    (standing,) = result.configs
    assert (standing.name, standing.runs, standing.test, standing.search) == ("trial 1", 1, 0.8, 0.9)
    assert standing.interval is not None
    assert standing.interval[0] == pytest.approx(0.71, abs=0.005)
    assert standing.gap == pytest.approx(0.1)
    assert "with one seed" in tables.to_text(test_report.final_result_table(result, ()), width=None)


def test_a_failed_training_is_named_and_its_pair_is_left_out() -> None:
    rng = np.random.default_rng(0)
    scores = {
        name: simulated_scores(rng, rng.normal(1.5, 1.5, 90), runs=3, spread=0.1) for name in ("trial 1", "trial 2")
    }
    trials = trials_of(scores)
    lost = TrialRecord(study="s.final", number=1, state="FAIL", config={"row": "trial 1"}, repeat=1, reason="a bug")

    result = test_results.final_result(study_of(("trial 1", "trial 2")), [trials[0], lost, *trials[2:]], {})

    assert result.missing == ("trial 1, run 2: fail, a bug",)
    assert {standing.name: standing.runs for standing in result.configs} == {"trial 1": 2, "trial 2": 3}
    (comparison,) = result.comparisons
    both = {name: runs[[0, 2]].mean() for name, runs in scores.items()}
    assert comparison.difference == pytest.approx(both[comparison.first] - both[comparison.second])


def test_an_interval_exists_if_the_double_count_correction_removes_all_variance() -> None:
    result = result_of({"trial 1": np.array([[1.0, 0.0], [0.0, 1.0]]), "trial 2": np.zeros((2, 2))})

    (comparison,) = result.comparisons
    assert comparison.interval is not None
    assert comparison.interval.low < 0.0 < comparison.interval.high
    assert "no clear difference between trial 1 and trial 2: 0.5000" in test_report.comparison_sentence(comparison)


def test_a_lead_on_every_image_has_no_interval_and_a_reason() -> None:
    (comparison,) = result_of({"trial 1": np.ones((2, 6)), "trial 2": np.zeros((2, 6))}).comparisons

    assert (
        test_report.comparison_sentence(comparison)
        == "trial 1 is 1.0000 ahead of trial 2 on every image: no spread, so no interval"
    )


def test_configurations_without_a_common_run_are_not_compared() -> None:
    first, second = trials_of({"trial 1": np.ones((1, 6)), "trial 2": np.zeros((1, 6))})

    result = test_results.final_result(study_of(("trial 1", "trial 2")), [first, replace(second, repeat=1)], {})

    assert test_report.comparison_sentence(result.comparisons[0]) == "trial 1 and trial 2 have no run in common"


def test_the_common_runs_alone_decide_the_order_in_a_pair() -> None:
    scores = {"trial 1": np.array([[1.0] * 5 + [0.0] * 5] * 3), "trial 2": np.array([[1.0] * 6 + [0.0] * 4] * 2)}
    scores["trial 1"][2] = 1.0

    result = result_of(scores)

    assert result.configs[0].name == "trial 1"
    assert (result.comparisons[0].first, result.comparisons[0].runs) == ("trial 2", 2)
    assert result.comparisons[0].difference == pytest.approx(0.1)


def test_one_common_run_is_too_few_for_a_comparison() -> None:
    scores = {"trial 1": np.array([[1.0] * 9 + [0.0]] * 3), "trial 2": np.array([[1.0] * 5 + [0.0] * 5])}

    (comparison,) = result_of(scores).comparisons

    assert (comparison.interval, comparison.p_holm) == (None, None)
    assert test_report.comparison_sentence(comparison).endswith("have one run in common, too few for a comparison")


@pytest.mark.parametrize("runs", [1, 3])
def test_the_interval_of_an_accuracy_stays_between_0_and_1(runs: int) -> None:
    rng = np.random.default_rng(0)
    for right in (np.ones((runs, 200)), simulated_scores(rng, rng.normal(3.0, 1.0, 20), runs=runs, spread=2.0)):
        (standing,) = result_of({"trial 1": right}).configs
        assert standing.interval is not None
        assert 0.0 <= standing.interval[0] <= standing.test <= standing.interval[1] <= 1.0


def test_class_differences_do_not_widen_the_balanced_accuracy_interval() -> None:
    labels = [0] * 900 + [1] * 100
    right = np.array([[1.0] * 810 + [0.0] * 90 + [1.0] * 50 + [0.0] * 50])

    result = test_results.final_result(
        study_of(["trial 1"], "balanced_accuracy"), trials_of({"trial 1": right}, labels), {}
    )

    (standing,) = result.configs
    assert standing.test == pytest.approx(0.7)
    assert standing.interval is not None
    error = np.sqrt(0.9 * 0.1 / 900 + 0.5 * 0.5 / 100) / 2  # two independent shares, half of each
    assert standing.interval[1] - standing.interval[0] == pytest.approx(2 * 1.96 * error, rel=0.02)


def test_a_class_without_test_images_is_not_among_the_worst() -> None:
    (standing,) = result_of({"trial 1": np.array([[1.0, 1.0, 0.0, 1.0]])}, labels=[0, 0, 1, 1]).configs

    assert test_report.worst(standing.confusion, CLASSES) == ("dog 0.50 (0.50 as owl)", "cat 1.00 (0.00 as dog)")


def test_a_tie_in_the_search_is_reported() -> None:
    scores = {"trial 1": np.ones((2, 6)), "trial 2": np.zeros((2, 6))}

    result = test_results.final_result(study_of(tuple(scores)), trials_of(scores), {1: 0.9, 2: 0.9})

    assert "trial 1 and trial 2 are equal" in tables.to_text(test_report.final_result_table(result, ()), width=None)


def test_there_is_no_verdict_before_the_test_images_are_evaluated() -> None:
    result = test_results.final_result(study_of(("trial 1", "trial 2")), [], {})

    assert result.configs == ()
    assert "the test images have not been evaluated yet" in tables.to_text(
        test_report.final_result_table(result, ()), width=80
    )


def averaged_result(
    right: NDArray[np.float64], better: NDArray[np.float64], objective: str = "accuracy", labels: Sequence[int] = ()
) -> test_results.FinalResult:
    """The verdict on the runs `right` of one configuration, whose averages over mirrored images are `better`."""
    trials = [
        replace(
            trial,
            test={**(trial.test or {}), "averaged": stored_evaluation(run, labels or None) | {"augmentation": "flip"}},
        )
        for trial, run in zip(trials_of({"trial 1": right}, labels or None), better, strict=True)
    ]
    return test_results.final_result(study_of(["trial 1"], objective), trials, {1: 0.9})


def test_results_with_test_time_augmentation_have_an_interval_and_a_gain_over_the_same_images() -> None:
    right = np.array([[1.0] * 80 + [0.0] * 20, [1.0] * 78 + [0.0] * 22])
    better = right.copy()
    better[:, 85:90] = 1.0

    (standing,) = averaged_result(right, better).configs

    result = standing.averaged
    assert result is not None
    assert (standing.test, result.test, result.gain) == pytest.approx((0.79, 0.84, 0.05))
    assert result.interval is not None
    assert result.interval[0] < 0.84 < result.interval[1]
    assert result.gain_interval is not None
    assert 0.0 < result.gain_interval.low < 0.05 < result.gain_interval.high < 0.1  # paired: narrower than both
    assert result.confusion.trace() == 168


def test_a_gain_in_balanced_accuracy_weights_every_class_equally() -> None:
    labels = [0, 0, 0, 0, 1, 1, 2]
    right = np.array([[1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]])
    better = np.array([[1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0]])

    (standing,) = averaged_result(right, better, "balanced_accuracy", labels).configs

    assert standing.averaged is not None
    assert standing.averaged.gain == pytest.approx(1 / 3)


def test_the_table_has_both_results_and_the_cost_of_averaging() -> None:
    rng = np.random.default_rng(0)
    right = simulated_scores(rng, rng.normal(1.5, 1.5, 900), runs=2, spread=0.1)
    better = np.maximum(right, (rng.random(right.shape) < 0.1).astype(float))
    result = averaged_result(right, better)

    text = tables.to_text(test_report.final_result_table(result, ()), width=80)

    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert f"trial 1: averaged over mirrored images {better.mean():.4f} (95 % interval " in flat
    assert f"{better.mean() - right.mean():+.4f} (" in flat
    assert "Averaging costs 2 passes for each image; all other figures are of single images." in flat


def test_a_verdict_without_test_time_augmentation_does_not_mention_it() -> None:
    result = result_of({"trial 1": np.array([[1.0] * 80 + [0.0] * 20])})

    assert result.configs[0].averaged is None
    assert "verag" not in tables.to_text(test_report.final_result_table(result, ()), width=None)
    assert "averaged" not in test_report.final_result_json(result, ())["standings"][0]
