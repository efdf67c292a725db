"""Workers on a Ray cluster: one actor per slot, on any of its machines.

Ray starts the actors and reports their deaths. It never retries, because the database stores which trials to retry and
from which checkpoint. Ray carries only the configuration and control of an actor; results go through the database.

Ray is an optional dependency and is imported where it is used.
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

#: Defaults for Ray's environment: no usage statistics, and no retries for a quarter of an hour to reach an absent node.
#: Variables that the user has set take precedence.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_NUM_REDIS_GET_RETRIES": "1"}
#: A private Ray cluster listens on the loopback device alone (the first variable does that, despite its name) and
#: requires a secret token from its clients.
OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
#: Variables that a user may have set for another cluster; they are removed for a private one.
FOREIGN = ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")
#: Size of Ray's object store; nothing large goes through Ray, and it accepts no less.
STORE_BYTES = 80_000_000
#: Time limit for an actor to start on a node with free resources, in seconds.
PLACED_S = 20.0
#: Time limit for the stack traces of a hung worker, in seconds.
STACK_S = 2.0
#: Exponential backoff for a machine on which workers cannot work (no images, other code, no space): the first pause and
#: the longest one, in seconds. Each further failure doubles the pause.
LEFT_OUT_S, LONGEST_S = 60.0, 3600.0
#: Concurrent calls of an actor: `work`, and three control calls.
AT_ONCE = 4
#: Exit code of a worker that died without one.
DIED = -signal.SIGKILL


@dataclass(kw_only=True, slots=True)
class RayWorkerHandle(WorkerHandle):
    """One actor."""

    actor: Any
    outcome: Any
    """Object reference of the result of its `work`."""
    host: str
    node: str
    tell: Callable[[str, str], None]
    """Reports (host, reason) of a worker that could not go on."""
    started: float = field(default_factory=time.monotonic)
    _beats_request: Any = None
    """Object reference of the pending request for its beats."""
    _beats: int | None = None
    _is_placed: bool = False
    _exitcode: int | None = None
    _death_reason: str = ""
    _was_taken: bool = False

    @property
    def exitcode(self) -> int | None:
        if self._exitcode is None and is_ready(self.outcome):
            self._exitcode = self._end()
            self.kill()  # its work is over; its process would wait for more calls
        return self._exitcode

    @property
    def how_it_ended(self) -> str:
        return self._death_reason

    @property
    def is_placed(self) -> bool:
        return self._is_placed or time.monotonic() - self.started < PLACED_S

    @property
    def was_taken(self) -> bool:
        return self._was_taken

    def beats(self) -> int | None:
        """See `WorkerHandle.beats`. During preparation each answer counts down by one, to detect a hang there too."""
        import ray

        if self._beats_request is None:
            self._beats_request = self.actor.beats.remote()
        elif is_ready(self._beats_request):
            with suppress(ray.exceptions.RayError):  # `outcome` holds the cause
                count = ray.get(self._beats_request)
                self._beats = (self._beats or 0) - 1 if count is None else count
                self._is_placed = True
            self._beats_request = None
        return self._beats

    def terminate(self) -> None:
        if self._is_placed:
            self.actor.stop.remote()
        else:
            self.kill()  # it waits for resources and would not receive the call

    def kill(self, *, wait_s: float = 1.0) -> None:
        import ray

        self.actor.stop.remote()  # Ray does not report when it is dead; until then it must not claim another trial
        ray.kill(self.actor, no_restart=True)

    def stacks(self) -> str:
        import ray

        with suppress(ray.exceptions.RayError):
            return str(ray.get(self.actor.stacks.remote(), timeout=STACK_S))
        return ""

    def _end(self) -> int:
        """The exit code. Stores the cause of a death; reports a reason that does not concern the trial."""
        import ray

        errors = ray.exceptions
        try:
            code, why = ray.get(self.outcome)
        except errors.RayTaskError as error:
            self._death_reason = f"its work on {self.host} broke off: {last_line(error)}"
            return 1
        except errors.RayError as error:
            is_unreachable = isinstance(error, errors.ActorUnavailableError | errors.ActorUnschedulableError)
            self._was_taken = is_unreachable or self.node not in alive_nodes()
            node_lost = f"its machine {self.host} is gone"
            self._death_reason = (
                node_lost if self._was_taken else f"its process on {self.host} died: {last_line(error)}"
            )
            return DIED
        if why:
            self.tell(self.host, why)
        return int(code)


@dataclass(kw_only=True, slots=True)
class RayBackend(WorkerBackend):
    """The slots of a Ray cluster: one for each core or GPU of its machines, which may join and leave."""

    address: str | None
    """HOST:PORT; None starts a private cluster on this machine."""
    devices: tuple[str, ...]
    """Devices of this machine, for a private cluster."""
    workers: int | None
    """Maximum number of workers; None is one per slot."""
    device: str | None
    """cpu or cuda; None is cuda on machines with a GPU, otherwise cpu."""
    worker_bytes: int
    """Memory of one worker in bytes."""
    one_machine: bool
    """Whether the database is a file, which other machines cannot open."""
    _nodes: dict[str, str] = field(default_factory=dict)
    """Host names by Ray node ID, in the order in which the nodes were first seen."""
    _refused_nodes: set[str] = field(default_factory=set)
    _excluded_until: dict[str, float] = field(default_factory=dict)
    """End of the pause of a machine, by node ID, monotonic seconds."""
    _failures: Counter[str] = field(default_factory=Counter)
    """Number of pauses of each machine, by node ID."""
    _last_message: dict[str, str] = field(default_factory=dict)
    """Last message about the workers on a host."""
    _say: Say = lambda _: None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise UsageError("--engine ray needs Ray, which is not installed; `make setup EXTRAS=ray` installs it")
        if self.address is not None:
            host_and_port(self.address)

    @property
    def plan(self) -> str:
        limit = "" if self.workers is None else f", at most {self.workers}"
        if self.address is None:
            return f"workers on a Ray of their own{limit}"
        return f"workers on the Ray cluster at {self.address}{limit}"

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
                self._refuse_other_hosts()
                yield
            return
        os.environ.update(OWN | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
        for name in FOREIGN:
            os.environ.pop(name, None)
        with ray_local.local_ray(self._start_options()) as address, connected(address):
            yield

    def slots(self) -> tuple[WorkerSlot, ...]:
        nodes = alive_nodes()
        for node_id in self._nodes.keys() - nodes.keys():
            self._say(f"{self._nodes.pop(node_id)} has left the cluster; its trials go on elsewhere")
        for node_id, node in nodes.items():
            if node_id not in self._nodes and self._is_usable(node):
                self._nodes[node_id] = node["NodeManagerHostname"]
                if node_slots := self._slots_of(node, nodes):
                    self._say(f"{self._nodes[node_id]} has room for {count_workers(len(node_slots))}")
        now = time.monotonic()
        usable = [node_id for node_id in self._nodes if now >= self._excluded_until.get(node_id, 0.0)]
        slots = [slot for node_id in usable for slot in self._slots_of(nodes[node_id], nodes)]
        return tuple(slots[: self.workers])

    def exclude(self, slot: WorkerSlot) -> bool:
        """See `WorkerBackend.exclude`. The pause doubles each time, so the pauses of all failing machines overlap."""
        now = time.monotonic()
        until = self._excluded_until.get(slot.node, 0.0)
        if not any(other.node != slot.node for other in self.slots()):
            return False
        if now < until:
            return True
        if now > until + LONGEST_S:
            self._failures[slot.node] = 0  # no failure for a long time
        self._failures[slot.node] += 1
        pause_s = min(LONGEST_S, LEFT_OUT_S * 2 ** (self._failures[slot.node] - 1))
        self._excluded_until[slot.node] = now + pause_s
        self._say(f"{self._nodes.get(slot.node, slot.node)} gets no workers for {pause_s:.0f} s")
        return True

    def _report(self, host: str, why: str) -> None:
        """Report why a worker could not go on; the same reason on the same host is reported once."""
        if self._last_message.get(host) != why:
            self._say(f"convsearch: on {host}: {why}")
        self._last_message[host] = why

    def start(self, worker_config: WorkerConfig, slot: WorkerSlot) -> WorkerHandle:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = alive_nodes()
        node_slots = self._slots_of(nodes[slot.node], nodes) if slot.node in nodes else ()
        resources = {"num_cpus": 0, "num_gpus": self._gpu_share(nodes)} if slot.device != "cpu" else {"num_cpus": 1}
        actor = (
            ray.remote(RayWorkerActor)
            .options(
                **resources,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=AT_ONCE,
                scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
            )
            .remote()
        )
        slot_config = replace(worker_config, device=slot.device, core=slot.core, workers=max(1, len(node_slots)))
        return RayWorkerHandle(
            token=worker_config.token,
            actor=actor,
            outcome=actor.work.remote(slot_config, str(Path.cwd())),
            host=self._nodes.get(slot.node, slot.node),
            node=slot.node,
            tell=self._report,
        )

    def wait(self, handles: Collection[WorkerHandle], seconds: float) -> None:
        import ray

        outcomes = [handle.outcome for handle in handles if isinstance(handle, RayWorkerHandle)]
        if outcomes:
            ray.wait(outcomes, timeout=seconds)
        else:
            time.sleep(seconds)

    def _slots_of(self, node: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> tuple[WorkerSlot, ...]:
        """The slots of a machine: one per share of its GPUs; without GPUs one per core, limited by its memory."""
        resources, node_id = node["Resources"], node["NodeID"]
        gpus = int(resources.get("GPU", 0))
        if gpus and self.device != "cpu":
            count = int(gpus / self._gpu_share(nodes))
            return tuple(WorkerSlot(index=index, device="cuda:0", node=node_id) for index in range(count))
        if self.device == "cuda":
            return ()
        cores = int(resources.get("CPU", 0))
        cpu_count = cores if self.workers else min(cores, max(1, int(resources.get("memory", 0)) // self.worker_bytes))
        core_ids = (
            hardware.assign_cores(self.devices)
            if self.address is None and cpu_count == len(self.devices)
            else (None,) * cpu_count
        )
        return tuple(
            WorkerSlot(index=index, device="cpu", core=core, node=node_id) for index, core in enumerate(core_ids)
        )

    def _gpu_share(self, nodes: Mapping[str, Mapping[str, Any]]) -> float:
        """The share of a GPU per worker: 1.0, or less if --workers exceeds the number of GPUs."""
        gpus = sum(int(node["Resources"].get("GPU", 0)) for node in nodes.values())
        return 1.0 if not gpus or self.workers is None else 1.0 / max(1, ceil(self.workers / gpus))

    def _start_options(self) -> tuple[str, ...]:
        is_cpu = self.devices[0] == "cpu"
        return (
            "--head",
            "--block",
            "--port=0",
            "--node-ip-address=127.0.0.1",
            "--include-dashboard=false",
            "--include-log-monitor=false",
            "--no-monitor",  # the autoscaler, which has no machines to add
            "--disable-usage-stats",
            f"--num-cpus={len(self.devices) if is_cpu else hardware.cores()}",
            f"--num-gpus={0 if is_cpu else hardware.gpus()}",
            f"--object-store-memory={STORE_BYTES}",
        )

    def _refuse_other_hosts(self) -> None:
        hosts = {node["NodeManagerHostname"] for node in alive_nodes().values()} - {socket.gethostname()}
        if self.one_machine and hosts:
            raise UsageError(
                f"the database is a file of this machine, and the Ray cluster has others, {', '.join(sorted(hosts))}; "
                "name a PostgreSQL database in CONVSEARCH_STORAGE, or leave out --address"
            )

    def _is_usable(self, node: Mapping[str, Any]) -> bool:
        host, node_id = str(node["NodeManagerHostname"]), str(node["NodeID"])
        if not self.one_machine or host == socket.gethostname():
            return True
        if node_id not in self._refused_nodes:
            self._refused_nodes.add(node_id)
            self._say(f"{host} gets no workers, because the database is a file of this machine")
        return False
