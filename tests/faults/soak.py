"""`make soak`: faults by the hundred, against real processes and files; one table of what was lost (hopefully nothing).

    .venv/bin/python -m tests.faults.soak [--postgres] [--only NAME] [--scale 0.05] [--seed 1] [--keep]

The named points that `make test` runs are in test_named_points.py; here are the random and the exhaustive ones.
"""

import argparse
import gc
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import optuna
import torch

from search import hardware
from tests.bench import measure
from tests.faults import (
    soak_apart,
    soak_calls,
    soak_claims,
    soak_clock,
    soak_damage,
    soak_disk,
    soak_kills,
    soak_link,
    soak_locks,
    soak_record,
    soak_resume,
    soak_row,
    soak_server,
    soak_signals,
)
from tests.faults.soak_record import Soak
from tests.faults.soak_row import Row
from tests.faults.soak_site import Site, say
from tests.service.postgres import missing

PARTS: dict[str, Callable[[Site], Row]] = {
    "worker": soak_kills.worker,
    "all": soak_kills.group,
    "launcher": soak_kills.launcher,
    "signal": soak_signals.signals,
    "lock": soak_locks.locks,
    "clock": soak_clock.jumps,
    "disk": soak_disk.full,
    "call-locked": soak_calls.locked,
    "call-broken": soak_calls.broken,
    "checkpoint": soak_damage.checkpoints,
    "claim": soak_claims.claims,
    "resume": soak_resume.resumed,
}

#: Parts that want a PostgreSQL server: `make soak-postgres`.
POSTGRES: dict[str, Callable[[Site], Row]] = {
    "server-crash": soak_server.crashes,
    "server-frozen": soak_server.freezes,
    "server-clock": soak_apart.clocks,
    "server-zone": soak_server.zones,
    "server-link": soak_link.partitions,
}

#: Parts that wait most of the time: they run beside the others.
WAITING = ("lock", "clock")


def main(words: list[str]) -> int:
    parser = _parser()
    args = parser.parse_args(words)
    names = args.only or list(POSTGRES if args.postgres else PARTS)
    if not POSTGRES.keys().isdisjoint(names) and missing():
        parser.error(missing())
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process that talked to a GPU cannot fork
    folder = Path(tempfile.mkdtemp(prefix="convsearch-soak-", dir=args.folder))
    site = Site(folder=folder, seed=args.seed, scale=args.scale, jobs=args.jobs)
    site.prepare()
    began = time.monotonic()
    rows = _do_all(names, site)
    seconds = time.monotonic() - began
    print(_heading(args, seconds))
    print(soak_row.table(rows))
    if args.keep:
        say(f"kept in {_keep(args, names, rows, seconds).relative_to(measure.ROOT)}")
    gc.unfreeze()  # else libraries complain, when this process ends, of what they take for leaks
    if all(row.is_good for row in rows):
        shutil.rmtree(folder)
        return 0
    say(f"what was lost is kept in {folder}")
    return 1


def _do_all(names: Sequence[str], site: Site) -> list[Row]:
    """Do the parts one after the other, and those that wait beside them, each in a process without threads."""
    one_by_one = [name for name in names if name not in WAITING]
    queues = [queue for queue in (one_by_one, *([name] for name in names if name in WAITING)) if queue]
    with ProcessPoolExecutor(len(queues), mp_context=multiprocessing.get_context("fork")) as workers:
        rows = [row for done in workers.map(partial(_do_queue, site), queues) for row in done]
    order = [name for queue in queues for name in queue]
    return [rows[order.index(name)] for name in names]


def _do_queue(site: Site, names: Sequence[str]) -> list[Row]:
    return [_do(name, site) for name in names]


def _do(name: str, site: Site) -> Row:
    say(f"{name} ...")
    row = (PARTS | POSTGRES)[name](site)
    say(f"{name}: {row.injected} injected, {row.survived} survived, {row.lost} lost, {row.seconds:.0f} s. {row.note}")
    return row


def _keep(args: argparse.Namespace, names: Sequence[str], rows: Sequence[Row], seconds: float) -> Path:
    with_server = not POSTGRES.keys().isdisjoint(names)
    only = " ".join(f"--only {name}" for name in args.only or ()) or ("--postgres" if args.postgres else "")
    return soak_record.keep(
        Soak(
            name="Faults, Postgres" if with_server else "Faults",
            command=" ".join(f"python -m tests.faults.soak {only} --scale {args.scale:g} --seed {args.seed}".split()),
            scale=args.scale,
            seed=args.seed,
            seconds=round(seconds, 1),
            rows=rows,
            versions=soak_record.versions(postgres=with_server),
        )
    )


def _heading(args: argparse.Namespace, seconds: float) -> str:
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return (
        f"soak: scale {args.scale:g}, seed {args.seed}, {seconds:.0f} s, {hardware.cores()} cores, {cpu}\n"
        f"Python {platform.python_version()}, torch {torch.__version__}, Optuna {optuna.__version__}, "
        f"{platform.system()} {platform.release()}, files in {_memory_or_disk(args.folder)}\n"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _memory_or_disk(folder: str | None) -> str:
    return "memory" if folder and Path(folder).is_relative_to("/dev/shm") else "a folder on the disk"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=[*PARTS, *POSTGRES], help="this part (may be given several times)"
    )
    parser.add_argument("--postgres", action="store_true", help="the parts with a PostgreSQL server, not the others")
    parser.add_argument("--scale", type=float, default=1.0, metavar="S", help="share of all faults (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random choices (default: 0)")
    parser.add_argument("--jobs", type=int, default=hardware.cores() + 1, metavar="N", help="cases at once")
    parser.add_argument("--keep", action="store_true", help="keep the table under studies/records/")
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    parser.add_argument("--folder", default=memory, help="where to work (default: in memory, where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
