"""A study without any result: each verb names the reasons and the settings to change, and none offers more trials."""

import pytest

from search.trial import runner
from tests.harness import Harness


@pytest.fixture
def finished(harness: Harness) -> Harness:
    """A study of two trials, both of which are too slow to be trained."""
    harness.create(budget={"trials": 2, "epochs": 1, "max_latency_ms": 1e-6})
    runner.run_trials(harness.worker_config(), lambda: None, lambda: False)
    assert harness.counts().pruned == 2
    return harness


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(("best", "s"), 0, id="best"),
        pytest.param(("why", "s"), 0, id="why"),
        pytest.param(("report", "s", "--markdown"), 0, id="report"),
        pytest.param(("resume", "s"), 76, id="resume"),
        pytest.param(("final", "s"), 76, id="final"),
        pytest.param(("export", "s"), 2, id="export"),
    ],
)
def test_a_study_without_any_result_names_the_reasons_and_the_settings_to_change(
    finished: Harness, words: tuple[str, ...], code: int
) -> None:
    answer = finished.run(*words)

    said = answer.out + answer.err
    assert answer.code == code
    assert "all 2 finished trials ended without a result:" in said
    assert "2 impossible: " in said
    assert "[budget] max_latency_ms = 1e-06; raise it, or lower [space] width" in said
    assert "--name OTHER" in said
    assert "--trials" not in said
    assert "raises" not in said


def test_a_last_training_without_a_result_ends_with_code_76_after_the_results_of_its_search(harness: Harness) -> None:
    # Weight decay multiplies the weights by -3 a batch: ten batches keep them finite, a hundred do not.
    wild = {"learning_rate": 4.0, "weight_decay": 1.0, "norm": "none", "scheduler": "none", "clip": 0.1}
    file = harness.write(budget={"trials": 1, "epochs": 1}, space=wild, final={"epochs": 8})

    answer = harness.run("run", file, "--workers", "1")
    again = harness.run("resume", "s.final")

    assert answer.code == again.code == 76
    assert "s: 1 of 1 trials finished: 1 complete" in answer.out
    assert "no verdict: the last training was pruned, diverged: " in answer.out
    assert "'s.final' has no result: the finished trial ended without a result:" in answer.err
    assert "  1 diverged, with learning_rate 4: lower [space] learning_rate" in answer.err
    assert "a larger --top of `convsearch final s`" in again.err
