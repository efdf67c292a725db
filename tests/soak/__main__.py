"""`make soak`: injects hundreds of faults into real processes and files; prints one table of the losses.

    .venv/bin/python -m tests.soak [--postgres] [--only NAME] [--scale 0.05] [--seed 1] [--keep]

`make test` covers the named points (test_named_points.py); the soak has the random and the exhaustive faults.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from search import hardware
from search.study import provenance
from tests.bench import measure
from tests.service.postgres import missing
from tests.soak import record, results
from tests.soak.faults import (
    claims,
    clock,
    damaged_checkpoints,
    disk,
    driver_calls,
    kills,
    locks,
    machine_clocks,
    network,
    resume,
    server,
    signals,
)
from tests.soak.record import Soak
from tests.soak.results import FaultResult
from tests.soak.workspace import Workspace, say

PARTS: dict[str, Callable[[Workspace], FaultResult]] = {
    "worker": kills.worker,
    "all": kills.group,
    "launcher": kills.launcher,
    "signal": signals.signals,
    "lock": locks.locks,
    "clock": clock.jumps,
    "disk": disk.full,
    "call-locked": driver_calls.locked,
    "call-broken": driver_calls.broken,
    "checkpoint": damaged_checkpoints.checkpoints,
    "claim": claims.many_at_once,
    "resume": resume.resumed,
}

#: Parts that need a PostgreSQL server: `make soak-postgres`.
POSTGRES: dict[str, Callable[[Workspace], FaultResult]] = {
    "server-crash": server.crashes,
    "server-frozen": server.freezes,
    "server-clock": machine_clocks.clocks,
    "server-zone": server.zones,
    "server-link": network.partitions,
}

#: Parts that wait most of the time: they run at the same time as the others.
WAITING = ("lock", "clock")


def main(words: list[str]) -> int:
    parser = _parser()
    args = parser.parse_args(words)
    names = args.only or list(POSTGRES if args.postgres else PARTS)
    if not POSTGRES.keys().isdisjoint(names) and missing():
        parser.error(missing())
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process that has used a GPU cannot fork
    folder = Path(tempfile.mkdtemp(prefix="convsearch-soak-", dir=args.folder))
    workspace = Workspace(folder=folder, seed=args.seed, scale=args.scale, jobs=args.jobs)
    workspace.prepare()
    began = time.monotonic()
    rows = _run_all(names, workspace)
    seconds = time.monotonic() - began
    print(_heading(args, seconds))
    print(results.table(rows))
    if args.keep:
        say(f"kept in {_keep(args, names, rows, seconds).relative_to(measure.ROOT)}")
    if all(row.is_good for row in rows):
        shutil.rmtree(folder)
        return 0
    say(f"the files of the failed cases are in {folder}")
    return 1


def _run_all(names: Sequence[str], workspace: Workspace) -> list[FaultResult]:
    """Run the parts one after the other and those of WAITING in parallel, each in a process without threads."""
    one_by_one = [name for name in names if name not in WAITING]
    queues = [queue for queue in (one_by_one, *([name] for name in names if name in WAITING)) if queue]
    with ProcessPoolExecutor(len(queues), mp_context=multiprocessing.get_context("fork")) as workers:
        rows = [row for done in workers.map(partial(_run_queue, workspace), queues) for row in done]
    order = [name for queue in queues for name in queue]
    return [rows[order.index(name)] for name in names]


def _run_queue(workspace: Workspace, names: Sequence[str]) -> list[FaultResult]:
    return [_run_part(name, workspace) for name in names]


def _run_part(name: str, workspace: Workspace) -> FaultResult:
    say(f"{name} ...")
    began = time.monotonic()
    row = replace((PARTS | POSTGRES)[name](workspace), seconds=time.monotonic() - began)
    say(f"{name}: {row.injected} injected, {row.survived} survived, {row.lost} lost, {row.seconds:.0f} s. {row.note}")
    return row


def _keep(args: argparse.Namespace, names: Sequence[str], rows: Sequence[FaultResult], seconds: float) -> Path:
    with_server = not POSTGRES.keys().isdisjoint(names)
    only = " ".join(f"--only {name}" for name in args.only or ()) or ("--postgres" if args.postgres else "")
    return record.keep(
        Soak(
            name="Faults, Postgres" if with_server else "Faults",
            command=" ".join(f"python -m tests.soak {only} --scale {args.scale:g} --seed {args.seed}".split()),
            scale=args.scale,
            seed=args.seed,
            seconds=round(seconds, 1),
            rows=rows,
            versions=record.versions(postgres=with_server),
        )
    )


def _heading(args: argparse.Namespace, seconds: float) -> str:
    return (
        f"soak: scale {args.scale:g}, seed {args.seed}, {seconds:.0f} s, files in {_memory_or_disk(args.folder)}\n"
        f"{provenance.hardware()}; {measure.listed(measure.package_versions())}\n"
    )


def _memory_or_disk(folder: str | None) -> str:
    return "memory" if folder and Path(folder).is_relative_to("/dev/shm") else "a folder on the disk"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*PARTS, *POSTGRES], help="run only this part (repeatable)")
    parser.add_argument("--postgres", action="store_true", help="run the parts with a PostgreSQL server instead")
    parser.add_argument("--scale", type=float, default=1.0, metavar="S", help="share of all faults (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices (default: 0)")
    parser.add_argument(
        "--jobs", type=int, default=hardware.cores() + 1, metavar="N", help="number of cases that run at once"
    )
    parser.add_argument("--keep", action="store_true", help="keep the table under studies/records/")
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    parser.add_argument("--folder", default=memory, help="working folder (default: /dev/shm, if it exists)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
