"""Trials that ended without a result: when they end a study, and what is said of them."""

import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.analysis import obstacles
from search.errors import AllTrialsFailedError, AllTrialsImpossibleError
from search.spec import study_spec
from search.spec.study_spec import StudySpec
from search.storage import attr_keys, queries, ranking
from search.storage.rdb import Storage
from search.storage.records import Obstacle, TrialCounts, TrialRecord
from search.workers.local import how_it_ended
from tests.analysis.records import study_record, trial_record
from tests.databases import SHORT_STORAGES

DIVERGED = (
    "diverged: the training loss must be finite, but was nan in step 1, batch 4; lower learning_rate, or set clip"
)
SLOW = "impossible: 9 ms for one image are more than [budget] max_latency_ms = 1; raise it, or lower [space] width"
MEMORY = "out of memory: DefaultCPUAllocator: can't allocate memory: you tried to allocate 512 bytes"
KILLED = f"its process died 3 times at the same step; last: {how_it_ended(-signal.SIGKILL)}"

Make = Callable[[int], int]


def search(**tables: Any) -> StudySpec:
    space = {"learning_rate": {"low": 0.001, "high": 1.0}}
    return study_spec.build({"budget": {"trials": 60, "epochs": 1}, "space": space, **tables})


GRID = search(search={"sampler": "grid"}, space={"width": [8, 16, 32]}, budget={"epochs": 1})


def add(url: str, ends: Iterable[str]) -> None:
    """Add trials that ended with these reasons; or `ok`, `failed`, `ranked`, `running`, or `trained`: after a step."""
    study = optuna.load_study(study_name="s", storage=Storage(url))
    for end in ends:
        match end:
            case "ok":
                study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.5))
            case "failed":
                study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={attr_keys.REASON: "KeyError: 'x'"}))
            case "running":
                study.add_trial(create_trial(state=TrialState.RUNNING))
            case "trained":
                study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={1: 0.5}))
            case "ranked":
                reason = "rank 3 of 3 at step 1; the best 1 went on"
                study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={attr_keys.REASON: reason}))
            case _:
                study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={attr_keys.REASON: end}))


@pytest.mark.parametrize(
    ("spec", "ends", "is_over"),
    [
        pytest.param(search(), [DIVERGED] * 11, True, id="the baseline and ten drawn trials"),
        pytest.param(search(), [DIVERGED] * 10, False, id="nine drawn trials"),
        pytest.param(search(search={"baseline": False}), [DIVERGED] * 10, True, id="ten without a baseline"),
        pytest.param(
            search(**{"try": [{"learning_rate": 0.1}] * 3}), [DIVERGED] * 12, False, id="three points and nine drawn"
        ),
        pytest.param(
            search(**{"try": [{"learning_rate": 0.1}] * 3}), [DIVERGED] * 13, True, id="three points and ten drawn"
        ),
        pytest.param(search(), [DIVERGED, SLOW, MEMORY, "failed"] * 3, True, id="several obstacles"),
        pytest.param(search(), [*[DIVERGED] * 20, "ok"], False, id="one result"),
        pytest.param(search(), [*[DIVERGED] * 20, "ranked"], True, id="a later one stopped by the pruner"),
        pytest.param(search(), ["running", *[DIVERGED] * 20], False, id="the first one still runs"),
        pytest.param(search(), [*[DIVERGED] * 11, "running"], True, id="a later one still runs"),
        pytest.param(search(), [*[DIVERGED] * 11, "trained"], True, id="a later one was trained for a step"),
        pytest.param(GRID, [SLOW] * 59, False, id="a grid whose last cell is open"),
        pytest.param(GRID, [SLOW] * 60, True, id="a whole grid"),
    ],
)
def test_a_search_ends_when_its_first_drawn_trials_have_no_result(
    url: str, make_study: Make, spec: StudySpec, ends: list[str], is_over: bool
) -> None:
    make_study(60)
    add(url, ends)

    engine = Storage(url).engine
    found = obstacles.of_first_trials(engine, spec, queries.study(engine, "s"))

    assert [trial.number for trial in found] == (
        [n for n, end in enumerate(ends) if end not in ("running", "ranked", "trained")] if is_over else []
    )


def test_a_small_budget_ends_with_its_last_trial(url: str, make_study: Make) -> None:
    make_study(3)
    engine = Storage(url).engine
    add(url, [SLOW] * 2)

    before = obstacles.of_first_trials(engine, search(), queries.study(engine, "s"))
    add(url, [SLOW])
    after = obstacles.of_first_trials(engine, search(), queries.study(engine, "s"))

    assert (len(before), len(after)) == (0, 3)


def test_a_resumed_search_may_have_ten_more_trials_without_a_result(url: str, make_study: Make) -> None:
    make_study(60)
    engine = Storage(url).engine
    add(url, [DIVERGED] * 11)
    optuna.load_study(study_name="s", storage=Storage(url)).set_user_attr(attr_keys.OBSTRUCTED_BEFORE, 11)

    numbers = []
    for _ in range(10):
        numbers.append(len(obstacles.of_first_trials(engine, search(), queries.study(engine, "s"))))
        add(url, [DIVERGED])

    assert numbers == [0] * 10
    assert len(obstacles.of_first_trials(engine, search(), queries.study(engine, "s"))) == 21


