"""A process of simulated workers, or of the machines that they work on: the true loops, without the training.

A worker is a thread with a context of its own, so with an engine and a connection of its own, as a worker process has.
It claims, draws, records each step and tells as `trial.runner` lets it; where that would train, it waits for as long as
the training would take, and the step's value is read off a recorded curve. A machine is a thread with the storage of
its own that a launcher has, and asks what `workers.pool` asks, in its intervals.

    python -m tests.bench.crowd PART   # JSON of a Part; says "ready", takes "begin", "end", answers with JSON
"""

import gc
import json
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import optuna

from search.artifacts import study_dir
from search.optuna_internals import SubsetTPESampler
from search.process import LeaseOwner, this_process
from search.samplers import tpe
from search.storage import claims, leases, queries, retry
from search.storage.claims import Claim
from search.storage.leases import LeaseMonitor
from search.storage.rdb import Storage
from search.storage.retry import Timeouts
from search.study import stored_study, strategy
from search.trial import loop, recorder
from search.trial.context import TrialContext, WorkerConfig, open_context
from search.trial.outcome import Outcome, TrialStopped
from search.trial.recorder import TrialRecorder
from search.workers import backend
from search.workers.polling import READ_S, Every, pause_s
from tests.bench import replay
from tests.bench.meter import Meter


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one process simulates."""

    url: str
    study: str
    first: int
    """Number of the first worker or machine."""
    count: int
    apart_s: float
    """Number n begins so many seconds after number n - 1."""
    trial_s: float
    """Seconds of a trial's training, as they are waited here."""
    speed: float
    """So many times faster than in truth; a machine's intervals are shorter by it, too."""
    seat: int
    """Workers of a machine."""
    is_machines: bool = False
    is_pruned: bool = False
    """Whether rungs end trials; else each is better than all before it."""


