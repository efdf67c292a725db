"""`convsearch doctor`: check the packages, the machine and the database.

The checks are cheap: torch is not loaded, the GPU is found through its device files, and no file is left behind.
"""

import platform
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from search import hardware
from search.artifacts.disk_space import MIN_BYTES, RESERVE_BYTES
from search.artifacts.files import nearest_existing
from search.errors import ConvsearchError
from search.storage.read_only import display_name, integrity, open_reader, sqlite_path
from search.tables import Table

#: Minimum version of each package. The upper limits are in the package metadata.
OLDEST = {"torch": (2, 10), "torchvision": (0, 25), "optuna": (5, 0), "optuna-dashboard": (0, 21), "sqlalchemy": (2, 1)}
#: SQLite versions whose WAL journal can lose a write: 3.7.0 to 3.51.2, except two that have the fix
#: (https://www.sqlite.org/wal.html, "the WAL-reset bug"). convsearch keeps the DELETE journal, which is not affected.
WAL_BUG, WAL_FIXED = ((3, 7, 0), (3, 51, 2)), {(3, 50, 7), (3, 44, 6)}
#: Network file systems, where SQLite's locks are unreliable (https://www.sqlite.org/faq.html#q5).
NETWORK = {"nfs", "nfs4", "cifs", "smbfs", "smb3", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs"}
#: CIFAR-10 with its archive and decoded images takes 0.5 GB, a study's checkpoints some hundred MB. A run does
#: not start with less than `NEEDED_BYTES` (see `search.artifacts.disk_space`).
WANTED_BYTES, NEEDED_BYTES = 2_000_000_000, RESERVE_BYTES + MIN_BYTES


class Status(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    """Works, but deserves attention."""
    BAD = "bad"
    """Will not work."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result."""

    name: str
    status: Status
    text: str
    """The finding; unless ok, with the remedy."""


def checks(storage_url: str, *, cache: Path, port: int = 8080) -> tuple[Check, ...]:
    """Run all checks. Creates no database and leaves no file.

    Args:
        storage_url: The URL of the database.
        cache: The folder of the prepared data sets.
        port: The port of the dashboard.

    Returns:
        The results, in display order.
    """
    file = sqlite_path(storage_url)
    folder = file.absolute().parent if file else Path("runs").absolute()
    return (
        python_check(sys.version_info[:2]),
        *(package_check(name, oldest) for name, oldest in OLDEST.items()),
        sqlite_check(sqlite3.sqlite_version_info),
        cores_check(),
        memory_check(hardware.memory()),
        gpu_check(hardware.gpus()),
        folder_check("home", folder),
        folder_check("cache", cache.absolute()),
        file_system_check(folder, file_system(folder)),
        database_check(storage_url),
        *([] if file is None else [journal_check(file, sqlite3.sqlite_version_info)]),
        port_check(port),
    )


def has_failures(checks: Sequence[Check]) -> bool:
    """Whether any check failed."""
    return any(check.status is Status.BAD for check in checks)


def checks_table(checks: Sequence[Check]) -> Table:
    """The checks as a table."""
    return Table(columns=("", "", ""), rows=tuple((check.status.value, check.name, check.text) for check in checks))


def checks_json(checks: Sequence[Check]) -> dict[str, Any]:
    """The output of `doctor --json`."""
    return {"ok": not has_failures(checks), "checks": [asdict(check) for check in checks]}


def python_check(version: tuple[int, int]) -> Check:
    text = f"{version[0]}.{version[1]} ({platform.system()} {platform.machine()})"
    if version >= (3, 11):
        return Check("python", Status.OK, text)
    return Check("python", Status.BAD, f"{text}; convsearch needs 3.11 or newer: make setup PYTHON=python3.12")


def package_check(name: str, oldest: tuple[int, ...]) -> Check:
    """Whether a package is installed and new enough, from its metadata: importing torch takes seconds."""
    needed = f"{'.'.join(map(str, oldest))} or newer is needed; run `make setup`"
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Check(name, Status.BAD, f"is not installed, {needed}")
    if _release(installed) < oldest:
        return Check(name, Status.BAD, f"{installed} is too old, {needed}")
    return Check(name, Status.OK, installed)


def sqlite_check(version: tuple[int, ...]) -> Check:
    text = ".".join(map(str, version))
    if has_wal_bug(version):
        text += "; its WAL journal can lose a write, so convsearch keeps the DELETE journal"
    return Check("sqlite", Status.OK, text)


def has_wal_bug(version: tuple[int, ...]) -> bool:
    """Whether this SQLite's WAL journal can lose a write."""
    return WAL_BUG[0] <= version[:3] <= WAL_BUG[1] and version[:3] not in WAL_FIXED


def journal_check(file: Path, version: tuple[int, ...]) -> Check:
    """Whether another program has put the database file into WAL mode."""
    if not file.is_file() or file.stat().st_size < 20:
        return Check("journal", Status.OK, "DELETE, as convsearch makes its databases")
    with file.open("rb") as stream:
        is_wal = stream.read(20)[18] == 2  # https://www.sqlite.org/fileformat.html, offset 18
    if not is_wal:
        return Check("journal", Status.OK, "DELETE")
    risk = "with this SQLite a write can be lost" if has_wal_bug(version) else "not made by convsearch"
    return Check(
        "journal", Status.WARN, f"{file} is in WAL mode, {risk}; `sqlite3 {file} 'PRAGMA journal_mode=DELETE'` fixes it"
    )


def cores_check() -> Check:
    usable, present = hardware.cores(), psutil.cpu_count() or 1
    more = f" of {present} (by CPU affinity and control group)" if usable < present else ""
    return Check("cores", Status.OK, f"{usable}{more}, so {len(hardware.devices(None, device='cpu'))} CPU workers")


def memory_check(free: int) -> Check:
    text = f"{_gigabytes(free)} free"
    if free >= hardware.WORKER_BYTES:
        return Check("memory", Status.OK, text)
    return Check(
        "memory", Status.WARN, f"{text}, and a worker takes up to {_gigabytes(hardware.WORKER_BYTES)}; close something"
    )


def gpu_check(count: int) -> Check:
    if not count:
        return Check("gpu", Status.OK, "no NVIDIA GPU; training runs on the CPU")
    return Check("gpu", Status.OK, f"{count} NVIDIA GPU{'s' if count > 1 else ''}, one worker on each")


def folder_check(name: str, folder: Path) -> Check:
    """Whether `folder`, or its nearest existing parent, is writable and has enough free space."""
    existing = nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing) as stream:
            stream.write(b"convsearch")
    except OSError as error:
        return Check(name, Status.BAD, f"{existing} cannot be written ({error.strerror}); {_other(name)}")
    free = shutil.disk_usage(existing).free
    text = f"{folder}: {_gigabytes(free)} free"
    if free < NEEDED_BYTES:
        return Check(name, Status.BAD, f"{text}, too little; make room, or {_other(name)}")
    if free < WANTED_BYTES:
        return Check(name, Status.WARN, f"{text}; `convsearch clean` makes room, or {_other(name)}")
    return Check(name, Status.OK, text)


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`, e.g. ext4; empty if unknown."""
    existing = nearest_existing(folder).resolve()
    holders = [part for part in psutil.disk_partitions(all=True) if existing.is_relative_to(part.mountpoint)]
    return max(holders, key=lambda part: len(part.mountpoint)).fstype if holders else ""


def file_system_check(folder: Path, kind: str) -> Check:
    if kind.lower() in NETWORK or kind.lower().startswith("fuse.sshfs"):
        remedy = "keep the database on a local disk (--storage), or use PostgreSQL"
        return Check("file system", Status.WARN, f"{folder} is on {kind}, where SQLite's locks can fail; {remedy}")
    return Check("file system", Status.OK, kind or "unknown")


def database_check(storage_url: str) -> Check:
    """Whether the database opens and is sound. A missing SQLite file is fine."""
    file = sqlite_path(storage_url)
    if file is not None and not file.exists():
        return Check("database", Status.OK, f"none at {file} yet; `convsearch run STUDY` makes it")
    try:
        engine = open_reader(storage_url)
        result = integrity(engine)
    except ConvsearchError as error:
        return Check("database", Status.BAD, str(error))
    if result == "ok":
        return Check("database", Status.OK, f"{display_name(engine)} is sound")
    return Check("database", Status.BAD, f"{display_name(engine)} is damaged ({result}); restore it from a backup")


def port_check(port: int) -> Check:
    """Whether the dashboard's usual port is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Check("port", Status.WARN, f"{port} is in use; `convsearch dashboard --port {port + 1}`")
    return Check("port", Status.OK, f"{port} is free for the dashboard")


def _release(text: str) -> tuple[int, ...]:
    """The release numbers of a version: 2.15.0+cu128 is (2, 15, 0)."""
    return tuple(int(part) for part in text.split("+")[0].split(".") if part.isdigit())


def _other(name: str) -> str:
    return "name another with --storage" if name == "home" else "name another with CONVSEARCH_CACHE"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
