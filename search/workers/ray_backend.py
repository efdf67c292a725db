"""Workers on a Ray cluster: an actor for each place that it has, on whichever machine.

Ray starts them, reports deaths, and does nothing else: it repeats nothing, because what is to be repeated, and from
where, is in the database. What an actor is told goes through Ray; all that counts does not.

Ray is an extra, and loaded where it is used.
"""

import os
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from data.progress import Say
from search import hardware
from search.console import count_workers
from search.errors import UsageError
from search.trial.context import WorkerConfig
from search.workers import ray_local
from search.workers.backend import WorkerBackend, WorkerHandle, WorkerSlot
from search.workers.ray_actor import RayWorkerActor
from search.workers.ray_client import alive_nodes, connected, host_and_port, is_ready, last_line

#: It sends nothing to anybody, and does not try for a quarter of an hour to reach an absent node, unless the user has
#: said otherwise.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_NUM_REDIS_GET_RETRIES": "1"}
#: A Ray of our own listens on the loopback device alone (this variable, whatever its name says), to clients that know a
#: secret.
OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
#: And of these, which a user may have set for another cluster, it must not hear.
FOREIGN = ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")
#: Nothing large goes through Ray; it takes no less.
STORE_BYTES = 80_000_000
#: Seconds within which an actor starts where there is room for it.
PLACED_S = 20.0
#: What a hung worker gets to say where it stands.
STACK_S = 2.0
#: A machine on which workers cannot work, for want of images, of the same code, of room, is tried again after this
#: number of seconds, after the next failure there after twice as long, and so on up to the second.
LEFT_OUT_S, LONGEST_S = 60.0, 3600.0
#: Calls that an actor answers at the same time: its work, and three about it.
AT_ONCE = 4
#: The exit code of a worker that never came to give one.
DIED = -signal.SIGKILL


@dataclass(kw_only=True, slots=True)
class RayWorkerHandle(WorkerHandle):
    """One actor."""

    actor: Any
    outcome: Any
    """What will be the answer of its `work`."""
    host: str
    node: str
    tell: Callable[[str, str], None]
    """Says of a host why a worker there could not go on."""
    started: float = field(default_factory=time.monotonic)
    _asked: Any = None
    """What will be the answer to our question for its beats."""
    _beats: int | None = None
    _is_placed: bool = False
    _code: int | None = None
    _why: str = ""
    _was_taken: bool = False

    @property
    def exitcode(self) -> int | None:
        if self._code is None and is_ready(self.outcome):
            self._code = self._end()
            self.kill()  # its work is over, and its process would wait for more
        return self._code

    @property
    def how_it_ended(self) -> str:
        return self._why

    @property
    def is_placed(self) -> bool:
        return self._is_placed or time.monotonic() - self.started < PLACED_S

    @property
    def was_taken(self) -> bool:
        return self._was_taken

    def beats(self) -> int | None:
        """See `Hand.beats`. While it prepares itself each answer counts, downwards, so that its silence is seen."""
        import ray

        if self._asked is None:
            self._asked = self.actor.beats.remote()
        elif is_ready(self._asked):
            with suppress(ray.exceptions.RayError):  # how it ended is what `outcome` tells
                done = ray.get(self._asked)
                self._beats = (self._beats or 0) - 1 if done is None else done
                self._is_placed = True
            self._asked = None
        return self._beats

    def terminate(self) -> None:
        if self._is_placed:
            self.actor.stop.remote()
        else:
            self.kill()  # it waits for room, and would not hear us

    def kill(self, *, wait_s: float = 1.0) -> None:
        import ray

        self.actor.stop.remote()  # Ray does not say when it is dead; until then it must not claim another trial
        ray.kill(self.actor, no_restart=True)

    def stacks(self) -> str:
        import ray

        with suppress(ray.exceptions.RayError):
            return str(ray.get(self.actor.stacks.remote(), timeout=STACK_S))
        return ""

    def _end(self) -> int:
        """How it ended; the reason is kept, or said if it is not for the trial."""
        import ray

        errors = ray.exceptions
        try:
            code, why = ray.get(self.outcome)
        except errors.RayTaskError as error:
            self._why = f"its work on {self.host} broke off: {last_line(error)}"
            return 1
        except errors.RayError as error:
            is_unheard = isinstance(error, errors.ActorUnavailableError | errors.ActorUnschedulableError)
            self._was_taken = is_unheard or self.node not in alive_nodes()
            lost = f"its machine {self.host} is gone"
            self._why = lost if self._was_taken else f"its process on {self.host} died: {last_line(error)}"
            return DIED
        if why:
            self.tell(self.host, why)
        return int(code)


