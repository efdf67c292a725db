"""A process of simulated workers, or of their machines: the real loops, without the training.

A worker is a thread with its own context, engine and connection, like a worker process. It claims, draws, records each
step and tells like `trial.runner`. Instead of training it waits for the duration of the training, and the value of the
step comes from a recorded curve. A machine is a thread with its own storage, like a launcher, and sends the queries of
`workers.pool` at its intervals.

    python -m tests.bench.simulated_workers PART   # JSON of a Part; prints "ready", reads "begin", "end", prints JSON
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
from search.seeds import trial_seed
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
from search.workers.polling import MIN_INTERVAL_S, Every, pause_s
from tests.bench import replay
from tests.bench.meter import Meter


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The share of one process."""

    url: str
    study: str
    first: int
    """Number of the first worker or machine."""
    count: int
    apart_s: float
    """Seconds between the starts of number n - 1 and number n."""
    trial_s: float
    """Seconds of a trial's training in the simulation."""
    speed: float
    """Factor by which time is compressed; it also shortens the intervals of a machine."""
    workers_per_machine: int
    is_machines: bool = False
    is_pruned: bool = False
    """Whether rungs end trials; otherwise each trial is better than all earlier ones."""


@dataclass(kw_only=True)
class SimulatedWorkers:
    """All simulated workers or machines of one process."""

    part: Part
    meter: Meter = field(default_factory=Meter)
    over: threading.Event = field(default_factory=threading.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once by each thread when it has begun, or failed."""
    failures: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    """Messages of calls that waited for long."""

    def run(self) -> None:
        """Start the threads one after the other, print "ready", and answer the commands on stdin."""
        part = self.part
        simulate = self.machine if part.is_machines else self.worker
        threads = [
            threading.Thread(target=self._report_failure, args=(simulate, number, number * part.apart_s))
            for number in range(part.first, part.first + part.count)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            self.started.acquire()
        send("ready")
        for line in sys.stdin:
            self.meter.is_on = line.strip() == "begin"
            if line.strip() == "begin":
                spent = time.process_time()
            elif line.strip() == "end":
                send(json.dumps(self.report(time.process_time() - spent)))
        self.over.set()
        for thread in threads:
            thread.join()

    def report(self, cpu_s: float) -> dict[str, Any]:
        """The measurements of this process, with its CPU seconds."""
        return {"calls": self.meter.calls, "cpu_s": cpu_s, "failures": self.failures, "waits": len(self.waits)}

    def _report_failure(self, simulate: Callable[[int], None], number: int, delay_s: float) -> None:
        """Run one worker or machine after a delay, and keep the message of its error."""
        try:
            if not self.over.wait(delay_s):
                simulate(number)
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        finally:
            self.started.release()

    # -- a worker ---------------------------------------------------------------------------------------------

    def worker(self, number: int) -> None:
        """Simulate a worker process until `over` is set."""
        part = self.part
        worker_config = WorkerConfig(
            url=part.url,
            study=part.study,
            token=token(number),
            cache="",
            device="cpu",
            workers=part.workers_per_machine,
        )
        context = open_context(worker_config, self.over.is_set)
        simulated.machine = number // part.workers_per_machine
        done = random.Random(number).randrange(context.study.spec.budget.steps)
        training = Training(workers=self, context=context, done=done)
        loop.run_trials(context, training.execute, self.over.is_set, where="no device")
        context.storage.engine.dispose()

    # -- a machine --------------------------------------------------------------------------------------------

    def machine(self, number: int) -> None:
        """Send the queries of a pool with running workers (`workers.pool`, _run): renew, expire, progress, fill."""
        part, times = self.part, Timeouts()
        storage = Storage(part.url)
        stored = stored_study.load(storage, part.study)
        tokens = [token(number * part.workers_per_machine + slot) for slot in range(part.workers_per_machine)]
        monitor, seen, study = LeaseMonitor(times), frozenset[int](), None
        every_read, every_renewal = Every(MIN_INTERVAL_S / part.speed), Every(times.renewal_interval_s / part.speed)
        self.started.release()
        while not self.over.wait(min(backend.LOOK_S, MIN_INTERVAL_S / part.speed)):
            if every_renewal.is_due():
                leases.renew(storage, tokens)
            if every_read.is_due():
                began = time.monotonic()
                monitor.expire(storage, stored.id, but=tokens)
                progress = queries.progress(storage.engine, part.study, seen=seen, tokens=tokens, known=study)
                study, seen = progress.study, seen | {trial.number for trial in progress.finished}
                with self.meter.metering("fill"):
                    storage.read(lambda connection: fill(connection, stored))
                every_read.seconds = pause_s(time.monotonic() - began, machines=1 + monitor.machines) / part.speed
        storage.engine.dispose()


def fill(connection: Any, stored: stored_study.StoredStudy) -> tuple[int, set[str]]:
    """The queries of a pool before it starts workers."""
    promotion = strategy.promotion_policy(stored.spec)
    return claims.claimable(connection, stored.id, promotion), leases.lease_tokens(connection, stored.id)


@dataclass(kw_only=True)
class Training:
    """The replacement of the training in a simulated worker."""

    workers: SimulatedWorkers
    context: TrialContext
    done: int
    """Skipped steps of the first trial; without them all trials would end at the same time."""
    is_begun: bool = False

    def execute(self, claim: Claim, trial: optuna.Trial) -> Outcome:
        """Run one trial like `search.trial.objective` and `search.trial.search_training`."""
        trial, values = recorder.draw(self.context, claim, trial)
        assert trial.user_attrs.get("decision") is None
        seed = trial_seed(self.context.spec.search, claim.number, values.get("repeat"))
        recorder.describe(self.context, trial, parameters=100_000, macs=10_000_000, seed=seed)
        trial_recorder = TrialRecorder(context=self.context, claim=claim, trial=trial)
        done, self.done = self.done, 0
        for step, value in list(enumerate(self.curve(values, claim.number), 1))[done:]:
            self.train()
            took_s = step * self.step_s * self.workers.part.speed
            decision = trial_recorder.record(step, value, epochs=float(step), seconds=took_s, images_per_second=1000.0)
            if decision is not None:
                return Outcome(reason=decision.reason)
        return Outcome(value=value)

    def train(self) -> None:
        """Wait for the duration of a step."""
        if not self.is_begun:
            self.is_begun = True
            self.workers.started.release()
        with self.workers.meter.metering("train"):
            is_over = self.workers.over.wait(self.step_s)
        if is_over:
            raise TrialStopped

    @cached_property
    def step_s(self) -> float:
        return self.workers.part.trial_s / self.context.study.spec.budget.steps

    def curve(self, values: dict[str, Any], number: int) -> Sequence[float]:
        recorded = curve(values, self.context.study.spec.budget.steps)
        return recorded if self.workers.part.is_pruned else lifted(recorded, number)


def curve(values: dict[str, Any], steps: int) -> Sequence[float]:
    """The recorded curve of a configuration, stretched to `steps` steps."""
    recorded = replay.table().curves[tuple(values[key] for key in replay.KEYS)]
    return [
        float(value) for value in np.interp(np.linspace(1, len(recorded), steps), range(1, len(recorded) + 1), recorded)
    ]


def lifted(curve: Sequence[float], number: int) -> Sequence[float]:
    """The curve, raised above those of all trials with lower numbers; no rung ends this trial."""
    return [number + value for value in curve]


def token(number: int) -> str:
    """The token of a worker."""
    return f"worker-{number:04}"


simulated = threading.local()


def owner(token: str) -> LeaseOwner:
    """The owner that this thread simulates: a process of the simulated machine.

    Its process cannot be checked from another host; only its renewals show that it is alive.
    """
    process = asdict(this_process(token))
    return LeaseOwner(**process | {"host": f"machine-{simulated.machine:03}", "boot": f"boot-{simulated.machine:03}"})


def send(text: str) -> None:
    print(text, flush=True)


def prepare(workers: SimulatedWorkers) -> None:
    """Meter all calls, and set the state that the threads of this process share."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # tpe.build ignores this warning temporarily; with threads it may restore the filter of another thread.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    gc.disable()  # a collection would stop all workers of this process, and scan the memory of all
    sys.setswitchinterval(0.001)  # a computing thread delays a thread with a database response only briefly
    loop.this_process = owner  # type: ignore[attr-defined]
    retry.echo = workers.waits.append  # type: ignore[assignment, attr-defined]
    for holder, attribute, name in (
        (claims, "claim", "claim"),
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
        workers.meter.put_on(holder, attribute, name)


def main(words: list[str]) -> None:
    workers = SimulatedWorkers(part=Part(**json.loads(words[0])))
    prepare(workers)
    if workers.part.is_machines:
        os.nice(5)  # real machines have their own cores; here workers and database have priority
    assert "torch" not in sys.modules
    with suppress(BrokenPipeError):
        workers.run()
    os._exit(0)  # without cleanup of the memory


if __name__ == "__main__":
    main(sys.argv[1:])
