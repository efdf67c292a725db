"""SIGKILL at random moments: to a worker, to the launcher alone, or to all processes at once."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from search.storage.leases import ATTEMPTS
from tests.faults import invariants
from tests.harness import Harness, living, wait_until
from tests.soak import processes, results
from tests.soak.processes import ProcessGroup
from tests.soak.results import FaultResult
from tests.soak.workspace import ENDLESS, Case, Workspace

#: Budget of a study whose trials have 24 steps of about 0.02 s. Orphans would finish such a study before the check;
#: where workers must die by themselves, the budget is ENDLESS.
SHORT = 20
#: Kills of one case; its studies share a database.
KILLS = 10
#: Every other study has trials that pause at rungs; one of two goes on.
PRUNERS = ({"pruner": "none"}, {"pruner": "promote", "first_rung": 2, "reduction": 2})
#: One in SHELL_EVERY launchers is started as by a shell, which takes seconds of loading; the others are forked.
SHELL_EVERY = 4
#: Seconds within which a dead worker is noticed (I2): promised, and allowed on a machine that the soak keeps busy.
PROMISED_S, NOTICE_S = 2.0, 20.0
OWNERS = "SELECT pid FROM convsearch_leases"


def worker(workspace: Workspace) -> FaultResult:
    """Kill one worker at a random moment; its launcher replaces it."""
    return _row(workspace, "a worker is killed", "kill-worker", kill_a_worker, SHORT, workspace.count(80))


def group(workspace: Workspace) -> FaultResult:
    """Kill the launcher, its workers and their server at once; the same command goes on."""
    return _row(workspace, "all processes are killed", "kill-all", kill_all, SHORT, workspace.count(60))


def launcher(workspace: Workspace) -> FaultResult:
    """Kill the launcher alone; its workers die by themselves, and the same command goes on."""
    return _row(workspace, "only the launcher is killed", "kill-launcher", kill_launcher, ENDLESS, workspace.count(60))


def _row(workspace: Workspace, fault: str, part: str, kill: "Kill", trials: int, kills: int) -> FaultResult:
    cases = [min(KILLS, kills - before) for before in range(0, kills, KILLS)]
    reports = workspace.run_cases(part, partial(_kill_repeatedly, kill, trials, cases), range(len(cases)))
    return results.total(fault, reports)


@dataclass(slots=True)
class RunningStudy:
    """One study that successive launchers run."""

    case: Case
    number: int
    """Number of the study in its case."""
    trials: int
    before: dict[int, str] = field(default_factory=dict)
    """The result of `invariants.finished` at the last check."""
    launcher: ProcessGroup | None = None

    @property
    def name(self) -> str:
        return f"s{self.number}"

    @property
    def harness(self) -> Harness:
        return self.case.harness

    def go_on(self, *more: str) -> ProcessGroup:
        """The launcher of the study; starts one if none runs."""
        if self.launcher is None:
            budget = {"trials": self.trials, "epochs": 8, "steps_per_epoch": 3}
            search = PRUNERS[(self.case.index + self.number) % len(PRUNERS)]
            words = ("run", self.harness.write(self.name, budget=budget, search=search), "--workers", "2", *more)
            starts = self.case.facts["starts from a shell"] + self.case.facts["starts by fork"]
            from_shell = starts % SHELL_EVERY == 0
            self.case.facts["starts from a shell" if from_shell else "starts by fork"] += 1
            self.launcher = (processes.command if from_shell else processes.launcher)(self.harness, *words)
        return self.launcher

    def forget_launcher(self) -> None:
        self.launcher = None

    def compare(self) -> None:
        """Check I1, and I3 against the last check, while the study runs."""
        self.before = invariants.compare(self.harness.url, self.name, self.before)

    def check(self, *, over: bool = False) -> None:
        """Check all invariants while no process runs the study."""
        invariants.check(self.harness, self.name, before=self.before, over=over)
        self.before = invariants.finished(self.harness.url, self.name)

    def end(self) -> None:
        """Run the study to its end; an endless one ends with the begun trials."""
        launcher = self.go_on(*(("--trials", "1") if self.trials == ENDLESS else ()))
        code = launcher.end(300.0)
        assert code == 0, f"exit code {code}: {launcher.said}"
        self.forget_launcher()
        self.check(over=True)
        failed = [trial.number for trial in self.harness.trials(self.name) if trial.state == "FAIL"]
        assert not failed, f"trials {failed} failed"


#: Kills at a random moment; false if the launcher ended before.
Kill = Callable[[RunningStudy], bool]


def _kill_repeatedly(kill: Kill, trials: int, cases: list[int], case: Case) -> None:
    study = RunningStudy(case, 0, trials)
    try:
        while case.injected < cases[case.index]:
            study.go_on()
            if kill(study):
                continue
            study.end()
            study = RunningStudy(case, study.number + 1, trials)
        study.end()
    finally:
        if study.launcher is not None:
            study.launcher.sweep()


def kill_a_worker(study: RunningStudy) -> bool:
    launcher, rng = study.go_on(), study.case.rng
    if not _wait(launcher, lambda: owners(study.harness)):
        return False
    if not _pause(launcher, rng.uniform(0.0, 1.0)) or not _wait(launcher, lambda: _no_trial_would_fail(study)):
        return False
    victims = sorted(owners(study.harness))
    if not victims:
        return True
    victim = rng.choice(victims)
    study.case.injected += 1
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    wait_until_noticed(study.case, victim)
    study.compare()
    study.case.survived += 1
    return True


def kill_all(study: RunningStudy) -> bool:
    def kill(launcher: ProcessGroup) -> None:
        os.killpg(launcher.pid, signal.SIGKILL)

    return _kill_at_any_time(study, kill)


def kill_launcher(study: RunningStudy) -> bool:
    return _kill_at_any_time(study, lambda launcher: os.kill(launcher.pid, signal.SIGKILL))


def _kill_at_any_time(study: RunningStudy, kill: Callable[[ProcessGroup], None]) -> bool:
    """Kill while the launcher loads or while its workers run trials; then check that nothing is left or lost."""
    launcher, rng = study.go_on(), study.case.rng
    while_it_loads = rng.random() < 0.25
    if not while_it_loads and not _wait(launcher, lambda: owners(study.harness)):
        return False
    if not _pause(launcher, rng.uniform(0.0, 3.0 if while_it_loads else 1.5)):
        return False
    if not _wait(launcher, lambda: _no_trial_would_fail(study)) or launcher.poll() is not None:
        return False
    study.case.injected += 1
    kill(launcher)
    launcher.end()
    study.check()
    study.forget_launcher()  # not before the check: `sweep` kills its orphans if the check fails
    study.case.survived += 1
    return True


def owners(harness: Harness) -> set[int]:
    """The living processes that hold a trial."""
    return {pid for (pid,) in invariants.rows(harness.url, OWNERS) if living(pid) is not None}


def wait_until_noticed(case: Case, victim: int) -> None:
    """Wait until the lease of a dead worker is removed; counts whether that took at most PROMISED_S."""
    began = time.monotonic()
    wait_until(lambda: (victim,) not in invariants.rows(case.harness.url, OWNERS), patience_s=NOTICE_S)
    is_in_time = time.monotonic() - began < PROMISED_S
    case.facts[f"noticed within {PROMISED_S if is_in_time else NOTICE_S:.0f} s"] += 1


def _no_trial_would_fail(study: RunningStudy) -> bool:
    """Whether no open trial would fail if its process died now, because of earlier deaths at its current step."""
    rows = invariants.rows(
        study.harness.url,
        "SELECT json_extract(value_json, '$.count') FROM trial_user_attributes JOIN trials USING (trial_id) "
        "WHERE key = 'deaths' AND state IN ('RUNNING', 'WAITING') AND json_extract(value_json, '$.steps') = "
        "(SELECT COUNT(*) FROM trial_intermediate_values AS step WHERE step.trial_id = trials.trial_id)",
    )
    return all(count < ATTEMPTS - 1 for (count,) in rows)


def _wait(launcher: ProcessGroup, condition: Callable[[], object]) -> bool:
    """Wait until `condition` holds; false if the launcher ended before."""
    wait_until(lambda: condition() or launcher.poll() is not None)
    return bool(condition())


def _pause(launcher: ProcessGroup, seconds: float) -> bool:
    """Wait for `seconds`; false if the launcher ended before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and launcher.poll() is None:
        time.sleep(0.01)
    return launcher.poll() is None
