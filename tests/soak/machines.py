"""Machines that share a PostgreSQL database: each has a folder, files and, where we are root, a host name of its own.

They are processes of this machine, told apart by namespaces of Linux. By its host name a pool takes the workers of
another one for strangers, of whose death only silence tells (`search.storage.leases`).
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

import psutil

from search.artifacts import study_dir
from search.artifacts.study_dir import StudyDirs
from search.storage.records import TrialRecord
from tests.faults import invariants
from tests.harness import CONVSEARCH, Harness, wait_until
from tests.service.postgres import PostgresLab, Server, dump
from tests.soak import processes, short_timeouts
from tests.soak.processes import ProcessGroup

ROOT = Path(__file__).resolve().parents[2]
#: More trials than anybody waits for; at the end the budget is lowered to those that were begun.
ENDLESS, FEWEST = 5000, ("--trials", "1")
#: The names of the machines, the first one beside the server.
NEAR, FAR = "near", "far"
#: Until all workers of all machines have loaded torch and been at work; until the last of them have ended.
BEGIN_S, END_S = 180.0, 900.0
#: Between two looks at who is at work; each is a connection of its own.
LOOK_S = 0.2
#: A dead stranger is found when its lease is over, and the next look comes a second later; if the machine is not busy.
PROMISED_S = short_timeouts.TIMES.lease_timeout_s + 2.0
#: What the log of a trial says when an attempt begins, and when one ends well.
ATTEMPT, DONE = re.compile(r" attempt (\d+) in process"), " complete: "
#: Runs the words behind it under another host name.
RENAMED = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"


@dataclass(frozen=True, slots=True)
class Machine(PostgresLab):
    """A harness whose commands run in its folder, as on a machine of its own."""

    name: str
    before: tuple[str, ...] = ()
    """What the words of its commands stand behind."""
    program: tuple[str, ...] = (str(CONVSEARCH),)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def dirs(self) -> StudyDirs:
        return replace(study_dir.of(self.url), root=self.folder / "runs")

    def command(self, *words: str) -> ProcessGroup:
        """Start `convsearch WORDS` there."""
        host = ("unshare", "--uts", sys.executable, "-c", RENAMED, self.name) if os.geteuid() == 0 else ()
        every = [*self.before, *host, *self.program, *self.complete(words)]
        environment = {**self.environment, "CONVSEARCH_STORAGE": self.url}
        return processes.start(self, every, environment=environment, folder=self.folder)


@dataclass(frozen=True, slots=True)
class Machines(PostgresLab):
    """All of them, and the database as it is seen from beside the server."""

    each: tuple[Machine, ...]

    @property
    def homes(self) -> tuple[StudyDirs, ...]:
        return tuple(machine.dirs for machine in self.each)

    def home_of(self, trial: TrialRecord) -> StudyDirs:
        """The home of the machine that made the last attempt."""
        return max(self.homes, key=lambda each: _last_attempt(each.log(trial.study, trial.number)))


def at(server: Server, harness: Harness) -> Machines:
    """Two machines at a new database."""
    url = server.url(server.make_database()).render_as_string(hide_password=False)
    for name in (NEAR, FAR):
        (harness.folder / name).mkdir()
    each = tuple(Machine(harness.folder / name, harness.images, harness.cache, url, name) for name in (NEAR, FAR))
    return Machines(harness.folder, harness.images, harness.cache, url, each)


def hasty(harness: Machines) -> Machines:
    """The same machines, whose pools wait not so long."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    program, environment = (sys.executable, "-m", short_timeouts.__name__), {"PYTHONPATH": path}
    return replace(harness, each=tuple(replace(one, program=program, environment=environment) for one in harness.each))


