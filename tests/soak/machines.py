"""Simulated machines that share a PostgreSQL database: each has its own folder and, if we are root, its own host name.

They are process groups of this machine in separate Linux namespaces. Because of the host name, a pool treats the
workers of the other machine as remote: it detects their death only when their leases expire (`search.storage.leases`).
"""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from search.artifacts import study_dir
from search.artifacts.study_dir import StudyDirs
from search.storage.records import TrialRecord
from tests.faults import invariants
from tests.harness import CONVSEARCH, Harness, group, wait_until
from tests.service.postgres import PostgresHarness, Server, dump
from tests.soak import processes, short_timeouts
from tests.soak.processes import ProcessGroup

ROOT = Path(__file__).resolve().parents[2]
#: The budget of a second command, which the study raises to the begun trials.
FEWEST = ("--trials", "1")
#: The names of the machines; the first one is next to the server.
NEAR, FAR = "near", "far"
#: Maximum seconds until all workers have loaded torch and held a trial, and until the last of them has ended.
BEGIN_S, END_S = 180.0, 900.0
#: Seconds between two polls of the lease owners; each poll opens a connection.
LOOK_S = 0.2
#: A dead remote worker is found when its lease is over, at the next check, which is 1 s later if the machine is idle.
PROMISED_S = short_timeouts.TIMES.lease_timeout_s + 2.0
#: Lines in the log of a trial: the begin of an attempt, and its successful end.
ATTEMPT, DONE = re.compile(r" attempt (\d+) in process"), " complete: "
#: Program that sets the host name and then executes the following words.
RENAMED = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"


@dataclass(frozen=True, slots=True)
class Machine(PostgresHarness):
    """A harness whose commands run in its folder, as on a separate machine."""

    name: str
    prefix: tuple[str, ...] = ()
    """A prefix of its command lines."""
    program: tuple[str, ...] = (str(CONVSEARCH),)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def dirs(self) -> StudyDirs:
        return replace(study_dir.of(self.url), root=self.folder / "runs")

    def command(self, *words: str) -> ProcessGroup:
        """Start `convsearch WORDS` on this machine."""
        host = ("unshare", "--uts", sys.executable, "-c", RENAMED, self.name) if os.geteuid() == 0 else ()
        command_line = [*self.prefix, *host, *self.program, *self.complete(words)]
        environment = {**self.environment, "CONVSEARCH_STORAGE": self.url}
        return processes.start(self, command_line, environment=environment, folder=self.folder)


@dataclass(frozen=True, slots=True)
class Machines(PostgresHarness):
    """All machines, and a harness with the database URL of the near one."""

    machines: tuple[Machine, ...]

    @property
    def homes(self) -> tuple[StudyDirs, ...]:
        return tuple(machine.dirs for machine in self.machines)

    def home_of(self, trial: TrialRecord) -> StudyDirs:
        """The files of the machine that made the last attempt."""
        return max(self.homes, key=lambda dirs: _last_attempt(dirs.log(trial.study, trial.number)))


def create(server: Server, harness: Harness) -> Machines:
    """Two machines that share a new database."""
    url = server.url(server.make_database()).render_as_string(hide_password=False)
    for name in (NEAR, FAR):
        (harness.folder / name).mkdir()
    members = tuple(Machine(harness.folder / name, harness.images, harness.cache, url, name) for name in (NEAR, FAR))
    return Machines(harness.folder, harness.images, harness.cache, url, members)


