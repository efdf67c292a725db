"""The checks of `doctor`, on this machine and on simulated conditions."""

import json
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from search import tables
from search.maintenance import doctor
from search.maintenance.doctor import Check, Status

SOUND = (3, 51, 3)


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


def test_this_machine_passes_all_checks_and_no_files_are_left_behind(tmp_path: Path) -> None:
    checks = doctor.checks(url_of(tmp_path), cache=tmp_path / "cache", port=0)

    assert not doctor.has_failures(checks)
    assert list(tmp_path.iterdir()) == []
    names = [check.name for check in checks]
    assert names == [
        *("python", "torch", "torchvision", "optuna", "optuna-dashboard", "sqlalchemy", "sqlite", "cores", "memory"),
        *("gpu", "home", "cache", "file system", "database", "journal", "port"),
    ]


def test_the_answer_is_a_table_of_80_columns_and_json() -> None:
    checks = (Check("sqlite", Status.OK, "3.51.3"), Check("home", Status.BAD, "cannot be written; " * 10))

    shown = tables.to_text(doctor.checks_table(checks), width=80)
    answer = json.loads(tables.to_json(doctor.checks_json(checks)))

    assert max(map(len, shown.splitlines())) <= 80
    assert (answer["schema"], answer["ok"]) == (1, False)
    assert answer["checks"][0] == {"name": "sqlite", "status": "ok", "text": "3.51.3"}


def test_doctor_loads_neither_torch_nor_optuna(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom search.maintenance import doctor\n"
        f"doctor.checks({url_of(tmp_path)!r}, cache=Path({str(tmp_path)!r}))\n"
        "print(sorted({'torch', 'optuna'} & set(sys.modules)))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("version", "buggy"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 6), False),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_the_sqlite_versions_with_the_wal_bug_are_known(version: tuple[int, ...], buggy: bool) -> None:
    assert doctor.has_wal_bug(version) == buggy
    assert ("DELETE journal" in doctor.sqlite_check(version).text) == buggy
    assert doctor.sqlite_check(version).status is Status.OK


@pytest.mark.parametrize(
    ("mode", "version", "status", "words"),
    [
        ("DELETE", (3, 40, 1), Status.OK, "DELETE"),
        ("WAL", (3, 40, 1), Status.WARN, "a write can be lost"),
        ("WAL", SOUND, Status.WARN, "PRAGMA journal_mode=DELETE"),
    ],
)
def test_a_database_in_wal_mode_is_a_warning(
    tmp_path: Path, mode: str, version: tuple[int, ...], status: Status, words: str
) -> None:
    file = tmp_path / "studies.db"
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE t (x)")
    connection.close()

    check = doctor.journal_check(file, version)

    assert check.status is status
    assert words in check.text


def test_an_old_python_is_bad() -> None:
    assert doctor.python_check((3, 10)).status is Status.BAD
    assert doctor.python_check((3, 11)).status is Status.OK


def test_a_package_that_is_missing_or_too_old_is_bad() -> None:
    missing, old = doctor.package_check("no-such-package-here", (1, 0)), doctor.package_check("torch", (99, 0))

    assert (missing.status, old.status) == (Status.BAD, Status.BAD)
    assert "is not installed, 1.0 or newer is needed; run `make setup`" in missing.text
    assert "is too old, 99.0 or newer is needed" in old.text


def test_little_memory_is_a_warning() -> None:
    assert doctor.memory_check(500_000_000).status is Status.WARN
    assert doctor.memory_check(8_000_000_000) == Check("memory", Status.OK, "8.0 GB free")


@pytest.mark.parametrize(("count", "words"), [(0, "on the CPU"), (1, "1 NVIDIA GPU, one"), (4, "4 NVIDIA GPUs, one")])
def test_gpus_are_counted(count: int, words: str) -> None:
    assert words in doctor.gpu_check(count).text


def test_a_folder_that_cannot_be_written_is_bad() -> None:
    check = doctor.folder_check("cache", Path("/proc/convsearch/cache"))

    assert check.status is Status.BAD
    assert "/proc cannot be written" in check.text
    assert "CONVSEARCH_CACHE" in check.text


@pytest.mark.parametrize(
    ("kind", "status"),
    [("ext4", Status.OK), ("", Status.OK), ("nfs4", Status.WARN), ("CIFS", Status.WARN), ("fuse.sshfs", Status.WARN)],
)
def test_a_network_file_system_is_a_warning(kind: str, status: Status) -> None:
    assert doctor.file_system_check(Path("/home/me"), kind).status is status


def test_a_missing_folder_has_the_file_system_of_its_parent(tmp_path: Path) -> None:
    assert doctor.file_system(tmp_path / "not" / "yet") == doctor.file_system(tmp_path)
    assert doctor.file_system(Path("/proc/self")) == "proc"


def test_a_sound_database_passes(tmp_path: Path) -> None:
    optuna.create_study(study_name="s", storage=url_of(tmp_path))

    assert doctor.database_check(url_of(tmp_path)).text.endswith("studies.db is sound")


def test_a_damaged_database_is_bad(tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", [("y" * 400,)] * 500)
    connection.commit()
    connection.close()
    content = bytearray(file.read_bytes())
    content[4096 * 5 : 4096 * 6] = b"\xff" * 4096
    file.write_bytes(content)

    check = doctor.database_check(url_of(tmp_path))

    assert check.status is Status.BAD


def test_a_file_that_is_no_database_is_bad(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("x = 1\n" * 1000)

    assert doctor.database_check(url_of(tmp_path)).status is Status.BAD


def test_a_port_in_use_is_a_warning_that_suggests_the_next_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        check = doctor.port_check(taken)

    assert check.status is Status.WARN
    assert f"--port {taken + 1}" in check.text
    assert doctor.port_check(taken).status is Status.OK
