"""SIGKILL at random moments: to a worker, to the launcher alone, to all processes at once."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial

from search.storage.leases import ATTEMPTS
from tests.faults import invariants
from tests.harness import Harness, wait_until
from tests.soak import processes, results
from tests.soak.processes import ProcessGroup
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace

#: Budgets of studies whose trials have 24 steps of about 0.02 s. Orphans would be done with a short one before anybody
#: looks; so where workers must die by themselves there is no end of trials, until the budget is lowered.
SHORT, ENDLESS = 20, 5000
#: Kills of one case, whose studies lie in one database.
KILLS = 10
#: Every other study has trials that pause at rungs, and of two of them one goes on.
PRUNERS = ({"pruner": "none"}, {"pruner": "promote", "first_rung": 2, "reduction": 2})
#: A launcher that a shell starts loads for seconds; so only one in so many is started by one, and the rest are forked.
SHELL_EVERY = 4
#: A dead worker is noticed within two seconds (I2); on a machine as busy as the soak makes it, it may be later.
PROMISED_S, NOTICE_S = 2.0, 20.0


def worker(workspace: Workspace) -> FaultResult:
    """Kill one worker at a random moment; its launcher replaces it."""
    return _row(workspace, "a worker is killed", "kill-worker", kill_a_worker, SHORT, workspace.count(80))


def group(workspace: Workspace) -> FaultResult:
    """Kill the launcher, its workers and their server at once; the same command goes on."""
    return _row(workspace, "all processes are killed", "kill-all", kill_all, SHORT, workspace.count(60))


def launcher(workspace: Workspace) -> FaultResult:
    """Kill the launcher, and nobody else; its workers die by themselves, and the same command goes on."""
    return _row(workspace, "only the launcher is killed", "kill-launcher", kill_launcher, ENDLESS, workspace.count(60))


def _row(workspace: Workspace, fault: str, part: str, kill: "Kill", trials: int, kills: int) -> FaultResult:
    began = time.monotonic()
    cases = [min(KILLS, kills - before) for before in range(0, kills, KILLS)]
    reports = workspace.each(part, partial(_kill_again_and_again, kill, trials, cases), range(len(cases)))
    return results.total(fault, reports, seconds=time.monotonic() - began)


@dataclass(slots=True)
class Scene:
    """One study that is run by one launcher after the other."""

    case: Case
    number: int
    """Of this case's studies."""
    trials: int
    before: dict[int, str] = field(default_factory=dict)
    """What was finished when it was last looked at."""
    launcher: ProcessGroup | None = None

    @property
    def name(self) -> str:
        return f"s{self.number}"

    @property
    def harness(self) -> Harness:
        return self.case.harness

    def go_on(self, *more: str) -> ProcessGroup:
        """Start the command that runs the study; the running launcher, if there is one."""
        if self.launcher is None:
            budget = {"trials": self.trials, "epochs": 8, "steps_per_epoch": 3}
            search = PRUNERS[(self.case.index + self.number) % len(PRUNERS)]
            words = ("run", self.harness.write(self.name, budget=budget, search=search), "--workers", "2", *more)
            starts = self.case.facts["starts from a shell"] + self.case.facts["starts by fork"]
            from_shell = starts % SHELL_EVERY == 0
            self.case.facts["starts from a shell" if from_shell else "starts by fork"] += 1
            self.launcher = (processes.command if from_shell else processes.launcher)(self.harness, *words)
        return self.launcher

    def is_dead(self) -> None:
        self.launcher = None

    def compare(self) -> None:
        """The budget holds (I1), and whatever was finished at the last look is unchanged (I3), while the study runs."""
        self.before = invariants.compare(self.harness.url, self.name, self.before)

    def check(self, *, over: bool = False) -> None:
        """All invariants, while nobody runs the study."""
        invariants.check(self.harness, self.name, before=self.before, over=over)
        self.before = invariants.finished(self.harness.url, self.name)

    def end(self) -> None:
        """Run the study to its end; an endless one ends with the trials that were begun."""
        launcher = self.go_on(*(("--trials", "1") if self.trials == ENDLESS else ()))
        code = launcher.end(300.0)
        assert code == 0, f"exit code {code}: {launcher.said}"
        self.is_dead()
        self.check(over=True)
        failed = [trial.number for trial in self.harness.trials(self.name) if trial.state == "FAIL"]
        assert not failed, f"trials {failed} failed"