@SHORT_STORAGES
@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
def test_the_trials_without_a_result_are_selected_in_the_database(url: str, make_study: Make) -> None:
    make_study(9)
    add(url, [DIVERGED, "ok", SLOW, "ranked", MEMORY, "failed", "running", "diverged far behind the others"])

    found = queries.obstructed(Storage(url).engine, "s")

    assert [(trial.number, trial.obstacle) for trial in found] == [
        (0, Obstacle.DIVERGED),
        (2, Obstacle.IMPOSSIBLE),
        (4, Obstacle.OUT_OF_MEMORY),
        (5, Obstacle.FAILED),
    ]
    every = queries.trials(Storage(url).engine, "s")
    assert [trial for trial in every if trial.obstacle is not None] == list(found)
    assert ranking.best(Storage(url).engine, "s").obstructed == found


def obstructed(*reasons: str, state: str = "PRUNED", config: Mapping[str, Any] | None = None) -> list[TrialRecord]:
    return [
        trial_record(number, state=state, reason=reason, config=config or {}) for number, reason in enumerate(reasons)
    ]


def said(trials: list[TrialRecord], *, finished: int | None = None, name: str = "s") -> str:
    counts = TrialCounts(budget=60, pruned=len(trials) if finished is None else finished)
    return "\n".join(obstacles.report(study_record({"search": {}}, name=name, counts=counts), trials))


def test_equal_reasons_are_told_once_with_the_range_of_their_values() -> None:
    reasons = [f"impossible: a batch of {size} is more than the 27 images of a step; lower it" for size in (512, 128)]

    assert said(obstructed(*reasons)) == (
        "all 2 finished trials ended without a result:\n"
        "  2 impossible: a batch of 128 to 512 is more than the 27 images of a step; lower it\n"
        "a stored study keeps its settings: run the changed file with --name OTHER, or after `convsearch delete s`"
    )


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        pytest.param({"clip": 0.0, "scheduler": "one_cycle"}, "lower [space] learning_rate or set clip", id="clip"),
        pytest.param(
            {"clip": 0.0, "scheduler": "cosine", "warmup": 0.0},
            "lower [space] learning_rate, set clip or set warmup",
            id="warmup",
        ),
        pytest.param(
            {"clip": 1.0, "norm": "none", "precision": "auto", "warmup": 0.1},
            'lower [space] learning_rate, choose norm = "batch" or choose precision = "float32"',
            id="norm and precision",
        ),
    ],
)
def test_diverged_trials_are_told_with_their_learning_rates_and_the_settings_that_help(
    config: dict[str, Any], advice: str
) -> None:
    trials = [
        *obstructed(DIVERGED, config={**config, "learning_rate": 9.5}),
        *obstructed(DIVERGED, config={**config, "learning_rate": 0.5}),
    ]

    assert f"  2 diverged, with learning_rate 0.5 to 9.5: {advice}\n" in said(trials)


def test_each_obstacle_has_its_own_line_and_its_own_advice() -> None:
    trials = [
        *obstructed(SLOW, MEMORY, config={"batch_size": 512}),
        *obstructed("KeyError: 'x'", KILLED, state="FAIL"),
    ]

    lines = said(trials).splitlines()

    assert lines[0] == "all 4 finished trials ended without a result:"
    assert lines[1] == f"  1 {SLOW}"
    assert lines[2].startswith("  1 out of memory, with batch_size 512: lower [space] batch_size or width, or [data]")
    assert "--workers" in lines[2]
    assert lines[3] == "  1 failed: KeyError: 'x'"
    assert "killed by SIGKILL" in lines[4]
    assert "lower [space] batch_size" in lines[5]


def test_many_different_reasons_are_cut() -> None:
    trials = obstructed(*(f"impossible: reason {letter}" for letter in "abcde"))

    assert "  2 impossible for other reasons, which `convsearch why s` lists" in said(trials)


@pytest.mark.parametrize(("finished", "is_told"), [(4, False), (3, True)], ids=["half", "more than half"])
def test_obstacles_are_told_beside_results_if_they_are_more_than_half(finished: int, is_told: bool) -> None:
    text = said(obstructed(DIVERGED, DIVERGED), finished=finished)

    assert text.startswith("2 of 3 finished trials ended without a result:") == is_told
    assert bool(text) == is_told
    assert "--name OTHER" not in text


def test_the_last_training_leads_to_other_trials_of_its_search() -> None:
    assert "a larger --top of `convsearch final s`" in said(obstructed(DIVERGED), name="s.final")


def test_a_study_whose_trials_all_failed_keeps_its_own_error() -> None:
    study = study_record({"search": {}}, counts=TrialCounts(budget=9, failed=2))
    mixed = study_record({"search": {}}, counts=TrialCounts(budget=9, failed=1, pruned=1))

    failed = obstacles.error(study, obstructed("KeyError: 'x'", KILLED, state="FAIL"))
    both = obstacles.error(mixed, [*obstructed(SLOW), *obstructed("KeyError: 'x'", state="FAIL")])

    assert isinstance(failed, AllTrialsFailedError)
    assert str(failed).startswith("all 2 finished trials failed, the last one with: its process died 3 times at")
    assert "--workers" in str(failed)
    assert "`convsearch resume s --retry-failed`" in str(failed)
    assert isinstance(both, AllTrialsImpossibleError)
    assert str(both).startswith("'s' has no result: all 2 finished trials ended without a result:\n  1 impossible: ")


def test_a_study_with_a_result_is_not_refused(url: str, make_study: Make) -> None:
    make_study(9)
    engine = Storage(url).engine
    add(url, [DIVERGED])
    with pytest.raises(AllTrialsImpossibleError, match="'s' has no result: the finished trial ended without a result"):
        obstacles.check_results(engine, queries.study(engine, "s"))
    add(url, ["ok"])

    obstacles.check_results(engine, queries.study(engine, "s"))
