"""On both databases our storage behaves like Optuna's, in fewer and safer transactions."""

from collections.abc import Callable
from typing import TypeVar

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from search.process import this_process
from search.storage import claims
from search.storage.rdb import Storage
from search.workers import local
from tests.databases import BOTH
from tests.storage.claimers import take

T = TypeVar("T")

pytestmark = BOTH


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    n = trial.suggest_int("n", 1, 8, log=True)
    trial.set_user_attr("kind", kind)
    for step in range(1, 4):
        trial.report(x * step, step)
    return x * n


def facts(trial: FrozenTrial) -> tuple[object, ...]:
    return (
        trial.number,
        trial.state,
        trial.values,
        trial.params,
        trial.distributions,
        trial.intermediate_values,
        {key: value for key, value in trial.user_attrs.items() if key != "attempts"},
    )


def test_our_storage_and_optunas_store_equal_trials(url: str, make_study: Callable[[int], int]) -> None:
    sampler = optuna.samplers.RandomSampler(seed=1)
    stock = optuna.create_study(direction="maximize", sampler=sampler)
    stock.optimize(objective, n_trials=8)
    study_id = make_study(8)
    storage = Storage(url, token="t")
    ours = optuna.load_study(study_name="s", storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))

    while (claim := claims.claim(storage, study_id, this_process("t"))) is not None:
        ours.get_trials(deepcopy=False)
        trial = optuna.Trial(ours, claim.trial_id)
        with storage.batch():
            value = objective(trial)
        ours.tell(trial, value)

    assert [facts(trial) for trial in ours.get_trials()] == [facts(trial) for trial in stock.get_trials()]


def test_the_writes_of_a_failed_batch_are_rolled_back(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="t")
    claim = take(storage, study_id)

    def break_in_the_middle() -> None:
        with storage.batch():
            storage.set_trial_user_attr(claim.trial_id, "a", 1)
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        break_in_the_middle()
    storage.set_trial_user_attr(claim.trial_id, "b", 2)

    attrs = storage.get_trial(claim.trial_id).user_attrs
    assert "a" not in attrs
    assert attrs["b"] == 2


def test_a_check_in_the_transaction_of_a_batch_discards_its_writes(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="t")
    claim = take(storage, study_id)

    def refuse(_: sa.Connection) -> None:
        raise RuntimeError("refused")

    def write_with_check() -> None:
        with storage.batch():
            storage.check_batch(refuse)
            storage.set_trial_user_attr(claim.trial_id, "a", 1)

    with pytest.raises(RuntimeError, match="refused"):
        write_with_check()
    with storage.batch():  # the check was for one batch
        storage.set_trial_user_attr(claim.trial_id, "b", 2)

    attrs = storage.get_trial(claim.trial_id).user_attrs
    assert "a" not in attrs
    assert attrs["b"] == 2


def test_readers_do_not_wait_for_a_writer(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    writer, reader = Storage(url, token="t"), Storage(url)

    assert writer.write(lambda _: reader.get_all_trials(study_id)) == []


def test_setting_a_state_that_is_not_final_is_refused(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="t")
    claim = take(storage, study_id)

    with pytest.raises(ValueError, match=r"only search\.storage\.claims and leases set"):
        storage.set_trial_state_values(claim.trial_id, TrialState.WAITING)


def test_a_rank_at_a_step_ignores_nan_and_failed_trials(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(6)
    storage = Storage(url, token="t")
    outcomes = [(TrialState.PRUNED, 0.25), (TrialState.FAIL, 0.9), (TrialState.COMPLETE, float("nan"))]
    for number, (state, value) in enumerate([*outcomes, (TrialState.PRUNED, 0.5), (TrialState.COMPLETE, 0.75)]):
        claim = take(storage, study_id)
        assert claim.number == number
        storage.set_trial_intermediate_value(claim.trial_id, 2, value)
        storage.set_trial_state_values(claim.trial_id, state)

    assert storage.rank_at_step(study_id, 2, 0.5, but=9) == (1, 3)
    assert storage.rank_at_step(study_id, 2, 0.5, but=3) == (1, 2)
    assert storage.rank_at_step(study_id, 2, 0.1, but=4) == (2, 2)
    assert storage.rank_at_step(study_id, 1, 0.5, but=9) == (0, 0)
    assert storage.rank_at_step(study_id, 2, 0.1, but=9, left_out=frozenset({3, 4})) == (1, 1)


def create_database(url: str) -> None:
    Storage(url, create=True)


@pytest.mark.slow
def test_processes_can_create_the_same_database_at_once(url: str) -> None:
    context = local.start_server()
    processes = [context.Process(target=create_database, args=(url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 4


def test_deleting_a_study_twice_raises_key_error(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = Storage(url)

    storage.delete_study(study_id)

    assert storage.get_all_studies() == []
    with pytest.raises(KeyError):
        storage.delete_study(study_id)


class CommitsTwice(Storage):
    """Writes as if the answer to each first COMMIT were lost."""

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        super().write(work)
        return super().write(work)


def test_a_process_whose_answer_to_a_commit_is_lost_recognises_its_finished_trial(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    claim = take(Storage(url, token="me"), study_id)

    storage = CommitsTwice(url, token="me")
    storage.set_trial_state_values(claim.trial_id, TrialState.COMPLETE, [0.5])

    trial = storage.get_trial(claim.trial_id)
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [0.5])
