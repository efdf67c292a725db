"""Samplers that workers share without knowing of each other."""

from collections.abc import Callable

import optuna
import pytest
from optuna.storages import _CachedStorage

from search import lease, sampler
from search.storage import Storage

Point = dict[str, float | str]


def draw(trial: optuna.Trial) -> Point:
    """A space with a range of its own under each choice."""
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam"])
    rate = trial.suggest_float(f"learning_rate[{optimizer}]", 1e-4, 1.0, log=True)
    point: Point = {"optimizer": optimizer, "learning_rate": rate}
    if optimizer == "sgd":
        point["momentum"] = trial.suggest_float("momentum", 0.0, 0.99)
    return point


def search(name: str, *, trials: int, study_seed: int = 0, startup_trials: int = 10) -> list[Point]:
    """The points of a study, each drawn by a sampler of its own; the value is best at a rate of 0.01 under adam."""
    study = optuna.create_study(direction="maximize")
    points = []
    for number in range(trials):
        study.sampler = sampler.build(name, study_seed=study_seed, number=number, startup_trials=startup_trials)
        trial = study.ask()
        points.append(draw(trial))
        study.tell(trial, value(points[-1]))
    return points


def value(point: Point) -> float:
    return -abs(float(point["learning_rate"]) - 0.01) - 0.5 * (point["optimizer"] == "sgd")


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_the_same_seed_and_history_draw_the_same_points(name: str) -> None:
    assert search(name, trials=15) == search(name, trials=15)
    assert search(name, trials=15) != search(name, trials=15, study_seed=1)


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_two_workers_with_one_seed_never_draw_the_same_point(
    url: str, make_study: Callable[[int], int], name: str
) -> None:
    study_id = make_study(20)
    workers = [Storage(url) for _ in range(2)]
    points = []

    for turn in range(20):
        storage = workers[turn % 2]
        storage.token = f"turn {turn}"  # an owner has one trial at a time
        claim = lease.claim(storage, study_id, lease.this_process(storage.token))
        assert claim is not None
        cached = _CachedStorage(storage)
        cached.get_all_trials(study_id, deepcopy=False)
        chosen = sampler.build(name, study_seed=0, number=claim.number, startup_trials=20)
        study = optuna.Study(study_name="s", storage=cached, sampler=chosen)
        points.append(draw(optuna.Trial(study, claim.trial_id)))

    assert len({point["learning_rate"] for point in points}) == 20


def test_a_random_trial_can_be_drawn_again_without_those_before_it() -> None:
    study = optuna.create_study()
    study.add_trials([optuna.create_trial(value=0.0) for _ in range(7)])
    study.sampler = sampler.build("random", study_seed=0, number=7, startup_trials=10)

    assert draw(study.ask()) == search("random", trials=8)[7]


def test_tpe_learns_where_the_good_points_are() -> None:
    points = search("tpe", trials=60)

    early, late = points[:10], points[-20:]
    assert sum(map(value, late)) / 20 > sum(map(value, early)) / 10
    assert sum(point["optimizer"] == "adam" for point in late) > 15


def test_until_the_start_up_is_over_tpe_draws_at_random() -> None:
    assert search("tpe", trials=30, startup_trials=30)[:9] == search("tpe", trials=9, startup_trials=10)
