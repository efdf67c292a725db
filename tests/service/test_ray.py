"""Workers on a real Ray cluster: nodes join and leave, launchers die, and nothing is lost."""

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.machinery import PathFinder
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from search.service import run as launch
from search.service.session import RunOptions
from search.spec import study_spec
from search.storage.records import TrialRecord
from search.workers import local
from search.workers.live_view import open_view
from search.workers.stop_rules import StopReason
from tests.faults import invariants
from tests.harness import CONVSEARCH, LONG, PATIENCE_S, Harness, Launcher, equal, locked, long_study, quiet, wait_until
from tests.service.hang import SHORT, freeze_at
from tests.service.ray_nodes import Nodes, die

ON_RAY = ("--engine", "ray")


@pytest.fixture(scope="module")
def nodes(nodes: Nodes) -> Iterator[Nodes]:
    """The cluster of this test run, without nodes of these tests at the end. A test may leave a sound node alive."""
    yield nodes
    nodes.clear()


def process_tree(launcher: Launcher) -> list[psutil.Process]:
    """A launcher and all its descendants, in any session."""
    process = psutil.Process(launcher.process.pid)
    return [process, *process.children(recursive=True)]


def kill_while_working(harness: Harness, node: psutil.Process) -> bool:
    """Kill a node if one of its workers runs a trial, while no trial can begin or end; whether it was killed."""
    with locked(harness.url):
        is_working = bool({process.pid for process in node.children(recursive=True)}.intersection(harness.workers()))
        if is_working:
            die(node)
    return is_working


def crashed(harness: Harness) -> list[TrialRecord]:
    """The trials with a crashed attempt."""
    return [trial for trial in harness.trials() if trial.crashes]


def addresses(processes: list[psutil.Process]) -> set[str]:
    """The addresses at which these processes listen."""
    listening = set()
    for process in processes:
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                listening.add(connection.laddr.ip)
    return listening


