"""Paths of study files, their owner and permissions, and the lock of a study."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.artifacts import files, study_dir
from search.artifacts.study_dir import CheckpointFile, StudyDirs
from search.errors import BusyError, DiskError, UsageError

HOLD = """
import sys, time
from pathlib import Path
from search.artifacts.study_dir import StudyDirs
with StudyDirs(Path(sys.argv[1]), "studies.db").running("s"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """The umask of most systems; the expected permissions assume it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def dirs(tmp_path: Path) -> StudyDirs:
    return StudyDirs(tmp_path, "studies.db")


def make(dirs: StudyDirs, name: str) -> Path:
    """The folder of a study that has run, with one trial."""
    with dirs.running(name):
        dirs.trial(name, 0).mkdir()
    (dirs.trial(name, 0) / "step.ckpt").write_bytes(b"1234")
    return dirs.study(name)


def test_files_are_next_to_the_database_under_the_names_of_study_and_trial(tmp_path: Path) -> None:
    dirs = study_dir.of(f"sqlite:///{tmp_path / 'other.db'}")

    assert dirs == StudyDirs(tmp_path, "other.db")
    assert dirs.trial("s", 12) == tmp_path / "s" / "trial-00012"
    assert dirs.log("s", 123456) == tmp_path / "s" / "trial-123456" / "log.txt"


def test_a_database_without_a_file_uses_runs_in_the_working_folder() -> None:
    assert study_dir.of("postgresql://user@host/db").root == Path("runs").absolute()


@pytest.mark.parametrize("name", ["", ".", "..", ".s", "-s", "a/b", "../a", "a b", "a\nb", "s" * 65, "é", "a\\b"])
def test_a_name_that_is_not_a_plain_file_name_is_refused(dirs: StudyDirs, name: str) -> None:
    with pytest.raises(UsageError, match="a study's name must be up to 64 letters, digits"):
        dirs.study(name)


@pytest.mark.parametrize("name", ["s", "9", "cifar10.again-12", "A_b-c.d", "s" * 64])
def test_a_plain_name_is_used_unchanged(dirs: StudyDirs, name: str) -> None:
    assert dirs.study(name) == dirs.root / name


def test_a_second_launcher_is_refused_with_the_process_id_of_the_first(dirs: StudyDirs) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(dirs.root)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        process.stdout.readline()

        with (
            pytest.raises(BusyError, match=f"process {process.pid} on this machine is already running the study 's'"),
            dirs.running("s"),
        ):
            pass

        process.kill()
    with dirs.running("s"):  # the system has released the lock of the dead process
        assert (dirs.study("s") / study_dir.LOCK).read_text().splitlines()[1] == "studies.db"


def test_two_studies_can_run_at_the_same_time(dirs: StudyDirs) -> None:
    with dirs.running("one"), dirs.running("other"):
        assert dirs.studies() == ("one", "other")


def test_an_unwritable_folder_raises_a_disk_error_that_names_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(DiskError, match=r"cannot write to .*name another --storage"),
        StudyDirs(tmp_path / "file").running("s"),
    ):
        pass


def test_only_the_files_of_a_study_are_removed(dirs: StudyDirs) -> None:
    folder = make(dirs, "s")
    (folder / "notes.txt").write_text("mine")
    (folder / "trial-1").mkdir()

    freed = dirs.remove("s")

    assert freed == 4 + len(f"{os.getpid()}\nstudies.db\n")
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "trial-1"]


def test_an_empty_folder_is_removed_and_a_second_removal_frees_nothing(dirs: StudyDirs) -> None:
    folder = make(dirs, "s")

    dirs.remove("s")

    assert not folder.exists()
    assert dirs.remove("s") == 0


def test_studies_are_identified_by_their_lock_and_database(dirs: StudyDirs) -> None:
    make(dirs, "s")
    make(StudyDirs(dirs.root, "other.db"), "theirs")
    (dirs.root / "photos").mkdir()

    assert dirs.studies() == ("s",)


def test_an_unreadable_lock_belongs_to_no_database(dirs: StudyDirs) -> None:
    folder = dirs.root / "odd"
    folder.mkdir(parents=True)
    (folder / study_dir.LOCK).write_bytes(b"\xff\xfe")

    assert dirs.studies() == ()


def test_the_size_of_a_folder_is_the_sum_of_its_files(dirs: StudyDirs, tmp_path: Path) -> None:
    make(dirs, "s")

    assert files.size(dirs.trial("s", 0)) == 4
    assert files.size(tmp_path / "nothing") == 0


def permissions(path: Path) -> str:
    return f"{path.stat().st_mode & 0o7777:o}"


def test_study_files_are_private_to_their_owner(tmp_path: Path) -> None:
    dirs = StudyDirs(tmp_path / "runs", "studies.db")

    dirs.make()
    make(dirs, "s")

    assert permissions(dirs.root) == "700"
    assert permissions(dirs.root / "studies.db") == "600"
    assert permissions(dirs.study("s")) == "700"


def test_files_in_a_group_writable_folder_are_for_the_group_within_the_umask(tmp_path: Path) -> None:
    dirs = StudyDirs(tmp_path, "studies.db")
    dirs.root.chmod(0o2770)
    os.umask(0o007)

    dirs.make()
    make(dirs, "s")

    assert permissions(dirs.root) == "2770"
    assert permissions(dirs.root / "studies.db") == "660"
    assert permissions(dirs.study("s")) in ("770", "2770")  # 2770 if the system passes on setgid


def test_the_folder_of_a_study_without_a_database_file_is_private(tmp_path: Path) -> None:
    dirs = StudyDirs(tmp_path / "runs")

    dirs.make()
    make(dirs, "s")

    assert [path.name for path in dirs.root.iterdir()] == ["s"]
    assert permissions(dirs.root) == "700"


def test_existing_files_keep_their_permissions_and_their_content(tmp_path: Path) -> None:
    dirs = StudyDirs(tmp_path, "studies.db")
    (dirs.root / "studies.db").write_text("mine")
    (dirs.root / "studies.db").chmod(0o640)
    dirs.root.chmod(0o755)

    dirs.make()

    assert permissions(dirs.root) == "755"
    assert permissions(dirs.root / "studies.db") == "640"
    assert (dirs.root / "studies.db").read_text() == "mine"


def test_the_journal_of_a_private_database_is_private(tmp_path: Path) -> None:
    dirs = StudyDirs(tmp_path / "runs", "studies.db")
    dirs.make()

    connection = sqlite3.connect(dirs.root / "studies.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE t (x)")

    assert permissions(dirs.root / "studies.db-journal") == "600"
    connection.close()


def test_a_folder_that_cannot_be_created_raises_a_disk_error_that_names_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DiskError, match=r"cannot write to .*name another --storage"):
        StudyDirs(tmp_path / "file" / "runs", "studies.db").make()


def test_files_are_listed_for_all_studies_and_for_the_database(dirs: StudyDirs) -> None:
    make(dirs, "s")
    make(StudyDirs(dirs.root, "other.db"), "theirs")
    (dirs.root / "photos").mkdir()
    for name in ("studies.db", "studies.db-journal", "studies.db.before-v3.0.0.d", "studies.dbx", "photos/cat.jpg"):
        (dirs.root / name).write_text("12")
    (dirs.study("s") / "link").symlink_to(dirs.root / "photos")

    paths = {os.path.relpath(file.path, dirs.root) for file in dirs.files()}

    assert paths == {
        *("studies.db", "studies.db-journal", "studies.db.before-v3.0.0.d"),
        *("s/convsearch.lock", "s/trial-00000/step.ckpt"),
        *("theirs/convsearch.lock", "theirs/trial-00000/step.ckpt"),
    }


def test_a_file_that_is_removed_during_the_count_has_size_0(dirs: StudyDirs) -> None:
    make(dirs, "s")
    files_by_name = {file.name: file for file in dirs.files()}

    (dirs.trial("s", 0) / "step.ckpt").unlink()

    assert files.bytes_of(files_by_name["step.ckpt"]) == 0
    assert files.bytes_of(files_by_name["convsearch.lock"]) > 0


def test_checkpoints_are_listed_with_their_trial_and_whether_they_are_complete(dirs: StudyDirs) -> None:
    folder = make(dirs, "s")
    dirs.trial("s", 123456).mkdir()
    partial = dirs.trial("s", 123456) / "step.ckpt.part"
    for path in (partial, dirs.log("s", 0), folder / "stray.ckpt"):
        path.write_text("1")

    checkpoints = sorted(dirs.checkpoints("s"), key=lambda file: file.trial)

    assert checkpoints == [
        CheckpointFile(trial=0, path=dirs.trial("s", 0) / "step.ckpt"),
        CheckpointFile(trial=123456, path=partial),
    ]
    assert [file.is_half for file in checkpoints] == [False, True]
    assert list(dirs.checkpoints("none")) == []