@dataclass(kw_only=True)
class Crowd:
    """All that a process simulates."""

    part: Part
    meter: Meter = field(default_factory=Meter)
    over: threading.Event = field(default_factory=threading.Event)
    running_backend: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    failures: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    """What calls said that had to wait for long."""

    def run(self) -> None:
        """Begin one after the other, say so, and answer what is asked on stdin."""
        part = self.part
        live = self.machine if part.is_machines else self.worker
        threads = [
            threading.Thread(target=self._kept, args=(live, number, number * part.apart_s))
            for number in range(part.first, part.first + part.count)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            self.running_backend.acquire()
        say("ready")
        for line in sys.stdin:
            self.meter.is_on = line.strip() == "begin"
            if line.strip() == "begin":
                spent = time.process_time()
            elif line.strip() == "end":
                say(json.dumps(self.seen(time.process_time() - spent)))
        self.over.set()
        for thread in threads:
            thread.join()

    def seen(self, cpu_s: float) -> dict[str, Any]:
        """What the process has seen; its CPU seconds among it."""
        return {"calls": self.meter.calls, "cpu_s": cpu_s, "failures": self.failures, "waits": len(self.waits)}

    def _kept(self, live: Callable[[int], None], number: int, delay_s: float) -> None:
        """Let one live; whatever it dies of is told."""
        try:
            if not self.over.wait(delay_s):
                live(number)
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        finally:
            self.running_backend.release()

    # -- a worker ---------------------------------------------------------------------------------------------

    def worker(self, number: int) -> None:
        """Work as a worker process does, until the crowd is over."""
        part = self.part
        worker_config = WorkerConfig(
            url=part.url, study=part.study, token=token(number), cache="", device="cpu", workers=part.seat
        )
        place = open_context(worker_config, self.over.is_set)
        here.machine = number // part.seat
        done = random.Random(number).randrange(place.study.spec.budget.steps)
        training = Training(crowd=self, place=place, done=done)
        loop.run_trials(place, training.execute, self.over.is_set, where="no device")
        place.storage.engine.dispose()

    # -- a machine --------------------------------------------------------------------------------------------

    def machine(self, number: int) -> None:
        """Ask what a pool asks while its workers work (`workers.pool`, _run): renew, look for the dead, look, fill."""
        part, times = self.part, Timeouts()
        storage = Storage(part.url)
        stored = stored_study.load(storage, part.study)
        tokens = [token(number * part.seat + seat) for seat in range(part.seat)]
        watch, seen, known = LeaseMonitor(times), frozenset[int](), None
        every_read, every_renewal = Every(READ_S / part.speed), Every(times.renewal_interval_s / part.speed)
        self.running_backend.release()
        while not self.over.wait(min(backend.LOOK_S, READ_S / part.speed)):
            if every_renewal.is_due():
                leases.renew(storage, tokens)
            if every_read.is_due():
                began = time.monotonic()
                watch.expire(storage, stored.id, but=tokens)
                progress = queries.progress(storage.engine, part.study, seen=seen, tokens=tokens, known=known)
                known, seen = progress.study, seen | {trial.number for trial in progress.finished}
                with self.meter.metering("fill"):
                    storage.read(lambda connection: fill(connection, stored))
                every_read.seconds = pause_s(time.monotonic() - began, machines=1 + watch.machines) / part.speed
        storage.engine.dispose()


def fill(connection: Any, stored: stored_study.StoredStudy) -> tuple[int, set[str]]:
    """What a pool reads before it starts workers."""
    ladder = strategy.ladder(stored.spec)
    return claims.claimable(connection, stored.id, ladder), leases.lease_tokens(connection, stored.id)


@dataclass(kw_only=True)
class Training:
    """What stands in a simulated worker where a real one trains."""

    crowd: Crowd
    place: TrialContext
    done: int
    """Steps of its first trial that are taken for done, so that trials do not end as they began, side by side."""
    is_begun: bool = False

    def execute(self, claim: Claim, trial: optuna.Trial) -> Outcome:
        """One trial as `search.trial.objective` and `search.trial.search_training` go through it."""
        trial, values = recorder.draw(self.place, claim, trial)
        assert trial.user_attrs.get("decision") is None
        seed = strategy.trial_seed(self.place.study, claim.number, values.get("repeat"))
        recorder.describe(self.place, trial, parameters=100_000, macs=10_000_000, seed=seed)
        own = TrialRecorder(context=self.place, claim=claim, trial=trial)
        done, self.done = self.done, 0
        for step, value in list(enumerate(self.curve(values, claim.number), 1))[done:]:
            self.train()
            took_s = step * self.step_s * self.crowd.part.speed
            decision = own.record(step, value, epochs=float(step), seconds=took_s, images_per_second=1000.0)
            if decision is not None:
                return Outcome(reason=decision.reason)
        return Outcome(value=value)

    def train(self) -> None:
        """Wait for as long as a step takes."""
        if not self.is_begun:
            self.is_begun = True
            self.crowd.running_backend.release()
        with self.crowd.meter.metering("train"):
            is_over = self.crowd.over.wait(self.step_s)
        if is_over:
            raise TrialStopped

    @cached_property
    def step_s(self) -> float:
        return self.crowd.part.trial_s / self.place.study.spec.budget.steps

    def curve(self, values: dict[str, Any], number: int) -> Sequence[float]:
        recorded = curve(values, self.place.study.spec.budget.steps)
        return recorded if self.crowd.part.is_pruned else lifted(recorded, number)


def curve(values: dict[str, Any], steps: int) -> Sequence[float]:
    """The recorded curve of a configuration, stretched to so many steps."""
    known = replay.table().curves[tuple(values[key] for key in replay.KEYS)]
    return [float(value) for value in np.interp(np.linspace(1, len(known), steps), range(1, len(known) + 1), known)]


def lifted(curve: Sequence[float], number: int) -> Sequence[float]:
    """The curve of a trial that is better at every step than all before it, so that no rung ends it."""
    return [number + value for value in curve]


def token(number: int) -> str:
    """What a worker signs with."""
    return f"worker-{number:04}"


here = threading.local()


def owner(token: str) -> LeaseOwner:
    """The owner that this thread stands for: a process of the machine that it is simulated on.

    On another host nobody can look whether it lives, so that it is judged by its renewals, as those of others are.
    """
    mine = asdict(this_process(token))
    return LeaseOwner(**mine | {"host": f"machine-{here.machine:03}", "boot": f"boot-{here.machine:03}"})


def say(text: str) -> None:
    print(text, flush=True)


def prepare(crowd: Crowd) -> None:
    """Meter all calls, and let what belongs to a process, and not to a thread, stay as it is."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # sampler.build silences it for a moment, and puts back what it found; with other threads that may be the silence.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    gc.disable()  # it would stop all workers of this process, for as long as all of them together have memories
    sys.setswitchinterval(0.001)  # who computes shall not keep the answer of a database from who waits for it
    loop.this_process = owner  # type: ignore[attr-defined]
    retry.echo = crowd.waits.append  # type: ignore[assignment, attr-defined]
    for place, attribute, name in (
        (leases, "claim", "claim"),
        (tpe.TrialSubset, "read", "history"),
        (recorder, "open_trial", "open"),
        (SubsetTPESampler, "infer_relative_search_space", "sampler"),
        (SubsetTPESampler, "sample_relative", "sampler"),
        (SubsetTPESampler, "sample_independent", "sampler"),
        (recorder, "draw", "draw"),
        (recorder, "describe", "describe"),
        (Storage, "get_trial", "read"),
        (TrialRecorder, "record", "record"),
        (Storage, "rank_at_step", "rank"),
        (loop, "tell", "tell"),
        (loop, "delete_finished_checkpoints", "delete_checkpoints"),
        (study_dir, "append_log", "log"),
        (leases, "renew", "renew"),
        (LeaseMonitor, "expire", "expire"),
        (queries, "progress", "progress"),
    ):
        crowd.meter.put_on(place, attribute, name)


def main(words: list[str]) -> None:
    crowd = Crowd(part=Part(**json.loads(words[0])))
    prepare(crowd)
    if crowd.part.is_machines:
        os.nice(5)  # in truth they have cores of their own; here workers and database shall not wait for them
    assert "torch" not in sys.modules
    with suppress(BrokenPipeError):
        crowd.run()
    os._exit(0)  # nobody is left whose memory is worth being cleared


if __name__ == "__main__":
    main(sys.argv[1:])