def is_loopback(address: str) -> bool:
    parsed = ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def disturb(harness: Harness, file: str, disturbance: Callable[[Launcher], None]) -> tuple[int, str, set[str]]:
    """Run a study on a local Ray until `disturbance` ends it; exit code, stderr, and addresses at which it listened."""
    processes: list[psutil.Process] = []
    try:
        with harness.start("run", file, *ON_RAY, "--workers", "1") as launcher:
            launcher.until(lambda: "has room for" in launcher.said)
            listened = addresses(process_tree(launcher))
            launcher.until(harness.workers)
            before = harness.steps()
            launcher.until(lambda: harness.steps() >= before + 4)
            processes = process_tree(launcher)
            disturbance(launcher)
            answer = launcher.end()
            _, left = psutil.wait_procs(processes[1:], timeout=PATIENCE_S)
            assert left == []
    finally:
        for process in processes:
            if process.is_running():
                process.kill()
    return answer.code, answer.err, listened


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let Python not find a package, as on a machine without it."""
    find = PathFinder.find_spec
    monkeypatch.setattr(PathFinder, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    monkeypatch.delitem(sys.modules, package, raising=False)


@pytest.mark.ray
def test_a_study_on_a_local_ray_ends_with_the_same_weights_after_a_stop_and_a_kill(
    harness: Harness, undisturbed: Harness
) -> None:
    file = harness.write(**LONG)

    stopped = disturb(harness, file, lambda launcher: launcher.signal(signal.SIGINT))
    (after_stop,) = harness.trials()
    killed = disturb(harness, file, lambda launcher: os.kill(launcher.process.pid, signal.SIGKILL))
    (after_kill,) = harness.trials()
    with harness.start("run", file, *ON_RAY, "--workers", "1") as launcher:
        end = launcher.end()

    assert (stopped[0], killed[0], end.code) == (130, -signal.SIGKILL, 0)
    assert "stopping: trials go back to the queue" in stopped[1]
    assert (after_stop.state, after_stop.attempts, after_stop.crashes) == ("WAITING", 0, ())
    assert after_kill.state == "RUNNING"
    for output in (stopped[1], killed[1], end.err):
        assert "Traceback" not in output
        assert "raylet" not in output
    assert stopped[2] | killed[2]
    assert all(map(is_loopback, stopped[2] | killed[2]))
    (trial,), (expected,) = harness.trials(), undisturbed.trials()
    assert (trial.state, trial.attempts, trial.curve) == ("COMPLETE", 2, expected.curve)
    assert trial.crashes[0].endswith("is gone")
    assert equal(harness.trained(), undisturbed.trained())
    invariants.check(harness, over=True)


@pytest.mark.ray
def test_a_node_with_other_code_gets_no_workers_and_ends_a_run_only_if_it_is_alone(
    harness: Harness, nodes: Nodes
) -> None:
    installed = harness.folder / "site" / "numpy-0.1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    words = ("run", harness.write(budget={"trials": 4, "epochs": 6}), *ON_RAY, "--address", nodes.address)
    nodes.clear()
    other = nodes.join(PYTHONPATH=str(installed.parent))
    try:
        with harness.start(*words) as launcher:
            alone = launcher.end()
        before = harness.counts().begun
        nodes.join()
        with harness.start(*words) as launcher:
            both = launcher.end()
    finally:
        die(other)

    assert (alone.code, both.code) == (78, 0), both.err
    for answer in (alone, both):
        assert "differs from the code the study was last run with: numpy 0.1 here" in answer.err
    assert "gets no workers for 60 s" in both.err
    assert before == 0
    assert {(trial.state, trial.attempts) for trial in harness.trials()} == {("COMPLETE", 1)}
    invariants.check(harness, over=True)


@pytest.mark.ray
def test_nodes_join_and_die_and_the_budget_stays_exact(harness: Harness, nodes: Nodes) -> None:
    first, file = nodes.only(), harness.write(**long_study(trials=9000, epochs=4, steps_per_epoch=3))
    with harness.start("run", file, *ON_RAY, "--address", nodes.address) as launcher:
        launcher.until(lambda: harness.workers() and harness.steps() >= 2)
        nodes.join()
        launcher.until(lambda: len(harness.workers()) == 2)
        done = invariants.finished(harness.url)
        wait_until(lambda: kill_while_working(harness, first))
        launcher.until(lambda: crashed(harness) and crashed(harness)[0].state == "COMPLETE")
        lowered = harness.run("run", file, "--trials", "1")
        answer = launcher.end()

    assert (lowered.code, answer.code) == (75, 0), answer.err
    assert {trial.state for trial in harness.trials()} == {"COMPLETE"}
    assert len(harness.trials()) == harness.counts().budget < 9000  # the number begun when the budget was lowered
    (retaken,) = crashed(harness)
    assert retaken.attempts == 2
    assert "its machine" in retaken.crashes[0]  # its launcher noticed the death before the lease expired
    invariants.check(harness, before=done, over=True)


def run_silently(environment: Mapping[str, str], options: RunOptions, spec: study_spec.StudySpec) -> StopReason:
    """Run a study without any output, in a process that has these environment variables."""
    os.environ.update(environment)
    return launch.run_study(options, spec, show=lambda _: open_view(io.StringIO(), {}), say=quiet)


@pytest.mark.ray
def test_a_hung_actor_is_replaced_and_its_trial_ends_with_the_same_weights(
    harness: Harness, undisturbed: Harness, nodes: Nodes
) -> None:
    nodes.only()
    spec = study_spec.load(Path(harness.write(**LONG)))
    options = harness.options(workers=None, engine="ray", address=nodes.address, times=SHORT)

    thread = freeze_at(harness, steps=5)
    try:
        # In a process apart: Ray may end the process that it runs in.
        with ProcessPoolExecutor(1, mp_context=local.start_server()) as process:
            end = process.submit(run_silently, dict(os.environ), options, spec).result(timeout=PATIENCE_S)
    finally:
        thread.join()

    (trial,), (expected,) = harness.trials(), undisturbed.trials()
    assert end is StopReason.DONE
    assert (trial.state, trial.attempts, trial.curve) == ("COMPLETE", 2, expected.curve)
    assert "no batch was finished for" in trial.crashes[0]
    assert equal(harness.trained(), undisturbed.trained())


@pytest.mark.ray
def test_actors_of_a_cluster_end_with_their_launcher_and_the_same_command_goes_on(
    harness: Harness, nodes: Nodes
) -> None:
    nodes.only()
    words = ("run", harness.write(**LONG), *ON_RAY, "--address", nodes.address)
    codes: list[int] = []
    left: list[psutil.Process] = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        with harness.start(*words) as launcher:
            launcher.until(harness.workers)
            actors = [psutil.Process(pid) for pid in harness.workers()]
            os.kill(launcher.process.pid, number)
            codes.append(launcher.end().code)
            left += psutil.wait_procs(actors, timeout=PATIENCE_S)[1]
    with harness.start(*words) as launcher:
        end = launcher.end()

    assert codes == [143, -signal.SIGKILL]
    assert left == []
    assert end.code == 0, end.err
    (trial,) = harness.trials()
    assert (trial.state, trial.attempts) == ("COMPLETE", 2)  # the attempt that SIGTERM ended does not count
    invariants.check(harness, over=True)


@pytest.mark.ray
def test_a_node_is_excluded_only_if_there_are_others(nodes: Nodes) -> None:
    backend = nodes.backend()
    messages: list[str] = []
    nodes.only()
    with backend.running_backend(messages.append):
        (first,) = backend.slots()
        is_alone = backend.exclude(first)
        before = backend.slots()
        nodes.join()
        wait_until(lambda: len(backend.slots()) == 2)
        is_left = backend.exclude(first)
        (second,) = backend.slots()
        is_last = backend.exclude(second)
        after = backend.slots()

    assert (is_alone, is_left, is_last) == (False, True, False)
    assert (before, after) == ((first,), (second,))
    assert second.node != first.node
    assert [text for text in messages if "gets no workers for 60 s" in text] == messages[-1:]


@pytest.mark.ray
def test_a_cluster_of_several_machines_refuses_a_database_file(harness: Harness, nodes: Nodes) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--uts", "true"], check=False).returncode:
        pytest.skip("this user may not give itself another host name")
    run = f"'{CONVSEARCH}' run '{harness.write()}' --engine ray --address {nodes.address} --storage '{harness.url}'"

    answer = subprocess.run(
        ["unshare", "--uts", "sh", "-c", f"hostname elsewhere && exec {run} --cache '{harness.cache}'"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )

    assert answer.returncode == 2
    assert "the database is a file of this machine, and the Ray cluster has others" in answer.stderr
    assert "CONVSEARCH_STORAGE" in answer.stderr
    assert harness.counts().begun == 0


@pytest.mark.ray
@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("127.0.0.1:1", 69, "no Ray cluster answers at 127.0.0.1:1"),
        ("auto", 2, "--address must be HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(harness: Harness, address: str, code: int, words: str) -> None:
    with harness.start("run", harness.write(), *ON_RAY, "--address", address) as launcher:
        answer = launcher.end()

    assert answer.code == code
    assert words in answer.err


def test_a_run_without_ray_installed_names_the_command_that_installs_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "ray")

    answer = harness.run("run", harness.write(), *ON_RAY)

    assert answer.code == 2
    assert "make setup EXTRAS=ray" in answer.err


def test_an_address_without_the_ray_engine_is_refused(harness: Harness) -> None:
    answer = harness.run("run", harness.write(), "--address", "127.0.0.1:6379")

    assert answer.code == 2
    assert "--engine ray" in answer.err