#: Does the deed at a moment of its own choice; false if the launcher ended before.
Kill = Callable[[Scene], bool]


def _kill_again_and_again(kill: Kill, trials: int, cases: list[int], case: Case) -> None:
    scene = Scene(case, 0, trials)
    try:
        while case.injected < cases[case.index]:
            scene.go_on()
            if kill(scene):
                continue
            scene.end()
            scene = Scene(case, scene.number + 1, trials)
        scene.end()
    finally:
        if scene.launcher is not None:
            scene.launcher.sweep()


def kill_a_worker(scene: Scene) -> bool:
    launcher, dice = scene.go_on(), scene.case.dice
    if not _wait(launcher, lambda: owners(scene.harness)):
        return False
    if not _pause(launcher, dice.uniform(0.0, 1.0)) or not _wait(launcher, lambda: _nobody_is_at_the_edge(scene)):
        return False
    victims = sorted(owners(scene.harness))
    if not victims:
        return True
    victim = dice.choice(victims)
    scene.case.injected += 1
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    wait_until_noticed(scene.case, victim)
    scene.compare()
    scene.case.survived += 1
    return True


def kill_all(scene: Scene) -> bool:
    def kill(launcher: ProcessGroup) -> None:
        os.killpg(launcher.pid, signal.SIGKILL)

    return _kill_at_any_time(scene, kill)


def kill_launcher(scene: Scene) -> bool:
    return _kill_at_any_time(scene, lambda launcher: os.kill(launcher.pid, signal.SIGKILL))


def _kill_at_any_time(scene: Scene, kill: Callable[[ProcessGroup], None]) -> bool:
    """Kill while it loads, or while it works; then see that nobody is left, and that nothing is lost."""
    launcher, dice = scene.go_on(), scene.case.dice
    while_it_loads = dice.random() < 0.25
    if not while_it_loads and not _wait(launcher, lambda: owners(scene.harness)):
        return False
    if not _pause(launcher, dice.uniform(0.0, 3.0 if while_it_loads else 1.5)):
        return False
    if not _wait(launcher, lambda: _nobody_is_at_the_edge(scene)) or launcher.poll() is not None:
        return False
    scene.case.injected += 1
    kill(launcher)
    launcher.end()
    scene.check()
    scene.is_dead()  # only now: if it left somebody behind, these are swept away at the end
    scene.case.survived += 1
    return True


def owners(harness: Harness) -> set[int]:
    """The processes that hold a trial and live."""
    return {pid for (pid,) in _rows(harness, "SELECT pid FROM convsearch_leases") if processes.alive(pid)}


def wait_until_noticed(case: Case, victim: int) -> None:
    """Wait until a dead worker's trial is taken from it; how often that took no longer than it should is counted."""
    began = time.monotonic()
    wait_until(lambda: (victim,) not in _rows(case.harness, "SELECT pid FROM convsearch_leases"), patience_s=NOTICE_S)
    in_time = time.monotonic() - began < PROMISED_S
    case.facts[f"noticed within {PROMISED_S if in_time else NOTICE_S:.0f} s"] += 1


def _nobody_is_at_the_edge(scene: Scene) -> bool:
    """Whether no trial would fail, by design, if its process died now: it died before at the step where it stands."""
    rows = _rows(
        scene.harness,
        "SELECT json_extract(value_json, '$.count') FROM trial_user_attributes JOIN trials USING (trial_id) "
        "WHERE key = 'deaths' AND state IN ('RUNNING', 'WAITING') AND json_extract(value_json, '$.steps') = "
        "(SELECT COUNT(*) FROM trial_intermediate_values AS step WHERE step.trial_id = trials.trial_id)",
    )
    return all(count < ATTEMPTS - 1 for (count,) in rows)


def _rows(harness: Harness, query: str) -> list[tuple[int, ...]]:
    file = harness.folder / "home" / "studies.db"
    if not file.exists():
        return []
    try:
        with closing(sqlite3.connect(file, timeout=30.0)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return []


def _wait(launcher: ProcessGroup, condition: Callable[[], object]) -> bool:
    """Wait until `condition` holds; false if the launcher ended before."""
    wait_until(lambda: condition() or launcher.poll() is not None)
    return bool(condition())


def _pause(launcher: ProcessGroup, seconds: float) -> bool:
    """Let time pass; false if the launcher ended meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and launcher.poll() is None:
        time.sleep(0.01)
    return launcher.poll() is None
