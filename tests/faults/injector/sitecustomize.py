"""Injects faults into a process of the service at named points. Python loads it if PYTHONPATH names its folder.

The service has no hooks for it. The named function is wrapped when its module is first loaded, in the launcher and in
the forkserver of the workers. A marker file limits every fault to one injection, even if workers are replaced.
"""

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

#: The environment variable that holds the plan, as JSON.
PLAN = "CONVSEARCH_SABOTAGE"
#: The function that commits every transaction of SQLAlchemy; the execution option of the service's write transactions.
COMMIT, FOR_WRITING = "sqlalchemy.engine.base:Connection._commit_impl", "convsearch_locked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault."""

    process: str
    """The process that reaches the point: worker or launcher."""
    function: str
    """module:name or module:Class.name"""
    moment: str = "after"
    """before or after the call; commit: during the call, before the COMMIT of a transaction that wrote; or one of
    Python's audit events (https://docs.python.org/3/library/audit_events.html): during the call, at that event."""
    nth: int = 1
    """Number of the moment in its process, counted from 1."""
    if_true: bool = False
    """After the call: count only calls that returned a true value."""
    signal: str = "SIGKILL"
    to: str = "itself"
    """The process that gets the signal: itself or launcher."""
    pause_s: float = 0.0
    """Seconds to sleep after the signal, if the process survives it."""


@dataclass(slots=True)
class ArmedFault:
    """A fault in this process, and its counters."""

    fault: Fault
    marker: Path
    count: int = 0
    depth: int = 0
    """Number of calls of the function that are on the stack."""

    def reached(self, moment: str, prepare: Callable[[], None] = lambda: None) -> None:
        """Send the signal if this is the moment of the fault, and no process of the run has sent it before."""
        if self.fault.moment != moment or self.fault.process != _process_kind():
            return
        self.count += 1
        if self.count == self.fault.nth and _is_first(self.marker):
            prepare()
            os.kill(_target(self.fault.to), signal.Signals[self.fault.signal])
            time.sleep(self.fault.pause_s)


@dataclass(slots=True)
class FaultInjector(MetaPathFinder):
    """Import hook that finds the modules named in a plan and wraps their functions after they are loaded."""

    faults: Sequence[ArmedFault]
    wrappers: dict[str, list[tuple[str, Callable[[Any], Any]]]] = field(default_factory=dict)
    """By module: names in it, and for each a function that wraps the original."""

    def __post_init__(self) -> None:
        for armed in self.faults:
            self._plan(armed.fault.function, functools.partial(_watched, armed))
        self._plan(COMMIT, functools.partial(_committing, self.faults))

    def _plan(self, function: str, wrap: Callable[[Any], Any]) -> None:
        module, _, name = function.partition(":")
        self.wrappers.setdefault(module, []).append((name, wrap))

    def wrap_loaded_modules(self) -> None:
        """Wrap the functions of modules that this process has loaded already, as a forked process has."""
        for fullname, wrappers in self.wrappers.items():
            if fullname in sys.modules:
                for name, wrap in wrappers:
                    _replace(sys.modules[fullname], name, wrap)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.wrappers:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_wrap(module: ModuleType) -> None:
            load(module)
            for name, wrap in self.wrappers[fullname]:
                _replace(module, name, wrap)

        setattr(spec.loader, "exec_module", load_and_wrap)  # noqa: B010 - mypy takes no assignment to a method
        return spec

    def on_event(self, event: str, _: Any) -> None:
        for armed in self.faults:
            if armed.depth and armed.fault.moment == event:
                armed.reached(event)


def environment(faults: Sequence[Fault], markers: Path) -> dict[str, str]:
    """The environment variables that inject these faults into a command; each fault leaves a file in `markers`."""
    plan = [{"fault": asdict(fault), "marker": str(markers / f"struck-{i}")} for i, fault in enumerate(faults)]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), PLAN: json.dumps(plan)}


def injected(markers: Path) -> int:
    """The number of faults that were injected."""
    return len(list(markers.glob("struck-*")))


def install(plan: str) -> None:
    """Arm the faults of a plan in this process and in its forks."""
    rows = json.loads(plan)
    injector = FaultInjector([ArmedFault(Fault(**row["fault"]), Path(row["marker"])) for row in rows])
    injector.wrap_loaded_modules()
    sys.meta_path.insert(0, injector)
    sys.addaudithook(injector.on_event)


def _replace(module: ModuleType, name: str, wrap: Callable[[Any], Any]) -> None:
    *owners, last = name.split(".")
    owner: Any = functools.reduce(getattr, owners, module)
    setattr(owner, last, wrap(getattr(owner, last)))


def _watched(armed: ArmedFault, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        armed.reached("before")
        armed.depth += 1
        try:
            result = function(*args, **kwargs)
        finally:
            armed.depth -= 1
        if result or not armed.fault.if_true:
            armed.reached("after")
        return result

    return call


def _committing(faults: Sequence[ArmedFault], commit: Callable[[Any], None]) -> Callable[[Any], None]:
    changes: dict[int, int] = {}  # by id of the connection: total changes at its last COMMIT

    @functools.wraps(commit)
    def call(connection: Any) -> None:
        raw = connection.connection.driver_connection
        before, changes[id(raw)] = changes.get(id(raw), 0), getattr(raw, "total_changes", -1)
        writes = connection.get_execution_options().get(FOR_WRITING) and changes[id(raw)] != before
        for armed in faults:
            if writes and armed.depth:
                armed.reached("commit", functools.partial(_spill, connection))
        commit(connection)

    return call


def _spill(connection: Any) -> None:
    """Make SQLite write changed pages before the COMMIT; a process that dies now leaves a journal to roll back."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA cache_size = 1")
        connection.exec_driver_sql("PRAGMA quick_check").all()


def _process_kind() -> str:
    from multiprocessing import parent_process

    return "launcher" if parent_process() is None else "worker"


def _target(to: str) -> int:
    from multiprocessing import parent_process

    parent = parent_process()
    return os.getpid() if to == "itself" or parent is None or parent.pid is None else parent.pid


def _is_first(marker: Path) -> bool:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


if PLAN in os.environ:
    install(os.environ[PLAN])
