"""The trial that a search delivers: its baseline, unless another trial beats it by more than chance explains."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from search.analysis import correctness
from search.analysis.selection import CHANCE, SEED_SD, BaselineComparison, Lead
from search.storage.records import TrialRecord
from tests.analysis.records import study_record, trial_record

IMAGES = 2000
LABELS = np.arange(IMAGES) % 10
STUDY = study_record({"search": {"baseline": True, "sampler": "random", "objective": "accuracy"}})


def trial(
    number: int, *, won: int = 0, lost: int = 0, state: str = "COMPLETE", step: int = 9, **more: Any
) -> TrialRecord:
    """A trial with the 1,500 correct images of the baseline, plus `won` others, minus `lost` of these."""
    right = np.arange(IMAGES) < 1500
    right[:lost] = False
    right[1500 : 1500 + won] = True
    kept = correctness.add_step({}, step, right, LABELS, classes=10)
    if number == 0:  # the baseline is evaluated at all rungs
        kept = {**kept, "1": kept[str(step)], "3": kept[str(step)]}
    return trial_record(number, state=state, correct=kept, config={"width": 8}, **more)


def compared(
    *challengers: TrialRecord, baseline: TrialRecord | None = None, judged: int | None = None
) -> BaselineComparison:
    return BaselineComparison(
        study=STUDY,
        trials=(baseline or trial(0), *challengers),
        judged=len(challengers) if judged is None else judged,
    )


def test_a_lead_that_chance_explains_is_not_significant() -> None:
    small, large = compared(trial(1, won=60, lost=45)).ended + compared(trial(1, won=120, lost=45)).ended

    assert small.pair.lead == pytest.approx(15 / IMAGES)
    assert (small.is_significant, large.is_significant) == (False, True)


def test_the_required_lead_grows_with_the_number_of_challengers() -> None:
    won = trial(1, won=108, lost=50)
    few, many = compared(won, judged=1).ended[0], compared(won, judged=40).ended[0]

    error = math.sqrt((108 + 50) / IMAGES**2 + 2 * SEED_SD**2)
    assert few.needed == pytest.approx(NormalDist().inv_cdf(0.95) * error + 1 / IMAGES)
    assert many.needed == pytest.approx(NormalDist().inv_cdf(1 - CHANCE / 40) * error + 1 / IMAGES)
    assert (few.is_significant, many.is_significant) == (True, False)


def test_trials_that_beat_the_baseline_are_sorted_by_their_lead() -> None:
    comparison = compared(trial(1, won=120, lost=20), trial(2, won=200, lost=20), trial(3, won=10, lost=8))

    assert [lead.trial.number for lead in comparison.significant] == [2, 1]


@pytest.mark.parametrize(
    "challenger",
    [
        pytest.param(trial(1, won=400, state="PRUNED", step=1), id="pruned at a rung"),
        pytest.param(trial(1, won=400, state="WAITING", step=3), id="paused"),
        pytest.param(trial(1, won=400, state="FAIL"), id="failed"),
        pytest.param(trial(1, won=400, violation=1.0), id="diverged"),
        pytest.param(trial_record(1, values=(0.99,)), id="of an older version"),
    ],
)
def test_only_a_fully_trained_trial_can_replace_the_baseline(challenger: TrialRecord) -> None:
    assert compared(challenger).significant == ()


@pytest.mark.parametrize(
    "baseline",
    [
        pytest.param(trial(0, state="FAIL"), id="failed"),
        pytest.param(trial(0, state="PRUNED", violation=1.0), id="cannot be trained"),
        pytest.param(trial_record(0, state="RUNNING"), id="not drawn yet"),
    ],
)
def test_a_failed_pruned_or_unfinished_trial_is_no_baseline(baseline: TrialRecord) -> None:
    assert compared(trial(1), baseline=baseline).baseline is None


def test_a_search_has_found_nothing_after_patience_trials_without_a_clear_lead() -> None:
    others = [trial(number, won=5, lost=20, state="PRUNED", step=1) for number in range(1, 13)]

    assert compared(*others).has_found_nothing(patience=12, before=0)
    assert not compared(*others[:11]).has_found_nothing(patience=12, before=0)
    assert not compared(*others).has_found_nothing(patience=12, before=1)


def test_a_search_waits_for_a_clear_leader_at_a_rung_and_for_the_baseline() -> None:
    others = [trial(number, state="PRUNED", step=1) for number in range(1, 13)]
    leader = trial(13, won=300, lost=10, state="WAITING", step=3)

    assert not compared(*others, leader).has_found_nothing(patience=12, before=0)
    assert not compared(*others, baseline=trial(0, state="RUNNING")).has_found_nothing(patience=12, before=0)


def test_a_search_does_not_wait_for_a_pruned_trial_with_a_clear_lead() -> None:
    others = [trial(number, state="PRUNED", step=1) for number in range(1, 13)]
    pruned = trial(13, won=300, lost=10, state="PRUNED", step=3)

    assert compared(*others, pruned).has_found_nothing(patience=12, before=0)


def test_zero_challengers_require_the_same_lead_as_one() -> None:
    pair = correctness.pair(trial(1, won=50).correct, trial(0).correct, 9)

    assert pair is not None
    assert Lead(trial=trial(1), pair=pair, challengers=0).needed == pytest.approx(
        Lead(trial=trial(1), pair=pair, challengers=1).needed
    )
