"""A saboteur: strikes a process of the service at a named point. Python loads it where PYTHONPATH names its folder.

The service has no hooks for it. The named function is wrapped when its module is first loaded, in the launcher and in
the server that workers are forked from; a marker file lets every fault strike once, however often workers are replaced.
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
#: What commits every transaction of SQLAlchemy, and the option of those that the service opened for writing.
COMMIT, FOR_WRITING = "sqlalchemy.engine.base:Connection._commit_impl", "convsearch_locked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One strike."""

    who: str
    """In which process: worker or launcher."""
    function: str
    """module:name or module:Class.name"""
    moment: str = "after"
    """before or after the call; commit: in it, when a transaction that wrote is to be committed; or one of Python's
    audit events (https://docs.python.org/3/library/audit_events.html): in it, when that is to be done."""
    nth: int = 1
    """At the how-manieth such moment in a process, counted from 1."""
    if_true: bool = False
    """After the call: count only calls that returned something."""
    signal: str = "SIGKILL"
    to: str = "itself"
    """Who gets the signal: itself or launcher."""
    pause_s: float = 0.0
    """How long to stand still behind the strike, if one lives on."""


@dataclass(slots=True)
class Trap:
    """A fault in this process, and how near it is."""

    fault: Fault
    marker: Path
    count: int = 0
    depth: int = 0
    """How many calls of the function we are in."""

    def reached(self, moment: str, prepare: Callable[[], None] = lambda: None) -> None:
        """Strike if this is the moment, for the first time in the whole run."""
        if self.fault.moment != moment or self.fault.who != _who():
            return
        self.count += 1
        if self.count == self.fault.nth and _is_first(self.marker):
            prepare()
            os.kill(_target(self.fault.to), signal.Signals[self.fault.signal])
            time.sleep(self.fault.pause_s)


@dataclass(slots=True)
class Saboteur(MetaPathFinder):
    """Finds the modules that a plan names, and wraps their functions when they were loaded."""

    traps: Sequence[Trap]
    wrappers: dict[str, list[tuple[str, Callable[[Any], Any]]]] = field(default_factory=dict)
    """By module: the name in it, and what makes the new function of the old one."""

    def __post_init__(self) -> None:
        for trap in self.traps:
            self._plan(trap.fault.function, functools.partial(_watched, trap))
        self._plan(COMMIT, functools.partial(_committing, self.traps))

    def _plan(self, function: str, wrap: Callable[[Any], Any]) -> None:
        module, _, name = function.partition(":")
        self.wrappers.setdefault(module, []).append((name, wrap))

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
        for trap in self.traps:
            if trap.depth and trap.fault.moment == event:
                trap.reached(event)


def environment(faults: Sequence[Fault], markers: Path) -> dict[str, str]:
    """What a command needs in its environment, so that these faults strike it; each leaves a file in `markers`."""
    plan = [{"fault": asdict(fault), "marker": str(markers / f"struck-{i}")} for i, fault in enumerate(faults)]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), PLAN: json.dumps(plan)}


def struck(markers: Path) -> int:
    """How many faults have struck."""
    return len(list(markers.glob("struck-*")))


def install(plan: str) -> None:
    """Lie in wait in this process and in those that are forked from it."""
    rows = json.loads(plan)
    saboteur = Saboteur([Trap(Fault(**row["fault"]), Path(row["marker"])) for row in rows])
    sys.meta_path.insert(0, saboteur)
    sys.addaudithook(saboteur.on_event)


def _replace(module: ModuleType, name: str, wrap: Callable[[Any], Any]) -> None:
    *owners, last = name.split(".")
    owner: Any = functools.reduce(getattr, owners, module)
    setattr(owner, last, wrap(getattr(owner, last)))


def _watched(trap: Trap, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        trap.reached("before")
        trap.depth += 1
        try:
            result = function(*args, **kwargs)
        finally:
            trap.depth -= 1
        if result or not trap.fault.if_true:
            trap.reached("after")
        return result

    return call


def _committing(traps: Sequence[Trap], commit: Callable[[Any], None]) -> Callable[[Any], None]:
    changes: dict[int, int] = {}  # by connection, at its last COMMIT

    @functools.wraps(commit)
    def call(connection: Any) -> None:
        raw = connection.connection.driver_connection
        before, changes[id(raw)] = changes.get(id(raw), 0), getattr(raw, "total_changes", -1)
        writes = connection.get_execution_options().get(FOR_WRITING) and changes[id(raw)] != before
        for trap in traps:
            if writes and trap.depth:
                trap.reached("commit", functools.partial(_spill, connection))
        commit(connection)

    return call


def _spill(connection: Any) -> None:
    """Make SQLite write changed pages before the COMMIT: who dies now leaves a journal that must be rolled back."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA cache_size = 1")
        connection.exec_driver_sql("PRAGMA quick_check").all()


def _who() -> str:
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