@dataclass(kw_only=True, slots=True)
class Search:
    """One study that all machines work on at once; its trials have 72 steps, and last about a second."""

    harness: Machines
    name: str
    trials: int
    workers: int
    """Of each machine."""
    launchers: dict[str, ProcessGroup] = field(default_factory=dict)
    """By machine."""
    families: dict[str, set[int]] = field(default_factory=dict)
    """By machine: the processes of its launcher when all workers were at work."""
    before: dict[int, str] = field(default_factory=dict)
    """What was finished at the last look."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Begin it everywhere, and wait until every worker was at work; after the block nobody is left.

        The server will be gone; so of what was lost a copy is kept.
        """
        try:
            for machine in self.harness.each:
                self.start(machine)
            for machine in self.harness.each:
                self.meet(machine)
            yield
        except Exception:
            dump(self.harness.url, self.harness.folder / "database.sql")
            raise
        finally:
            for launcher in self.launchers.values():
                launcher.sweep()

    def start(self, machine: Machine, *more: str) -> None:
        self.launchers[machine.name] = machine.command(*self._words(machine), *more)

    def meet(self, machine: Machine) -> None:
        """Wait until every worker of a machine has held a trial; or its launcher has ended, because none was left."""
        launcher, seen = self.launchers[machine.name], set[int]()

        def is_met() -> bool:
            seen.update(self.held(machine))
            return len(seen) >= self.workers or launcher.poll() is not None

        wait_until(is_met, patience_s=BEGIN_S, look_s=LOOK_S)
        assert launcher.poll() in (None, 0), f"the pool on {machine.name} ended: {launcher.said}"
        self.families[machine.name] = _family(launcher)

    def held(self, machine: Machine) -> dict[int, int]:
        """By process: the trials that the living workers of a machine hold."""
        group = self.launchers[machine.name].pid
        return {pid: number for pid, number in self.owners().items() if _group(pid) == group}

    def owners(self) -> dict[int, int]:
        """By process: the trials that somebody holds, and their numbers."""
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
        """Stop all processes of a machine at a moment when some hold trials; which ones hold which."""
        group = self.launchers[machine.name].pid
        while True:
            os.killpg(group, signal.SIGSTOP)
            time.sleep(1.0)  # what had reached the server is carried out by now
            if held := self.held(machine):
                return held
            os.killpg(group, signal.SIGCONT)
            time.sleep(LOOK_S)

    def goes_on(self, seconds: float) -> bool:
        """Let time pass; false if the study came to its end meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.is_over():
            time.sleep(0.05)
        return not self.is_over()

    def is_over(self) -> bool:
        return all(launcher.poll() is not None for launcher in self.launchers.values())

    def look(self) -> None:
        """See that nobody died, nothing changed and no budget is exceeded, while it runs."""
        for name, launcher in self.launchers.items():
            assert launcher.poll() in (None, 0), f"the pool on {name} ended: {launcher.said}"
            assert _family(launcher) <= self.families[name], f"workers on {name} died or were replaced: {launcher.said}"
        self.before = invariants.compare(self.harness.url, self.name, self.before)

    def end(self, *more: str) -> None:
        """See it end by itself on all machines, check all invariants, and that another command changes nothing."""
        self._ended()
        self._check()
        for machine in self.harness.each:  # which sweeps up what it could not while others were at work
            self.start(machine, *more)
        self._ended()
        self._check()

    def cut_short(self) -> None:
        """Lower the budget to what has been begun, as a second command may do at any time; then as `end`."""
        near = self.harness.each[0]
        second = near.command(*self._words(near), *FEWEST)
        assert second.end() == 75, second.said
        self.end(*FEWEST)

    def nobody_was_hurt(self) -> None:
        """Every trial was completed at its first attempt."""
        trials = self.harness.trials(self.name)
        hurt = [trial for trial in trials if (trial.state, trial.attempts, trial.crashes) != ("COMPLETE", 1, ())]
        assert not hurt, f"the fault hurt {[(each.number, each.state, each.attempts, each.crashes) for each in hurt]}"

    def only_these_were_lost(self, pids: set[int]) -> None:
        """Every trial was completed; and taken away, if at all, from one of these processes, of which nobody heard."""
        trials = self.harness.trials(self.name)
        wrong = [(each.number, each.state) for each in trials if each.state != "COMPLETE"]
        assert not wrong, f"these were lost: {wrong}"
        strange = [crash for trial in trials for crash in trial.crashes if not any(f" {pid} " in crash for pid in pids)]
        assert not strange, f"I2: others were taken for dead: {strange}"
        miscounted = [each.number for each in trials if each.attempts != 1 + len(each.crashes)]
        assert not miscounted, f"I3: the attempts of {miscounted} are not 1 and those that were taken away"

    def _words(self, machine: Machine) -> tuple[str, ...]:
        budget = {"trials": self.trials, "epochs": 24, "steps_per_epoch": 3}
        return "run", machine.write(self.name, budget=budget), "--workers", str(self.workers)

    def _ended(self) -> None:
        for name, launcher in self.launchers.items():
            code = launcher.end(END_S)
            assert code == 0, f"exit code {code} on {name}: {launcher.said}"
            assert "Traceback" not in launcher.said, launcher.said

    def _check(self) -> None:
        invariants.check(self.harness, self.name, before=self.before, over=True)
        self.before = invariants.finished(self.harness.url, self.name)
        for number in self.before:
            ends = sum(_read(each.log(self.name, number)).count(DONE) for each in self.harness.homes)
            assert ends <= 1, f"I3: trial {number} was brought to its end {ends} times"


def _last_attempt(log: Path) -> int:
    return max(map(int, ATTEMPT.findall(_read(log))), default=0)


def _read(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def _family(launcher: ProcessGroup) -> set[int]:
    """A launcher, the server of its workers, and these; nobody if it has ended."""
    try:
        process = psutil.Process(launcher.pid)
        return {process.pid, *(child.pid for child in process.children(recursive=True))}
    except psutil.NoSuchProcess:
        return set()


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
