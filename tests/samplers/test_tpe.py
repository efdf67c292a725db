"""Samplers that several workers use without any communication."""

import math
import random
from collections.abc import Callable

import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.storages import _CachedStorage
from optuna.trial import FrozenTrial, TrialState

from search.optuna_internals import SubsetStudy
from search.samplers import tpe
from search.samplers.tpe import MAX_GOOD, OptunaSampler, TrialSubset, is_random
from search.storage.rdb import Storage
from tests.storage.claimers import take

Point = dict[str, float | str]


def draw(trial: optuna.Trial) -> Point:
    """Draw from a space with a separate range for each choice."""
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam"])
    rate = trial.suggest_float(f"learning_rate[{optimizer}]", 1e-4, 1.0, log=True)
    point: Point = {"optimizer": optimizer, "learning_rate": rate}
    if optimizer == "sgd":
        point["momentum"] = trial.suggest_float("momentum", 0.0, 0.99)
    return point


def search(name: OptunaSampler, *, trials: int, study_seed: int = 0, startup_trials: int = 10) -> list[Point]:
    """The points of a study, each drawn by a new sampler; the value is best at a rate of 0.01 under adam."""
    study = optuna.create_study(direction="maximize")
    points = []
    for number in range(trials):
        study.sampler = tpe.build(name, study_seed=study_seed, number=number, startup_trials=startup_trials, seen=study)
        trial = study.ask()
        points.append(draw(trial))
        study.tell(trial, value(points[-1]))
    return points


def value(point: Point) -> float:
    return -abs(float(point["learning_rate"]) - 0.01) - 0.5 * (point["optimizer"] == "sgd")


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_the_same_seed_and_history_draw_the_same_points(name: OptunaSampler) -> None:
    assert search(name, trials=15) == search(name, trials=15)
    assert search(name, trials=15) != search(name, trials=15, study_seed=1)


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_two_workers_with_one_seed_never_draw_the_same_point(
    url: str, make_study: Callable[[int], int], name: OptunaSampler
) -> None:
    study_id = make_study(20)
    workers = [Storage(url) for _ in range(2)]
    points = []

    for turn in range(20):
        storage = workers[turn % 2]
        storage.token = f"turn {turn}"  # an owner has one trial at a time
        claim = take(storage, study_id)
        cached = _CachedStorage(storage)
        cached.get_all_trials(study_id, deepcopy=False)
        seen = SubsetStudy("s", cached, TrialSubset(cached, study_id).read())
        chosen = tpe.build(name, study_seed=0, number=claim.number, startup_trials=20, seen=seen)
        study = optuna.Study(study_name="s", storage=cached, sampler=chosen)
        points.append(draw(optuna.Trial(study, claim.trial_id)))

    assert len({point["learning_rate"] for point in points}) == 20


def test_a_random_trial_can_be_reproduced_without_earlier_trials() -> None:
    study = optuna.create_study()
    study.add_trials([optuna.create_trial(value=0.0) for _ in range(7)])
    study.sampler = tpe.build("random", study_seed=0, number=7, startup_trials=10, seen=study)

    assert draw(study.ask()) == search("random", trials=8)[7]


def test_tpe_learns_where_the_good_points_are() -> None:
    points = search("tpe", trials=60)

    early, late = points[:10], [point for number, point in enumerate(points) if number >= 40 and not is_random(number)]
    assert sum(map(value, late)) / len(late) > sum(map(value, early)) / 10
    assert sum(point["optimizer"] == "adam" for point in late) > 0.75 * len(late)


def test_every_tenth_trial_of_tpe_is_random() -> None:
    learnt, random_ones = search("tpe", trials=30, startup_trials=5), search("random", trials=30)

    same = [number for number in range(30) if learnt[number] == random_ones[number]]
    assert set(same) >= {9, 19, 29}
    assert not [number for number in same if number > 5 and number % 10 != 9]


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (10, 1), (11, 2), (100, 10), (250, 25), (100_000, 25)])
def test_tpe_has_the_same_number_of_good_trials_as_optuna(count: int, expected: int) -> None:
    assert tpe.gamma(count) == max(1, default_gamma(count)) == expected


