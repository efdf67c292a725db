"""A run ends in good order before the room for its files is used up, and goes on when there is more."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.artifacts import study_dir
from search.artifacts.disk_space import MIN_BYTES, DiskBudget, DiskUsage
from search.artifacts.study_dir import StudyDirs
from search.errors import DiskError
from tests.harness import CONVSEARCH, Harness

MB = 1_000_000
#: Plenty of everything: 2 workers, 20 checkpoints of 1 MB, 100 GB free of 1 TB.
LOOK = DiskUsage(
    used=20 * MB,
    checkpoints=20,
    largest=MB,
    free=100_000 * MB,
    total=1_000_000 * MB,
    workers=2,
    budget=None,
)
#: Trials of about a second, each with two checkpoints of 9 MB. The best three and a worker have at most 81 MB.
BULKY: dict[str, Any] = {
    "budget": {"trials": 600, "epochs": 2},  # not done before the first look after the start, however fast
    "space": {"dense_layers": 2, "dense_units": 1024, "momentum": 0.9},
}


def look(**changes: Any) -> DiskUsage:
    return replace(LOOK, **changes)


@pytest.mark.parametrize(
    ("found", "left", "is_capped"),
    [
        pytest.param(look(), 99_500 * MB, False, id="the disk but for the reserve"),
        pytest.param(look(free=100 * MB, total=200 * MB), 90 * MB, False, id="a small disk has a small reserve"),
        pytest.param(look(budget=100 * MB), 80 * MB, True, id="what the budget leaves"),
        pytest.param(look(budget=900_000 * MB), 99_500 * MB, False, id="the disk, where it has less than the budget"),
        pytest.param(look(budget=10 * MB), -10 * MB, True, id="more is used than allowed"),
    ],
)
def test_what_is_left_is_the_smaller_of_disk_and_budget(found: DiskUsage, left: int, is_capped: bool) -> None:
    assert (found.left, found.is_capped) == (left, is_capped)


@pytest.mark.parametrize(
    ("found", "needed"),
    [
        pytest.param(look(checkpoints=0, largest=0), MIN_BYTES, id="before the first checkpoint"),
        pytest.param(look(), MIN_BYTES, id="small checkpoints"),
        pytest.param(look(largest=50 * MB), 6 * 50 * MB, id="three of each worker"),
        pytest.param(look(largest=50 * MB, checkpoints=2), (6 + 4) * 50 * MB, id="and those of the best to come"),
        pytest.param(look(largest=50 * MB, workers=8), 24 * 50 * MB, id="many workers"),
    ],
)
def test_what_is_needed_is_what_workers_may_write_until_the_next_look(found: DiskUsage, needed: int) -> None:
    assert found.needed == needed


@pytest.mark.parametrize(
    ("found", "is_tight", "is_full"),
    [
        pytest.param(look(), False, False, id="plenty"),
        pytest.param(look(budget=20 * MB + 3 * MIN_BYTES), False, False, id="three times what is needed"),
        pytest.param(look(budget=19 * MB + 3 * MIN_BYTES), True, False, id="less than that"),
        pytest.param(look(used=7_900 * MB, budget=10_000 * MB), False, False, id="79 % used"),
        pytest.param(look(used=8_000 * MB, budget=10_000 * MB), True, False, id="80 % used"),
        pytest.param(look(budget=20 * MB + MIN_BYTES), True, False, id="just enough"),
        pytest.param(look(budget=19 * MB + MIN_BYTES), True, True, id="not enough"),
        pytest.param(look(free=550 * MB), True, True, id="a disk that is full but for the reserve"),
    ],
)
def test_it_is_tight_before_it_is_full(found: DiskUsage, is_tight: bool, is_full: bool) -> None:
    assert (found.is_tight, found.is_full) == (is_tight, is_full)


@pytest.mark.parametrize(
    "found", [look(budget=MB), look(used=5_000 * MB, budget=MB), look(largest=900 * MB, budget=MB)]
)
def test_the_budget_that_a_message_names_is_enough(found: DiskUsage) -> None:
    asked = replace(found, budget=int(found.enough * 1e9), free=10**15, total=10**15)

    assert found.is_full
    assert not asked.is_tight


@pytest.fixture
def place(url: str) -> StudyDirs:
    """A home with a study "s" that has two checkpoints of 3 and 4 MB, a study of another database, and photographs."""
    place = study_dir.of(url)
    place.root.mkdir()
    for other, name in ((place, "s"), (place, "t"), (StudyDirs(place.root, "other.db"), "theirs")):
        with other.running(name):
            other.trial(name, 0).mkdir()
    sizes = {"s/trial-00000/1.ckpt": 3, "s/trial-00000/2.ckpt": 4, "s/trial-00000/3.ckpt.part": 5}
    sizes |= {"t/trial-00000/1.ckpt": 10, "theirs/trial-00000/1.ckpt": 20, "studies.db": 1, "photos.zip": 100}
    for name, size in sizes.items():
        with (place.root / name).open("wb") as stream:
            stream.truncate(size * MB)
    return place


def test_a_look_counts_what_studies_made_and_measures_the_checkpoints_of_its_own(place: StudyDirs, url: str) -> None:
    found = DiskBudget(url=url, study="s", workers=3, budget=7).look()

    assert found.used // MB == 3 + 4 + 5 + 10 + 20 + 1
    assert (found.checkpoints, found.largest) == (2, 4 * MB)
    assert (found.workers, found.budget) == (3, 7)
    assert abs(found.free - shutil.disk_usage(place.root).free) < 10_000 * MB


def test_a_home_that_does_not_exist_yet_uses_nothing(tmp_path: Path) -> None:
    found = DiskBudget(url=f"sqlite:///{tmp_path}/a/b/studies.db", study="s", workers=1).look()

    assert (found.used, found.checkpoints, found.largest) == (0, 0, 0)
    assert found.free > 0


def test_with_room_enough_nothing_is_said(place: StudyDirs, url: str) -> None:
    assert DiskBudget(url=url, study="s", workers=1, budget=1000 * MB).check() is None


def test_a_warning_names_what_is_used_the_limit_and_the_way_out(place: StudyDirs, url: str) -> None:
    warning = DiskBudget(url=url, study="s", workers=1, budget=150 * MB).check()

    assert warning is not None
    assert warning.startswith(f"the disk: the studies in {place.root} use 43.0 MB of the 150.0 MB that --disk allows; ")
    assert "the run ends when fewer than 64.0 MB are left" in warning
    assert warning.endswith("make room (`convsearch delete STUDY` all that a study has) or allow more (--disk 0.3)")


def test_without_room_the_error_names_the_figures_and_the_command_that_goes_on(place: StudyDirs, url: str) -> None:
    with pytest.raises(DiskError) as caught:
        DiskBudget(url=url, study="s", workers=5, budget=100 * MB).check()

    text = str(caught.value)
    assert "43.0 MB of the 100.0 MB that --disk allows, and a run of 5 workers may write 76.0 MB until" in text
    assert "nothing is lost" in text
    assert text.endswith("`convsearch resume s` goes on")


def test_a_message_says_what_clean_frees(harness: Harness) -> None:
    harness.create("s")
    with harness.dirs.running("gone"):
        harness.dirs.trial("gone", 0).mkdir()
    (harness.dirs.trial("gone", 0) / "1.ckpt").write_bytes(b"0" * 12 * MB)

    warning = DiskBudget(url=harness.url, study="s", workers=1, budget=150 * MB).check()

    assert warning is not None
    assert "make room (`convsearch clean` frees 12.0 MB, `convsearch delete STUDY` all" in warning


# -- with real runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much"])
def test_a_budget_that_is_no_number_of_gigabytes_is_refused(harness: Harness, value: str) -> None:
    answer = harness.run("run", harness.write(), f"--disk={value}")

    assert answer.code == 2
    assert "--disk" in answer.err


def test_a_start_without_room_is_refused_before_any_training(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSEARCH_DISK", "0.05")
    answer = harness.run("run", harness.write(), "--workers", "1")

    assert answer.code == 74
    assert "of the 50.0 MB that --disk allows, and a run of 1 worker may write 64.0 MB" in answer.err
    assert harness.trials() == ()


def test_a_run_ends_before_its_budget_is_used_up_and_goes_on_with_a_larger_one(harness: Harness) -> None:
    full = harness.run("run", harness.write(**BULKY), "--workers", "1", "--disk", "0.12")
    found = DiskBudget(url=harness.url, study="s", workers=1).look()
    done = [trial for trial in harness.trials() if trial.state == "COMPLETE"]
    whole = harness.run("resume", "s", "--workers", "1", "--disk", "1", "--trials", "1")

    assert (full.code, whole.code) == (74, 0)
    assert "the run ends when fewer than 64.0 MB are left" in full.err
    assert "of the 120.0 MB that --disk allows, and a run of 1 worker may write" in full.err
    assert "(--disk 0.3), then `convsearch resume s` goes on" in full.err
    assert found.used < 120 * MB
    assert len(done) >= 3
    assert harness.trials()[: len(done)] == tuple(done)
    assert {trial.state for trial in harness.trials()} == {"COMPLETE"}
    assert {trial.crashes for trial in harness.trials()} == {()}
    assert not list(harness.dirs.root.rglob("*.part"))


#: Two runs on a file system of their own, which is gone with the shell: of its 335 MB others use 215 during the first.
SMALL = """
mount -t tmpfs -o size=320m tmpfs "$1" || exit
head -c 215000000 /dev/zero > "$1/others"
export CONVSEARCH_STORAGE="sqlite:///$1/studies.db" CONVSEARCH_CACHE="$3"
"$0" run "$2" --workers 1 >&2
echo "$?"
df --output=avail --block-size=1 "$1" | tail -n 1
rm "$1/others"
"$0" resume s --workers 1 --trials 1 >&2
echo "$?"
"$0" studies --json
"""


def test_a_run_ends_before_the_disk_is_full_and_goes_on_when_there_is_room_again(harness: Harness) -> None:
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a disk of his own (unshare --user --mount)")
    disk = harness.folder / "disk"
    disk.mkdir()

    words = [*alone, "sh", "-c", SMALL, str(CONVSEARCH), str(disk), harness.write(**BULKY), str(harness.cache)]
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    full, free, whole, *rest = process.stdout.splitlines()
    (stored,) = json.loads("\n".join(rest))["studies"]

    assert (full, whole) == ("74", "0"), process.stderr
    assert f"the disk of {disk} has" in process.stderr
    assert "of which 16.8 MB stay in reserve, and a run of 1 worker may write" in process.stderr
    assert 16_777_216 < int(free) < 16_777_216 + MIN_BYTES
    assert stored["counts"]["complete"] == stored["counts"]["budget"] >= 3
