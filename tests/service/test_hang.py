"""A worker that stands still is found out, asked where it stands, and replaced."""

import io
import os
import signal
import sqlite3
import threading
from pathlib import Path

from search.service import run
from search.service.session import RunOptions
from search.spec import study_spec
from search.storage import queries
from search.storage.read_only import open_reader
from search.storage.retry import Timeouts
from search.workers.live_view import open_view
from search.workers.stop_rules import StopReason
from tests.harness import LONG, Harness, equal, wait_until

#: Shorter than the product's, in the same order.
SHORT = Timeouts(retry_timeout_s=5.0, renewal_interval_s=1.0, lease_timeout_s=30.0, hang_timeout_s=12.0)


def freeze_at(harness: Harness, *, steps: int) -> threading.Thread:
    """Stop the worker, as SIGSTOP does, once trial 0 has so many steps, and at a moment when it holds no lock."""

    def freeze() -> None:
        wait_until(lambda: harness.dirs.study("s").exists() and harness.workers() and harness.steps() >= steps)
        database = sqlite3.connect(harness.url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        os.kill(harness.workers()[0], signal.SIGSTOP)
        database.close()

    thread = threading.Thread(target=freeze)
    thread.start()
    return thread


def test_a_hung_trial_is_killed_with_its_stack_in_its_log_and_goes_on_as_if_nothing_had_happened(
    harness: Harness, undisturbed: Harness
) -> None:
    order = RunOptions(url=harness.url, cache=harness.cache, name="s", workers=1, device="cpu", times=SHORT)
    wanted = study_spec.load(Path(harness.write(**LONG)))

    thread = freeze_at(harness, steps=5)
    end = run.run_study(order, wanted, show=lambda _: open_view(io.StringIO(), {}), say=lambda _: None)
    thread.join()

    (trial,), (whole,) = harness.trials(), undisturbed.trials()
    log = harness.dirs.log("s", 0).read_text()
    assert end is StopReason.DONE
    assert (trial.state, trial.attempts, trial.curve) == ("COMPLETE", 2, whole.curve)
    assert "no batch was finished for" in trial.crashes[0]
    assert "broke off: no batch was finished for" in log
    assert "runner.py" in log  # the stack says where it stood
    assert "going on after step" in log
    assert equal(harness.trained(), undisturbed.trained())


def test_show_names_the_log_of_a_trial(undisturbed: Harness) -> None:
    shown = undisturbed.run("show", "s", "0").out
    row = queries.trial(open_reader(undisturbed.url), "s", 0)

    assert str(undisturbed.dirs.log("s", row.number)) in shown.replace("\n", "")
