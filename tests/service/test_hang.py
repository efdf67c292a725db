"""A worker that hangs is detected, writes its stack to the log of its trial, and is replaced."""

import io
from pathlib import Path

from search.service import run
from search.spec import study_spec
from search.workers.live_view import open_view
from search.workers.stop_rules import StopReason
from tests.harness import LONG, Harness, equal, quiet
from tests.service.hang import SHORT, freeze_at


def test_a_hung_trial_is_killed_logs_its_stack_and_ends_with_the_same_weights(
    harness: Harness, undisturbed: Harness
) -> None:
    options = harness.options(device="cpu", times=SHORT)
    spec = study_spec.load(Path(harness.write(**LONG)))

    thread = freeze_at(harness, steps=5)
    end = run.run_study(options, spec, show=lambda _: open_view(io.StringIO(), {}), say=quiet)
    thread.join()

    (trial,), (expected,) = harness.trials(), undisturbed.trials()
    log = harness.dirs.log("s", 0).read_text()
    assert end is StopReason.DONE
    assert (trial.state, trial.attempts, trial.curve) == ("COMPLETE", 2, expected.curve)
    assert "no batch was finished for" in trial.crashes[0]
    assert "broke off: no batch was finished for" in log
    assert "runner.py" in log  # a frame of the stack
    assert "going on after step" in log
    assert equal(harness.trained(), undisturbed.trained())


def test_show_names_the_log_of_a_trial(undisturbed: Harness) -> None:
    shown = undisturbed.run("show", "s", "0").out

    assert str(undisturbed.dirs.log("s", 0)) in shown.replace("\n", "")
