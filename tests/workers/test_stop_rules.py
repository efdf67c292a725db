"""A study whose first trials have no result ends, in its workers and its launchers, and can be resumed."""

import pytest

from search.errors import AllTrialsImpossibleError
from search.service.session import prepare_resume
from search.storage import queries
from search.storage.rdb import Storage
from search.study import stored_study
from search.trial import runner
from search.workers.stop_rules import StopRules
from tests.harness import Harness, quiet


def work_until_the_end(harness: Harness) -> int:
    """Run trials in this process until the worker ends; returns the number of finished trials."""
    runner.run_trials(harness.worker_config(), lambda: None, lambda: False)
    return harness.counts().finished


def check(harness: Harness) -> None:
    """Apply the rules as a launcher that has just been started."""
    storage = Storage(harness.url)
    rules = StopRules(storage=storage, study=stored_study.load(storage, "s"), say=quiet)
    rules.check(queries.progress(storage.engine, "s"))


def test_a_worker_and_a_launcher_end_after_the_first_trials_and_a_resumed_study_has_ten_more(harness: Harness) -> None:
    harness.create(budget={"trials": 60, "epochs": 1, "max_latency_ms": 1e-6})
    storage = Storage(harness.url)

    first = work_until_the_end(harness)
    with pytest.raises(AllTrialsImpossibleError, match="all 11 finished trials ended without a result"):
        check(harness)
    prepare_resume(storage, stored_study.load(storage, "s"), harness.options(), quiet)
    check(harness)
    second = work_until_the_end(harness)

    assert (first, second) == (11, 21)
    with pytest.raises(AllTrialsImpossibleError, match=r"21 impossible: .* max_latency_ms = 1e-06; raise it, or lower"):
        check(harness)