@dataclass(kw_only=True, slots=True)
class RayBackend(WorkerBackend):
    """The places of a Ray cluster: one for each core or GPU of its machines, which may come and go."""

    address: str | None
    """HOST:PORT; None is a Ray of our own on this machine."""
    devices: tuple[str, ...]
    """Of this machine, as a Ray of our own has them."""
    workers: int | None
    """No more than these; None is as many as there are places."""
    device: str | None
    """cpu or cuda; None is whatever a machine has."""
    worker_bytes: int
    """Of memory that a worker takes."""
    one_machine: bool
    """The database is a file, which other machines do not see."""
    _nodes: dict[str, str] = field(default_factory=dict)
    """The machines that there are, in the order in which we saw them: their hosts by the numbers that Ray gave them."""
    _refused: set[str] = field(default_factory=set)
    _left_out: dict[str, float] = field(default_factory=dict)
    """Until when nobody is started on a machine, monotonic seconds."""
    _failures: Counter[str] = field(default_factory=Counter)
    """How often each was left out."""
    _told: dict[str, str] = field(default_factory=dict)
    """What was last said of workers on a host."""
    _say: Say = lambda _: None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise UsageError("--engine ray needs Ray, which is not installed; `make setup EXTRAS=ray` installs it")
        if self.address is not None:
            host_and_port(self.address)

    @property
    def plan(self) -> str:
        most = "" if self.workers is None else f", at most {self.workers}"
        if self.address is None:
            return f"workers on a Ray of their own{most}"
        return f"workers on the Ray cluster at {self.address}{most}"

    @property
    def local_workers(self) -> int:
        return min(len(self.devices), self.workers or len(self.devices))

    @property
    def max_workers(self) -> int | None:
        return self.workers

    @contextmanager
    def running_backend(self, say: Say) -> Iterator[None]:
        self._say = say
        os.environ.update(QUIET | os.environ)
        if self.address is not None:
            with connected(self.address):
                self._refuse_others()
                yield
            return
        os.environ.update(OWN | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
        for name in FOREIGN:
            os.environ.pop(name, None)
        with ray_local.local_ray(self._start_words()) as address, connected(address):
            yield

    def slots(self) -> tuple[WorkerSlot, ...]:
        found = alive_nodes()
        for number in self._nodes.keys() - found.keys():
            self._say(f"{self._nodes.pop(number)} has left the cluster; its trials go on elsewhere")
        for number, node in found.items():
            if number not in self._nodes and self._is_usable(node):
                self._nodes[number] = node["NodeManagerHostname"]
                if places := self._of(node, found):
                    self._say(f"{self._nodes[number]} has room for {count_workers(len(places))}")
        now = time.monotonic()
        used = [number for number in self._nodes if now >= self._left_out.get(number, 0.0)]
        seats = [seat for number in used for seat in self._of(found[number], found)]
        return tuple(seats[: self.workers])

    def exclude(self, seat: WorkerSlot) -> bool:
        """See `Crew.leave_out`; each time for twice as long, so that the pauses of all who cannot work overlap."""
        now = time.monotonic()
        until = self._left_out.get(seat.node, 0.0)
        if not any(each.node != seat.node for each in self.slots()):
            return False
        if now < until:
            return True
        if now > until + LONGEST_S:
            self._failures[seat.node] = 0  # all was well for long
        self._failures[seat.node] += 1
        pause_s = min(LONGEST_S, LEFT_OUT_S * 2 ** (self._failures[seat.node] - 1))
        self._left_out[seat.node] = now + pause_s
        self._say(f"{self._nodes.get(seat.node, seat.node)} gets no workers for {pause_s:.0f} s")
        return True

    def _tell(self, host: str, why: str) -> None:
        """Say why a worker could not go on, once for all that meet the same."""
        if self._told.get(host) != why:
            self._say(f"convsearch: on {host}: {why}")
        self._told[host] = why

    def start(self, worker_config: WorkerConfig, seat: WorkerSlot) -> WorkerHandle:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        found = alive_nodes()
        of_node = self._of(found[seat.node], found) if seat.node in found else ()
        needs = {"num_cpus": 0, "num_gpus": self._gpu_share(found)} if seat.device != "cpu" else {"num_cpus": 1}
        actor = (
            ray.remote(RayWorkerActor)
            .options(
                **needs,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=AT_ONCE,
                scheduling_strategy=NodeAffinitySchedulingStrategy(seat.node, soft=False),
            )
            .remote()
        )
        mine = replace(worker_config, device=seat.device, core=seat.core, workers=max(1, len(of_node)))
        return RayWorkerHandle(
            token=worker_config.token,
            actor=actor,
            outcome=actor.work.remote(mine, str(Path.cwd())),
            host=self._nodes.get(seat.node, seat.node),
            node=seat.node,
            tell=self._tell,
        )

    def wait(self, hands: Collection[WorkerHandle], seconds: float) -> None:
        import ray

        outcomes = [each.outcome for each in hands if isinstance(each, RayWorkerHandle)]
        if outcomes:
            ray.wait(outcomes, timeout=seconds)
        else:
            time.sleep(seconds)

    def _of(self, node: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> tuple[WorkerSlot, ...]:
        """The places on a machine: for each share of its GPUs, else one a core as far as its memory reaches."""
        has, number = node["Resources"], node["NodeID"]
        gpus = int(has.get("GPU", 0))
        if gpus and self.device != "cpu":
            count = int(gpus / self._gpu_share(found))
            return tuple(WorkerSlot(index=index, device="cuda:0", node=number) for index in range(count))
        if self.device == "cuda":
            return ()
        cores = int(has.get("CPU", 0))
        fit = cores if self.workers else min(cores, max(1, int(has.get("memory", 0)) // self.worker_bytes))
        ours = (
            hardware.assign_cores(self.devices) if self.address is None and fit == len(self.devices) else (None,) * fit
        )
        return tuple(WorkerSlot(index=index, device="cpu", core=core, node=number) for index, core in enumerate(ours))

    def _gpu_share(self, found: Mapping[str, Mapping[str, Any]]) -> float:
        """What a worker takes of a GPU: all of it, unless more --workers are wanted than there are."""
        gpus = sum(int(node["Resources"].get("GPU", 0)) for node in found.values())
        return 1.0 if not gpus or self.workers is None else 1.0 / max(1, ceil(self.workers / gpus))

    def _start_words(self) -> tuple[str, ...]:
        is_cpu = self.devices[0] == "cpu"
        return (
            "--head",
            "--block",
            "--port=0",
            "--node-ip-address=127.0.0.1",
            "--include-dashboard=false",
            "--include-log-monitor=false",
            "--disable-usage-stats",
            f"--num-cpus={len(self.devices) if is_cpu else hardware.cores()}",
            f"--num-gpus={0 if is_cpu else hardware.gpus()}",
            f"--object-store-memory={STORE_BYTES}",
        )

    def _refuse_others(self) -> None:
        others = {node["NodeManagerHostname"] for node in alive_nodes().values()} - {socket.gethostname()}
        if self.one_machine and others:
            raise UsageError(
                f"the database is a file of this machine, and the Ray cluster has others, {', '.join(sorted(others))}; "
                "name a PostgreSQL database in CONVSEARCH_STORAGE, or leave out --address"
            )

    def _is_usable(self, node: Mapping[str, Any]) -> bool:
        name, number = str(node["NodeManagerHostname"]), str(node["NodeID"])
        if not self.one_machine or name == socket.gethostname():
            return True
        if number not in self._refused:
            self._refused.add(number)
            self._say(f"{name} gets no workers, because the database is a file of this machine")
        return False
