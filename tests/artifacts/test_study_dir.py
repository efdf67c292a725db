"""Where files lie, whose they are, who may read them, and who holds the lock of a study."""

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
    """The umask of most systems; permissions are judged under it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def place(tmp_path: Path) -> StudyDirs:
    return StudyDirs(tmp_path, "studies.db")


def make(place: StudyDirs, name: str) -> Path:
    """The folder of a study that has been run, with a trial in it."""
    with place.running(name):
        place.trial(name, 0).mkdir()
    (place.trial(name, 0) / "step.ckpt").write_bytes(b"1234")
    return place.study(name)


def test_files_lie_beside_the_database_under_the_names_of_study_and_trial(tmp_path: Path) -> None:
    place = study_dir.of(f"sqlite:///{tmp_path / 'other.db'}")

    assert place == StudyDirs(tmp_path, "other.db")
    assert place.trial("s", 12) == tmp_path / "s" / "trial-00012"
    assert place.log("s", 123456) == tmp_path / "s" / "trial-123456" / "log.txt"


def test_without_a_file_the_home_is_runs_in_the_working_folder() -> None:
    assert study_dir.of("postgresql://user@host/db").root == Path("runs").absolute()


@pytest.mark.parametrize("name", ["", ".", "..", ".s", "-s", "a/b", "../a", "a b", "a\nb", "s" * 65, "é", "a\\b"])
def test_a_name_that_is_no_plain_file_name_is_refused(place: StudyDirs, name: str) -> None:
    with pytest.raises(UsageError, match="a study's name is up to 64 letters, digits"):
        place.study(name)


@pytest.mark.parametrize("name", ["s", "9", "cifar10.again-12", "A_b-c.d", "s" * 64])
def test_a_plain_name_is_taken_as_it_is(place: StudyDirs, name: str) -> None:
    assert place.study(name) == place.root / name


def test_a_study_is_run_by_one_launcher_which_is_named_to_others(place: StudyDirs) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(place.root)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        process.stdout.readline()

        with (
            pytest.raises(BusyError, match=f"process {process.pid} on this machine is already running the study 's'"),
            place.running("s"),
        ):
            pass

        process.kill()
    with place.running("s"):  # the system took the lock from the dead
        assert (place.study("s") / study_dir.LOCK).read_text().splitlines()[1] == "studies.db"


def test_other_studies_can_be_run_meanwhile(place: StudyDirs) -> None:
    with place.running("one"), place.running("other"):
        assert place.studies() == ("one", "other")


def test_a_home_that_cannot_be_written_is_a_disk_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(DiskError, match=r"cannot write to .*name another --storage"),
        StudyDirs(tmp_path / "file").running("s"),
    ):
        pass


def test_only_what_was_made_for_a_study_is_removed(place: StudyDirs) -> None:
    folder = make(place, "s")
    (folder / "notes.txt").write_text("mine")
    (folder / "trial-1").mkdir()

    freed = place.remove("s")

    assert freed == 4 + len(f"{os.getpid()}\nstudies.db\n")
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "trial-1"]


def test_the_folder_goes_with_the_last_file_and_removing_nothing_is_fine(place: StudyDirs) -> None:
    folder = make(place, "s")

    place.remove("s")

    assert not folder.exists()
    assert place.remove("s") == 0


def test_studies_are_known_by_their_lock_and_database(place: StudyDirs) -> None:
    make(place, "s")
    make(StudyDirs(place.root, "other.db"), "theirs")
    (place.root / "photos").mkdir()

    assert place.studies() == ("s",)


def test_a_lock_that_says_nothing_is_of_no_database(place: StudyDirs) -> None:
    folder = place.root / "odd"
    folder.mkdir(parents=True)
    (folder / study_dir.LOCK).write_bytes(b"\xff\xfe")

    assert place.studies() == ()


def test_the_size_of_a_folder_is_that_of_all_its_files(place: StudyDirs, tmp_path: Path) -> None:
    make(place, "s")

    assert files.size(place.trial("s", 0)) == 4
    assert files.size(tmp_path / "nothing") == 0


def permissions(path: Path) -> str:
    return f"{path.stat().st_mode & 0o7777:o}"


def test_what_is_made_for_a_study_is_for_its_owner_alone(tmp_path: Path) -> None:
    place = StudyDirs(tmp_path / "runs", "studies.db")

    place.make()
    make(place, "s")

    assert permissions(place.root) == "700"
    assert permissions(place.root / "studies.db") == "600"
    assert permissions(place.study("s")) == "700"


def test_in_a_home_that_a_group_may_write_to_it_is_for_that_group_as_far_as_the_umask_lets(tmp_path: Path) -> None:
    place = StudyDirs(tmp_path, "studies.db")
    place.root.chmod(0o2770)
    os.umask(0o007)

    place.make()
    make(place, "s")

    assert permissions(place.root) == "2770"
    assert permissions(place.root / "studies.db") == "660"
    assert permissions(place.study("s")) in ("770", "2770")  # the group is handed down where the system does that


def test_a_study_without_a_database_file_makes_its_home_for_its_owner_alone(tmp_path: Path) -> None:
    place = StudyDirs(tmp_path / "runs")

    place.make()
    make(place, "s")

    assert [path.name for path in place.root.iterdir()] == ["s"]
    assert permissions(place.root) == "700"


def test_what_is_there_already_keeps_its_permissions_and_its_content(tmp_path: Path) -> None:
    place = StudyDirs(tmp_path, "studies.db")
    (place.root / "studies.db").write_text("mine")
    (place.root / "studies.db").chmod(0o640)
    place.root.chmod(0o755)

    place.make()

    assert permissions(place.root) == "755"
    assert permissions(place.root / "studies.db") == "640"
    assert (place.root / "studies.db").read_text() == "mine"


def test_the_journal_of_a_private_database_is_private(tmp_path: Path) -> None:
    place = StudyDirs(tmp_path / "runs", "studies.db")
    place.make()

    connection = sqlite3.connect(place.root / "studies.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE t (x)")

    assert permissions(place.root / "studies.db-journal") == "600"
    connection.close()


def test_a_home_that_cannot_be_made_is_a_disk_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DiskError, match=r"cannot write to .*name another --storage"):
        StudyDirs(tmp_path / "file" / "runs", "studies.db").make()


def test_the_files_of_a_home_are_those_of_all_studies_and_of_its_database(place: StudyDirs) -> None:
    make(place, "s")
    make(StudyDirs(place.root, "other.db"), "theirs")
    (place.root / "photos").mkdir()
    for name in ("studies.db", "studies.db-journal", "studies.db.before-v3.0.0.d", "studies.dbx", "photos/cat.jpg"):
        (place.root / name).write_text("12")
    (place.study("s") / "link").symlink_to(place.root / "photos")

    found = {os.path.relpath(file.path, place.root) for file in place.files()}

    assert found == {
        *("studies.db", "studies.db-journal", "studies.db.before-v3.0.0.d"),
        *("s/convsearch.lock", "s/trial-00000/step.ckpt"),
        *("theirs/convsearch.lock", "theirs/trial-00000/step.ckpt"),
    }


def test_a_file_that_is_removed_while_it_is_counted_counts_nothing(place: StudyDirs) -> None:
    make(place, "s")
    found = {file.name: file for file in place.files()}

    (place.trial("s", 0) / "step.ckpt").unlink()

    assert files.bytes_of(found["step.ckpt"]) == 0
    assert files.bytes_of(found["convsearch.lock"]) > 0


def test_the_checkpoints_of_a_study_are_told_with_their_trials_and_whether_they_are_whole(place: StudyDirs) -> None:
    folder = make(place, "s")
    place.trial("s", 123456).mkdir()
    half = place.trial("s", 123456) / "step.ckpt.part"
    for path in (half, place.log("s", 0), folder / "stray.ckpt"):
        path.write_text("1")

    found = sorted(place.checkpoints("s"), key=lambda each: each.trial)

    assert found == [
        CheckpointFile(trial=0, path=place.trial("s", 0) / "step.ckpt"),
        CheckpointFile(trial=123456, path=half),
    ]
    assert [each.is_half for each in found] == [False, True]
    assert list(place.checkpoints("none")) == []