def test_optuna_splits_at_the_requested_number_of_good_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def split(study: optuna.Study, trials: list[FrozenTrial], count: int) -> object:
        counts.append(count)
        return _split_trials(study, trials, count)

    monkeypatch.setattr(optuna.samplers._tpe.sampler, "_split_trials", split)
    search("tpe", trials=20, startup_trials=5)

    assert counts
    assert set(counts) == {1, 2}  # trials 5 to 10, and from 11 on


def test_tpe_draws_at_random_during_startup() -> None:
    assert search("tpe", trials=12, startup_trials=30) == search("random", trials=12)


def test_a_study_read_completely_is_searched_like_stock_optuna() -> None:
    ours, stock = (optuna.create_study(direction="maximize") for _ in range(2))
    subset = TrialSubset(ours._storage, ours._study_id)
    for number in range(40):
        seen = SubsetStudy(ours.study_name, ours._storage, subset.read())
        ours.sampler = tpe.build("tpe", study_seed=0, number=number, startup_trials=10, seen=seen)
        stock.sampler = tpe.build("tpe", study_seed=0, number=number, startup_trials=10, seen=stock)
        for study in (ours, stock):
            trial = study.ask()
            study.tell(trial, value(draw(trial)))

    assert [trial.params for trial in ours.trials] == [trial.params for trial in stock.trials]


def mixed_study(count: int) -> optuna.Study:
    """A study of complete, pruned, impossible, failed and running trials; one of at most 100 has no complete one."""
    rng = random.Random(0)
    study = optuna.create_study(direction="maximize")
    for number in range(count):
        pruned = optuna.create_trial(state=TrialState.PRUNED, intermediate_values={1: rng.random()})
        kinds = [
            optuna.create_trial(value=rng.random()),
            pruned,
            optuna.create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.5, 2: rng.random()}),
            optuna.create_trial(state=TrialState.PRUNED, intermediate_values={3: math.nan}),
            optuna.create_trial(state=TrialState.PRUNED),
            optuna.create_trial(state=TrialState.PRUNED, system_attrs={"constraints:trainable": rng.random()}),
            optuna.create_trial(state=TrialState.FAIL),
            optuna.create_trial(state=TrialState.RUNNING),
        ]
        study.add_trial(rng.choice(kinds[: 2 + 6 * (number > count // 4)] if count > 100 else kinds[1:]))
    return study


@pytest.mark.parametrize("count", [60, 400])
def test_a_subset_has_the_same_good_trials_as_the_full_study(count: int) -> None:
    study = mixed_study(count)
    subset = TrialSubset(study._storage, study._study_id, others=30).read()

    learnt = {TrialState.COMPLETE, TrialState.PRUNED}
    all_learnt, seen = ([trial for trial in trials if trial.state in learnt] for trials in (study.trials, subset))
    (good, _), (ours, _) = _split_trials(study, all_learnt, MAX_GOOD), _split_trials(study, seen, MAX_GOOD)
    assert [trial.number for trial in ours] == [trial.number for trial in good]


def test_a_subset_has_evenly_spaced_other_trials_and_all_unfinished_trials() -> None:
    study = mixed_study(400)
    subset = TrialSubset(study._storage, study._study_id, others=30).read()

    numbers = {trial.number for trial in subset}
    multiples = {trial.number for trial in study.trials if trial.number % 16 == 0 and trial.state != TrialState.FAIL}
    running = {trial.number for trial in study.trials if trial.state == TrialState.RUNNING}
    assert multiples | running <= numbers
    assert len(numbers - multiples - running) <= MAX_GOOD
    assert [trial.number for trial in subset] == sorted(numbers)


def test_a_subset_does_not_depend_on_when_it_was_read() -> None:
    growing, subset, rows = optuna.create_study(direction="maximize"), None, mixed_study(400).trials
    for trial in rows:
        growing.add_trial(trial)
        subset = subset or TrialSubset(growing._storage, growing._study_id, others=30)
        read = subset.read()

    assert [trial.number for trial in read] == [
        trial.number for trial in TrialSubset(growing._storage, growing._study_id, others=30).read()
    ]
