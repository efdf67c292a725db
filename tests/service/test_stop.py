"""A run stops at once on request, even while another process locks the database or its output cannot be written."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from search.artifacts.study_dir import STOPPED
from search.storage.retry import NOTICE_S
from tests import forks
from tests.harness import LONG, Harness, Launcher, equal, locked


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["ctrl-c", "sigterm", "closed terminal"],
)
def test_a_run_stops_while_the_database_is_locked_and_ends_with_the_same_weights(
    harness: Harness, undisturbed: Harness, number: signal.Signals, code: int
) -> None:
    file = harness.write(**LONG)
    with harness.start("run", file, "--workers", "1") as launcher:
        launcher.until(lambda: harness.steps() >= 3)
        with locked(harness.url, "EXCLUSIVE"):
            launcher.signal(number)
            stopped = launcher.end()
    again = harness.run("run", file, "--workers", "1")

    assert stopped.code == code
    assert "stopping: trials go back to the queue" in stopped.err
    assert "Traceback" not in stopped.err
    assert again.code == 0
    # The stopped attempt does not count, although the locked database could not record the stop.
    assert (harness.trials()[0].attempts, harness.trials()[0].crashes) == (1, ())
    assert not (harness.dirs.study("s") / STOPPED).exists()
    assert harness.trials()[0].curve == undisturbed.trials()[0].curve
    assert equal(harness.trained(), undisturbed.trained())


def test_a_second_ctrl_c_ends_a_run_that_waits_for_the_database(harness: Harness) -> None:
    file = harness.write(**LONG)
    with harness.start("run", file, "--workers", "1") as launcher:
        launcher.until(lambda: harness.steps() >= 3)
        with locked(harness.url, "EXCLUSIVE"):
            launcher.signal(signal.SIGINT)
            launcher.until(lambda: "stopping" in launcher.said)
            launcher.signal(signal.SIGINT)
            stopped = launcher.end()
    again = harness.run("run", file, "--workers", "1")

    assert stopped.code == 130
    assert "stopped at once; the same command goes on" in stopped.err
    assert again.code == 0
    assert (harness.trials()[0].attempts, harness.trials()[0].crashes) == (1, ())


@pytest.fixture(params=["broken pipe", "full disk"])
def unwritable(request: pytest.FixtureRequest) -> Iterator[int]:
    """A file descriptor to which nothing can be written."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    full = os.open("/dev/full", os.O_WRONLY)
    yield full if request.param == "full disk" else write_end
    os.close(write_end)
    os.close(full)


def test_a_run_goes_on_when_its_output_cannot_be_written(harness: Harness, unwritable: int) -> None:
    words = harness.complete(("run", harness.write(**LONG), "--workers", "1"))
    process = forks.start_with_output(words, stdout=unwritable, stderr=unwritable)

    with Launcher(process, Path(os.devnull)) as launcher:
        launcher.until(lambda: harness.steps() >= 3)
        with locked(harness.url, "EXCLUSIVE"):
            time.sleep(NOTICE_S + 3)  # long enough that every process reports the reason of its wait
        answer = launcher.end()

    assert answer.code == 0
    assert [(trial.state, trial.attempts) for trial in harness.trials()] == [("COMPLETE", 1)]


def test_the_exit_code_reports_a_ctrl_c_that_also_ended_the_reader_of_the_output(harness: Harness) -> None:
    """In `convsearch run ... 2>&1 | tee log`, the terminal sends Ctrl-C to both processes."""
    words = harness.complete(("run", harness.write(**LONG), "--workers", "1"))
    read_end, write_end = os.pipe()
    process = forks.start_with_output(words, stdout=write_end, stderr=write_end)
    os.close(write_end)

    with Launcher(process, Path(os.devnull)) as launcher:
        launcher.until(lambda: harness.steps() >= 3)
        os.close(read_end)
        launcher.signal(signal.SIGINT)
        answer = launcher.end()

    assert answer.code == 130
    assert [(trial.state, trial.attempts) for trial in harness.trials()] == [("WAITING", 0)]


def test_a_forkserver_that_dies_while_it_loads_is_replaced(harness: Harness) -> None:
    def servers() -> list[psutil.Process]:
        return [process for process in launcher.family() if "multiprocessing.forkserver" in " ".join(process.cmdline())]

    with harness.start_from_shell("run", harness.write(budget={"trials": 1}), "--workers", "1") as launcher:
        launcher.until(servers)
        servers()[0].kill()
        answer = launcher.end()

    assert answer.code == 0, answer.err
    assert [(trial.state, trial.attempts) for trial in harness.trials()] == [("COMPLETE", 1)]
