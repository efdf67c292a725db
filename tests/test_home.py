"""Where files lie, whose they are, and who holds the lock of a study."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search import home
from search.errors import BusyError, DiskError, UsageError
from search.home import Home

HOLD = """
import sys, time
from pathlib import Path
from search.home import Home
with Home(Path(sys.argv[1]), "studies.db").running("s"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path) -> Home:
    return Home(tmp_path, "studies.db")


def make(place: Home, name: str) -> Path:
    """The folder of a study that has been run, with a trial in it."""
    with place.running(name):
        place.trial(name, 0).mkdir()
    (place.trial(name, 0) / "step.ckpt").write_bytes(b"1234")
    return place.study(name)


def test_files_lie_beside_the_database_under_the_names_of_study_and_trial(tmp_path: Path) -> None:
    place = home.of(f"sqlite:///{tmp_path / 'other.db'}")

    assert place == Home(tmp_path, "other.db")
    assert place.trial("s", 12) == tmp_path / "s" / "trial-00012"
    assert place.log("s", 123456) == tmp_path / "s" / "trial-123456" / "log.txt"


def test_without_a_file_the_home_is_runs_in_the_working_folder() -> None:
    assert home.of("postgresql://user@host/db").root == Path("runs").absolute()


@pytest.mark.parametrize("name", ["", ".", "..", ".s", "-s", "a/b", "../a", "a b", "a\nb", "s" * 65, "é", "a\\b"])
def test_a_name_that_is_no_plain_file_name_is_refused(place: Home, name: str) -> None:
    with pytest.raises(UsageError, match="a study's name is up to 64 letters, digits"):
        place.study(name)


@pytest.mark.parametrize("name", ["s", "9", "cifar10.again-12", "A_b-c.d", "s" * 64])
def test_a_plain_name_is_taken_as_it_is(place: Home, name: str) -> None:
    assert place.study(name) == place.root / name


def test_a_study_is_run_by_one_launcher_which_is_named_to_others(place: Home) -> None:
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
        assert (place.study("s") / home.LOCK).read_text().splitlines()[1] == "studies.db"


def test_other_studies_can_be_run_meanwhile(place: Home) -> None:
    with place.running("one"), place.running("other"):
        assert place.studies() == ("one", "other")


def test_a_home_that_cannot_be_written_is_a_disk_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(DiskError, match=r"cannot write to .*name another --storage"),
        Home(tmp_path / "file").running("s"),
    ):
        pass


def test_only_what_was_made_for_a_study_is_removed(place: Home) -> None:
    folder = make(place, "s")
    (folder / "notes.txt").write_text("mine")
    (folder / "trial-1").mkdir()

    freed = place.remove("s")

    assert freed == 4 + len(f"{os.getpid()}\nstudies.db\n")
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "trial-1"]


def test_the_folder_goes_with_the_last_file_and_removing_nothing_is_fine(place: Home) -> None:
    folder = make(place, "s")

    place.remove("s")

    assert not folder.exists()
    assert place.remove("s") == 0


def test_studies_are_known_by_their_lock_and_database(place: Home) -> None:
    make(place, "s")
    make(Home(place.root, "other.db"), "theirs")
    (place.root / "photos").mkdir()

    assert place.studies() == ("s",)


def test_the_size_of_a_folder_is_that_of_all_its_files(place: Home, tmp_path: Path) -> None:
    make(place, "s")

    assert home.size(place.trial("s", 0)) == 4
    assert home.size(tmp_path / "nothing") == 0