def with_short_timeouts(harness: Machines) -> Machines:
    """The same machines with the timeouts of `short_timeouts`."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    program, environment = (sys.executable, "-m", short_timeouts.__name__), {"PYTHONPATH": path}
    return replace(
        harness,
        machines=tuple(replace(machine, program=program, environment=environment) for machine in harness.machines),
    )


@dataclass(kw_only=True, slots=True)
class Search:
    """One study that all machines run at once; its trials have 72 steps and last about a second."""

    harness: Machines
    name: str
    trials: int
    workers: int
    """Number of workers on each machine."""
    launchers: dict[str, ProcessGroup] = field(default_factory=dict)
    """By machine."""
    families: dict[str, set[int]] = field(default_factory=dict)
    """By machine: the processes of its launcher when all its workers had held a trial."""
    before: dict[int, str] = field(default_factory=dict)
    """The result of `invariants.finished` at the last check."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the study on all machines, wait until every worker has held a trial, and kill the rest after the block.

        After an error, the database is dumped into the folder of the harness, because the server is removed.
        """
        try:
            for machine in self.harness.machines:
                self.start(machine)
            for machine in self.harness.machines:
                self.wait_for_workers(machine)
            yield
        except Exception:
            dump(self.harness.url, self.harness.folder / "database.sql")
            raise
        finally:
            for launcher in self.launchers.values():
                launcher.sweep()

    def start(self, machine: Machine, *more: str) -> None:
        self.launchers[machine.name] = machine.command(*self._words(machine), *more)

    def wait_for_workers(self, machine: Machine) -> None:
        """Wait until every worker of a machine has held a trial, or its launcher ended because no trial was left."""
        launcher, seen = self.launchers[machine.name], set[int]()

        def have_worked() -> bool:
            seen.update(self.held(machine))
            return len(seen) >= self.workers or launcher.poll() is not None

        wait_until(have_worked, patience_s=BEGIN_S, look_s=LOOK_S)
        assert launcher.poll() in (None, 0), f"the pool on {machine.name} ended: {launcher.said}"
        self.families[machine.name] = launcher.family()

    def held(self, machine: Machine) -> dict[int, int]:
        """By process id: the numbers of the trials that the living workers of a machine hold."""
        launcher = self.launchers[machine.name]
        return {pid: number for pid, number in self.owners().items() if group(pid) == launcher.pid}

    def owners(self) -> dict[int, int]:
        """By process id: the numbers of all trials that are held."""
        query = (
            "SELECT pid, number FROM convsearch_leases JOIN trials ON trials.trial_id = convsearch_leases.trial_id "
            "JOIN studies ON studies.study_id = trials.study_id WHERE study_name = :name"
        )
        return dict(invariants.rows(self.harness.url, query, name=self.name))

    def wait_for_next(self, machine: Machine) -> None:
        """Wait until one of its workers takes another trial."""
        highest = max(self.owners().values(), default=-1)
        wait_until(lambda: max(self.held(machine).values(), default=-1) > highest, look_s=LOOK_S)

    def freeze(self, machine: Machine) -> dict[int, int]:
        """Freeze all processes of a machine while some hold trials; returns the trial numbers by process id."""
        launcher = self.launchers[machine.name]
        while True:
            os.killpg(launcher.pid, signal.SIGSTOP)
            time.sleep(1.0)  # the server has executed what it received
            if held := self.held(machine):
                return held
            os.killpg(launcher.pid, signal.SIGCONT)
            time.sleep(LOOK_S)

    def goes_on(self, seconds: float) -> bool:
        """Wait for `seconds`; false if the study ended before."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.is_over():
            time.sleep(0.05)
        return not self.is_over()

    def is_over(self) -> bool:
        return all(launcher.poll() is not None for launcher in self.launchers.values())

    def check_running(self) -> None:
        """Check while the study runs: no process died, no finished trial changed, no budget is exceeded."""
        for name, launcher in self.launchers.items():
            assert launcher.poll() in (None, 0), f"the pool on {name} ended: {launcher.said}"
            assert launcher.family() <= self.families[name], f"workers on {name} died or were replaced: {launcher.said}"
        self.before = invariants.compare(self.harness.url, self.name, self.before)

    def end(self, *more: str) -> None:
        """Wait until it ends on all machines; check all invariants, and that another command changes nothing."""
        self._wait_for_end()
        self._check()
        for machine in self.harness.machines:
            # It removes files that the first command could not remove while others worked.
            self.start(machine, *more)
        self._wait_for_end()
        self._check()

    def cut_short(self) -> None:
        """Lower the budget to the begun trials, as a second command can do at any time; then do as `end`."""
        near = self.harness.machines[0]
        second = near.command(*self._words(near), *FEWEST)
        assert second.end() == 75, second.said
        self.end(*FEWEST)

    def only_these_lost_trials(self, pids: set[int]) -> None:
        """Check that every trial was completed, and that trials were taken away only from these silent processes."""
        trials = self.harness.trials(self.name)
        wrong = [(trial.number, trial.state) for trial in trials if trial.state != "COMPLETE"]
        assert not wrong, f"these were lost: {wrong}"
        unexpected = [
            crash for trial in trials for crash in trial.crashes if not any(f" {pid} " in crash for pid in pids)
        ]
        assert not unexpected, f"I2: living workers were declared dead: {unexpected}"
        miscounted = [trial.number for trial in trials if trial.attempts != 1 + len(trial.crashes)]
        assert not miscounted, f"I3: the attempts of {miscounted} are not 1 plus the number of crashes"

    def _words(self, machine: Machine) -> tuple[str, ...]:
        budget = {"trials": self.trials, "epochs": 24, "steps_per_epoch": 3}
        return "run", machine.write(self.name, budget=budget), "--workers", str(self.workers)

    def _wait_for_end(self) -> None:
        for name, launcher in self.launchers.items():
            code = launcher.end(END_S)
            assert code == 0, f"exit code {code} on {name}: {launcher.said}"
            assert "Traceback" not in launcher.said, launcher.said

    def _check(self) -> None:
        invariants.check(self.harness, self.name, before=self.before, over=True)
        self.before = invariants.finished(self.harness.url, self.name)
        for number in self.before:
            ends = sum(_read(dirs.log(self.name, number)).count(DONE) for dirs in self.harness.homes)
            assert ends <= 1, f"I3: trial {number} was brought to its end {ends} times"


def _last_attempt(log: Path) -> int:
    return max(map(int, ATTEMPT.findall(_read(log))), default=0)


def _read(log: Path) -> str:
    return log.read_text() if log.exists() else ""
