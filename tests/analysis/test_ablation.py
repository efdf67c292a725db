"""Designed comparisons: the effect of each change, and its uncertainty."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from scipy import stats

from search import tables
from search.analysis.ablation import Comparison, RowResult, ablation_json, ablation_table, compare_rows
from search.analysis.intervals import holm, mean_interval, mean_share_interval, wilson_interval
from search.errors import UsageError
from search.storage import queries
from search.storage.read_only import open_reader
from search.storage.records import StudyRecord, TrialRecord
from search.tables import WIDTH, to_text
from tests.analysis.records import study_record

NAMES = ("base", "dropout", "more layers")


def as_text(comparison: Comparison) -> str:
    return to_text(ablation_table(comparison), width=WIDTH)


def study_of(names: Sequence[str] = NAMES, *, repeats: int = 4, direction: str = "maximize") -> StudyRecord:
    spec: dict[str, Any] = {
        "search": {"objective": "accuracy", "repeats": repeats},
        "compare": [{"name": name} for name in names],
    }
    return study_record(spec, name="findings", question="Which?", directions=(direction,))


def trials_of(values: Mapping[str, Sequence[float | None]]) -> list[TrialRecord]:
    """One trial for each row and repeat; None is a failed trial."""
    return [
        TrialRecord(
            study="findings",
            number=number,
            state="FAIL" if value is None else "COMPLETE",
            values=() if value is None else (value,),
            params={"row": name},
            repeat=repeat,
        )
        for number, (name, repeat, value) in enumerate(
            (name, repeat, value) for name, row in values.items() for repeat, value in enumerate(row)
        )
    ]


def results(values: Mapping[str, Sequence[float | None]], **options: Any) -> dict[str, RowResult]:
    comparison = compare_rows(study_of(tuple(values), **options), trials_of(values))
    return {row.name: row for row in comparison.rows}


def test_differences_are_paired_by_repeat() -> None:
    base = (0.50, 0.60, 0.70, 0.80)  # the repeats differ by much more than the effect of the change
    change = (0.02, 0.03, 0.01, 0.02)

    result = results({"base": base, "dropout": [a + b for a, b in zip(base, change, strict=True)]})["dropout"]

    expected = stats.ttest_1samp(change, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx((low, high))
    assert result.interval.p == pytest.approx(expected.pvalue)
    assert result.difference == pytest.approx(0.02)
    assert result.verdict == "helped"


@pytest.mark.parametrize(
    ("row", "direction", "verdict"),
    [
        pytest.param((0.61, 0.62, 0.60, 0.62), "maximize", "helped", id="up"),
        pytest.param((0.41, 0.42, 0.40, 0.42), "maximize", "hurt", id="down"),
        pytest.param((0.61, 0.41, 0.52, 0.50), "maximize", "no clear difference", id="both ways"),
        pytest.param((0.61, 0.62, 0.60, 0.62), "minimize", "hurt", id="up is worse"),
        pytest.param((0.41, 0.42, 0.40, 0.42), "minimize", "helped", id="down is better"),
    ],
)
def test_the_verdict_follows_from_the_interval_and_the_direction(
    row: Sequence[float], direction: str, verdict: str
) -> None:
    verdicts = results({"base": (0.5, 0.5, 0.5, 0.51), "other": row}, direction=direction)

    assert verdicts["other"].verdict == verdict
    assert verdicts["base"].verdict == "base"


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_95_percent_interval_has_95_percent_coverage(n: int) -> None:
    generator, rounds, truth = np.random.default_rng(0), 3000, 0.013
    samples = truth + 0.01 * generator.standard_normal((rounds, n))

    intervals = [mean_interval([float(value) for value in sample]) for sample in samples]

    covered = sum(interval is not None and interval.low <= truth <= interval.high for interval in intervals)
    low, high = stats.binom.interval(0.9999, rounds, 0.95)
    assert low <= covered <= high


def test_a_failed_repeat_is_named_and_the_other_pairs_are_compared() -> None:
    values = {"base": (0.5, 0.6, None, 0.7), "dropout": (0.6, None, 0.9, 0.81)}

    comparison = compare_rows(study_of(tuple(values)), trials_of(values))

    row = comparison.rows[1]
    assert (row.n, row.pairs, row.missing) == (3, 2, ("repeat 1 failed",))
    assert row.difference == pytest.approx(0.105)
    assert "dropout: repeat 1 failed." in as_text(comparison)
    assert "only 2 of 3 repeats have a partner in 'base'" in as_text(comparison)


def test_repeats_that_cannot_be_trained_are_told_once_with_the_setting_to_change() -> None:
    values = {"base": (0.5, 0.6, 0.7), "deep": (0.6, None, None)}
    reason = "impossible: an image of 8 x 8 pixels allows 3 poolings; lower conv_layers"
    trials = [
        replace(trial, state="PRUNED", reason=reason) if trial.state == "FAIL" else trial for trial in trials_of(values)
    ]

    comparison = compare_rows(study_of(tuple(values)), trials)

    assert comparison.rows[1].missing == ("repeat 1 is impossible", "repeat 2 is impossible")
    assert comparison.rows[1].obstacles == (f"  2 {reason}",)
    assert "deep: repeat 1 is impossible, repeat 2 is impossible." in as_text(comparison)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param((0.9,), id="one pair"),
        pytest.param((), id="no pair"),
        pytest.param((0.6, 0.7, 0.8), id="all differences equal"),
    ],
)
def test_differences_without_spread_have_no_interval_and_no_verdict(row: Sequence[float]) -> None:
    result = results({"base": (0.5, 0.6, 0.7), "dropout": row}, repeats=3)["dropout"]

    assert (result.interval, result.p_holm, result.verdict) == (None, None, "no clear difference")


def test_a_change_without_any_effect_makes_no_clear_difference() -> None:
    result = results({"base": (0.5, 0.6, 0.7), "dropout": (0.5, 0.6, 0.7)})["dropout"]

    assert result.interval is not None
    assert (result.interval.low, result.interval.high, result.interval.p) == (0.0, 0.0, 1.0)
    assert result.verdict == "no clear difference"


def test_an_infinite_value_counts_as_missing() -> None:
    result = results({"base": (0.5, 0.6), "dropout": (float("inf"), 0.7)}, repeats=2)["dropout"]

    assert (result.n, result.pairs, result.interval) == (1, 1, None)
    assert result.missing == ("repeat 0 has no finite value",)


def test_holm_adjusts_as_published() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_the_order_and_stays_between_p_and_bonferroni(ps: list[float]) -> None:
    adjusted = holm(ps)

    assert all(p <= a <= max(p, min(1.0, len(ps) * p)) for p, a in zip(ps, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(ps, kind="stable")] == sorted(adjusted)


def test_a_verdict_that_does_not_survive_holm_is_marked() -> None:
    values: dict[str, Sequence[float]] = {"base": (0.5, 0.6, 0.7), "lucky": (0.52, 0.63, 0.73)}
    values |= {f"row {n}": (0.51, 0.59, 0.70) for n in range(9)}

    comparison = compare_rows(study_of(tuple(values), repeats=3), trials_of(values))

    lucky = comparison.rows[1]
    assert lucky.verdict == "helped"
    assert not lucky.survives_holm
    assert ablation_table(comparison).rows[1][-1] == "helped*"
    assert "* no longer clear after adjustment over all 10" in as_text(comparison)


def test_the_table_fits_80_columns_and_states_the_expected_false_results() -> None:
    values: dict[str, Sequence[float]] = {"base": (0.51234, 0.61234, 0.71234)}
    values |= {f"a change with quite a long name, number {n}": (0.52, 0.58 + n / 100, 0.71) for n in range(10)}

    text = as_text(compare_rows(study_of(tuple(values), repeats=3), trials_of(values)))

    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "Each of the 10 intervals is at 95 %: by chance 0.5 of them look clear." in flat
    assert "difference to 'base' over repeats of the same seed" in flat


def test_the_json_has_every_number() -> None:
    values = {"base": (0.5, 0.6), "dropout": (0.6, 0.71)}

    answer = json.loads(
        tables.to_json(ablation_json(compare_rows(study_of(tuple(values), repeats=2), trials_of(values))))
    )

    assert (answer["schema"], answer["comparisons"], answer["confidence"], answer["adjustment"]) == (1, 1, 0.95, "holm")
    row = answer["rows"][1]
    assert row["interval"] == pytest.approx([0.105 - 12.7062 * 0.005, 0.105 + 12.7062 * 0.005], abs=1e-6)
    assert (row["name"], row["n"], row["pairs"], row["p_holm"]) == ("dropout", 2, 2, row["p"])


def test_a_study_without_compare_rows_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"is not a comparison: it has no \[\[compare\]\] rows; `convsearch best findings`"
    ):
        compare_rows(study_of(()), [])


def test_rows_and_repeats_are_read_from_a_real_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    stored = optuna.create_study(study_name="findings", storage=url, direction="maximize")
    stored.set_user_attr("spec", dict(study_of(("base", "dropout"), repeats=2).spec))
    for name, repeat, value in (("base", 0, 0.5), ("base", 1, 0.6), ("dropout", 1, 0.4), ("dropout", 0, 0.31)):
        stored.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=value,
                params={"row": name, "repeat": repeat},
                distributions={
                    "row": CategoricalDistribution(["base", "dropout"]),
                    "repeat": IntDistribution(0, 1),
                },
            )
        )
    engine = open_reader(url)

    comparison = compare_rows(queries.study(engine, "findings"), queries.trials(engine, "findings"))

    assert [(row.name, row.n, row.pairs) for row in comparison.rows] == [("base", 2, 0), ("dropout", 2, 2)]
    assert comparison.rows[1].difference == pytest.approx(-0.195)
    assert comparison.rows[1].verdict == "hurt"


def test_unfinished_repeats_are_counted_and_not_listed() -> None:
    values: dict[str, Sequence[float]] = {"base": (0.5, 0.6), "other": (0.5,)}

    text = as_text(compare_rows(study_of(tuple(values), repeats=3), trials_of(values)))

    assert "3 of 6 trials have not ended yet." in text
    assert "has not begun" not in text


def test_the_wilson_interval_matches_published_values() -> None:
    # Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I, method 3
    shares = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }

    intervals = {share: wilson_interval(*share) for share in shares}

    assert intervals == {share: pytest.approx(ends, abs=5e-5) for share, ends in shares.items()}


def test_the_interval_of_a_mean_of_shares_has_95_percent_coverage() -> None:
    rng = np.random.default_rng(0)
    truths, images = np.array([0.95, 0.8, 0.6]), np.array([20, 400, 80])
    drawn = rng.binomial(images, truths, size=(2000, 3))

    intervals = [mean_share_interval(list(zip(row.tolist(), images.tolist(), strict=True))) for row in drawn]

    held = np.mean([low <= truths.mean() <= high for low, high in intervals])
    assert 0.93 <= held <= 0.975  # three standard errors of 2,000 draws are 0.015


def test_the_mean_share_interval_of_one_share_is_its_wilson_interval() -> None:
    assert mean_share_interval([(44, 50)]) == pytest.approx(wilson_interval(44, 50))
    assert mean_share_interval([(20, 20), (5, 5)])[1] == 1.0
    assert mean_share_interval([(20, 20), (5, 5)])[0] < 0.95
