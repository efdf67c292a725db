"""The audit of a pruner: the results of trials that it would have stopped."""

from dataclasses import replace
from typing import Any

import pytest

from search.analysis.pruner_audit import MIN_AUDITED, audit, lines
from search.process import this_process
from search.spec import stored_spec, study_spec
from search.spec.study_spec import StudySpec
from search.storage import claims, queries
from search.storage.read_only import open_reader
from search.storage.records import StudyRecord, TrialRecord
from search.study import strategy
from search.trial import runner
from tests.analysis.records import study_record, trial_record
from tests.harness import Harness, run_claimed, work

STEPS: dict[str, Any] = {"trials": 30, "epochs": 4}


def spec_of(share: float, **search: Any) -> StudySpec:
    return study_spec.build({"search": {"audit": share, **search}, "space": {"width": [8, 16]}, "budget": STEPS})


def test_audited_trials_are_chosen_by_seed_and_trial_number_alone() -> None:
    few = strategy.audited(spec_of(0.05), 0)
    many = strategy.audited(spec_of(0.05), 5000)

    assert few == {number for number in many if number < 2000}
    assert len(many) / 7000 == pytest.approx(0.05, abs=0.01)
    assert strategy.audited(spec_of(0.05, seed=1), 0) != few
    assert strategy.audited(spec_of(0.0), 0) == strategy.audited(spec_of(0.05, pruner="none"), 0) == frozenset()


def test_a_stored_study_without_an_audit_setting_has_none_and_may_add_one() -> None:
    stored = stored_spec.dump(spec_of(0.05))
    del stored["search"]["audit"]

    before = stored_spec.restore(stored)

    assert before.search.audit == 0.0
    assert stored_spec.difference(before, spec_of(0.05)) == []


@pytest.mark.parametrize("pruner", ["asha", "median", "hyperband", "promote"])
def test_an_audited_trial_runs_to_its_end_and_does_not_affect_other_trials(harness: Harness, pruner: str) -> None:
    worker_config = harness.create(
        budget={"trials": 16, "epochs": 4},
        search={"pruner": pruner, "audit": 0.5, "sampler": "random", "reduction": 2},
        space={"learning_rate": {"low": 0.0001, "high": 0.3, "log": True}},
    )
    context = runner.open_training_context(worker_config)
    owner, gate = this_process(context.storage.token or ""), strategy.promotion_policy(context.study.spec)
    while (claim := claims.claim(context.storage, context.study.id, owner, (), gate)) is not None:
        run_claimed(context, claim)

    rows = harness.trials()
    chosen = strategy.audited(context.study.spec, 0)
    assert {row.state for row in rows if row.number in chosen} == {"COMPLETE"}
    assert {row.state for row in rows if row.number not in chosen} == {"COMPLETE", "PRUNED"}
    spared = [row for row in rows if row.spared is not None]
    assert spared
    assert {row.number for row in spared} <= chosen
    assert all(row.spared and row.spared["value"] == dict(row.curve)[row.spared["step"]] for row in spared)
    if pruner == "asha":
        assert_ranks_are_among_the_others(rows, chosen)
    result = audit(queries.study(open_reader(harness.url), "s"), rows)
    assert 0 < len(result.spared) <= len(spared)
    assert result.survivors > 0


def assert_ranks_are_among_the_others(rows: tuple[TrialRecord, ...], chosen: frozenset[int]) -> None:
    """Every decision ranks a trial among the earlier ones, without the audited ones."""
    for row in rows:
        if row.reason is None or "behind the baseline" in row.reason:
            continue
        step = int(row.reason.split(" at step ")[1].split(";")[0])
        earlier = [other for other in rows if other.number < row.number and other.number not in chosen]
        values = [value for other in earlier for at, value in other.curve if at == step]
        rank = 1 + sum(value > dict(row.curve)[step] for value in values)
        assert row.reason.startswith(f"rank {rank} of {len(values) + 1} at step {step}")


def test_show_marks_an_audited_trial(harness: Harness) -> None:
    worker_config = harness.create(
        budget={"trials": 12, "epochs": 3},
        search={"pruner": "asha", "audit": 0.5, "sampler": "random", "reduction": 2},
    )
    context = runner.open_training_context(worker_config)
    for _ in range(12):
        work(context)
    spared = next(row for row in harness.trials() if row.spared is not None)

    answer = harness.run("show", "s", str(spared.number))

    assert f"the pruner would have stopped it: {spared.spared and spared.spared['reason']}" in answer.out


def row(number: int, value: float, *, spared: bool = False) -> TrialRecord:
    decision = {"step": 1, "value": value / 2, "reason": "rank 9 of 9"} if spared else None
    return trial_record(number, values=(value,), curve=((1, value / 2), (3, value)), spared=decision)


def study_of(pruner: str = "asha") -> StudyRecord:
    return study_record({"search": {"pruner": pruner, "reduction": 3, "seed": 0, "audit": 0.0}})


def test_the_false_stop_rate_has_an_interval_and_a_note_on_a_small_sample() -> None:
    survivors = [row(number, 0.5 + 0.01 * number) for number in range(11)]
    spared = [row(20, 0.52, spared=True), row(21, 0.58, spared=True), row(22, 0.7, spared=True)]

    result = audit(study_of(), [*survivors, *spared])

    assert (len(result.spared), result.survivors, result.above_median, result.above_best) == (3, 11, 2, 1)
    text = " ".join(lines(result))
    assert "2 of them ended above the median of the 11 that it let through (67 %, 95 % interval 21 to 94 %)" in text
    assert f"That is too few to tell a good pruner from a bad one; at least {MIN_AUDITED} are needed." in text
    assert "nothing is known of false stops" in " ".join(lines(audit(study_of(), survivors)))


def test_with_promotion_a_trial_that_would_have_been_promoted_is_not_counted() -> None:
    others = [row(number, 0.5 + 0.01 * number) for number in range(8)]

    result = audit(study_of("promote"), [*others, row(20, 0.52, spared=True), row(21, 0.6, spared=True)])

    assert [trial.number for trial in result.spared] == [20]


def test_with_promotion_only_trials_that_it_ranks_are_compared() -> None:
    lost = [replace(row(number, 0.9), state="FAIL") for number in range(8)]
    judged = [row(number, 0.5) for number in range(8, 11)]

    result = audit(study_of("promote"), [*lost, *judged, row(20, 0.6, spared=True)])

    assert result.spared == ()  # rank 1 of 4 is promoted; with the failed trials it would be rank 9


def test_without_survivors_an_audit_has_no_comparison() -> None:
    (line,) = lines(audit(study_of(), [row(20, 0.52, spared=True)]))

    assert line == "Trials that would have been stopped, but were trained to their end: 1. No other trial was."


def test_an_unfinished_spared_trial_is_not_counted() -> None:
    waiting = trial_record(1, state="RUNNING", spared={"step": 1, "value": 0.1, "reason": ""})

    result = audit(study_of(), [row(0, 0.5), waiting])

    assert result.spared == ()
