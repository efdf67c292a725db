"""A run ends cleanly before its disk space is used up, and resumes when there is more."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.artifacts import disk_space, study_dir
from search.artifacts.disk_space import MIN_BYTES, DiskBudget, DiskUsage
from search.artifacts.study_dir import StudyDirs
from search.errors import DiskError
from tests.harness import CONVSEARCH, Harness

MB = 1_000_000
#: Ample space: 2 workers, 20 checkpoints of 1 MB, 100 GB free of 1 TB.
USAGE = DiskUsage(
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
    "budget": {"trials": 600, "epochs": 2},  # cannot finish before the first check after the start, on any machine
    "space": {"dense_layers": 2, "dense_units": 1024, "momentum": 0.9},
}


def disk_usage(**changes: Any) -> DiskUsage:
    return replace(USAGE, **changes)


@pytest.mark.parametrize(
    ("usage", "left", "is_capped"),
    [
        pytest.param(disk_usage(), 99_500 * MB, False, id="the disk but for the reserve"),
        pytest.param(disk_usage(free=100 * MB, total=200 * MB), 90 * MB, False, id="a small disk has a small reserve"),
        pytest.param(disk_usage(budget=100 * MB), 80 * MB, True, id="the rest of the budget"),
        pytest.param(
            disk_usage(budget=900_000 * MB), 99_500 * MB, False, id="the disk, where it has less than the budget"
        ),
        pytest.param(disk_usage(budget=10 * MB), -10 * MB, True, id="more is used than allowed"),
    ],
)
def test_the_space_left_is_the_smaller_of_disk_and_budget(usage: DiskUsage, left: int, is_capped: bool) -> None:
    assert (usage.left, usage.is_capped) == (left, is_capped)


@pytest.mark.parametrize(
    ("usage", "needed"),
    [
        pytest.param(disk_usage(checkpoints=0, largest=0), MIN_BYTES, id="before the first checkpoint"),
        pytest.param(disk_usage(), MIN_BYTES, id="small checkpoints"),
        pytest.param(disk_usage(largest=50 * MB), 6 * 50 * MB, id="three of each worker"),
        pytest.param(disk_usage(largest=50 * MB, checkpoints=2), (6 + 4) * 50 * MB, id="and those of the best to come"),
        pytest.param(disk_usage(largest=50 * MB, workers=8), 24 * 50 * MB, id="many workers"),
    ],
)
def test_the_space_needed_covers_all_writes_until_the_next_check(usage: DiskUsage, needed: int) -> None:
    assert usage.needed == needed


@pytest.mark.parametrize(
    ("usage", "is_tight", "is_full"),
    [
        pytest.param(disk_usage(), False, False, id="plenty"),
        pytest.param(disk_usage(budget=20 * MB + 3 * MIN_BYTES), False, False, id="three times the needed space"),
        pytest.param(disk_usage(budget=19 * MB + 3 * MIN_BYTES), True, False, id="less than that"),
        pytest.param(disk_usage(used=7_900 * MB, budget=10_000 * MB), False, False, id="79 % used"),
        pytest.param(disk_usage(used=8_000 * MB, budget=10_000 * MB), True, False, id="80 % used"),
        pytest.param(disk_usage(budget=20 * MB + MIN_BYTES), True, False, id="just enough"),
        pytest.param(disk_usage(budget=19 * MB + MIN_BYTES), True, True, id="not enough"),
        pytest.param(disk_usage(free=550 * MB), True, True, id="a disk that is full but for the reserve"),
    ],
)
def test_space_is_tight_before_it_is_full(usage: DiskUsage, is_tight: bool, is_full: bool) -> None:
    assert (usage.is_tight, usage.is_full) == (is_tight, is_full)


@pytest.mark.parametrize(
    "usage", [disk_usage(budget=MB), disk_usage(used=5_000 * MB, budget=MB), disk_usage(largest=900 * MB, budget=MB)]
)
def test_the_budget_that_a_message_suggests_is_enough(usage: DiskUsage) -> None:
    suggested = replace(usage, budget=int(usage.enough * 1e9), free=10**15, total=10**15)

    assert usage.is_full
    assert not suggested.is_tight


@pytest.fixture
def dirs(url: str) -> StudyDirs:
    """Folders with a study "s" of two checkpoints (3 and 4 MB), a study of another database, and photos."""
    dirs = study_dir.of(url)
    dirs.root.mkdir()
    for other, name in ((dirs, "s"), (dirs, "t"), (StudyDirs(dirs.root, "other.db"), "theirs")):
        with other.running(name):
            other.trial(name, 0).mkdir()
    sizes = {"s/trial-00000/1.ckpt": 3, "s/trial-00000/2.ckpt": 4, "s/trial-00000/3.ckpt.part": 5}
    sizes |= {"t/trial-00000/1.ckpt": 10, "theirs/trial-00000/1.ckpt": 20, "studies.db": 1, "photos.zip": 100}
    for name, size in sizes.items():
        with (dirs.root / name).open("wb") as stream:
            stream.truncate(size * MB)
    return dirs


def test_usage_counts_the_files_of_all_studies_and_the_checkpoints_of_its_own(dirs: StudyDirs, url: str) -> None:
    usage = DiskBudget(url=url, study="s", workers=3, budget=7).measure()

    assert usage.used // MB == 3 + 4 + 5 + 10 + 20 + 1
    assert (usage.checkpoints, usage.largest) == (2, 4 * MB)
    assert (usage.workers, usage.budget) == (3, 7)
    assert abs(usage.free - shutil.disk_usage(dirs.root).free) < 10_000 * MB


def test_a_missing_folder_uses_no_space(tmp_path: Path) -> None:
    usage = DiskBudget(url=f"sqlite:///{tmp_path}/a/b/studies.db", study="s", workers=1).measure()

    assert (usage.used, usage.checkpoints, usage.largest) == (0, 0, 0)
    assert usage.free > 0


def test_ample_space_gives_no_warning(dirs: StudyDirs, url: str) -> None:
    assert DiskBudget(url=url, study="s", workers=1, budget=1000 * MB).check() is None


def test_a_warning_names_the_usage_the_limit_and_the_remedies(dirs: StudyDirs, url: str) -> None:
    warning = DiskBudget(url=url, study="s", workers=1, budget=150 * MB).check()

    assert warning is not None
    assert warning.startswith(f"the disk: the studies in {dirs.root} use 43.0 MB of the 150.0 MB that --disk allows; ")
    assert "the run ends when fewer than 64.0 MB are left" in warning
    assert warning.endswith("make room (`convsearch delete STUDY` all that a study has) or allow more (--disk 0.3)")


def test_the_disk_error_names_the_figures_and_the_resume_command(dirs: StudyDirs, url: str) -> None:
    with pytest.raises(DiskError) as caught:
        DiskBudget(url=url, study="s", workers=5, budget=100 * MB).check()

    message = str(caught.value)
    assert "43.0 MB of the 100.0 MB that --disk allows, and a run of 5 workers may write 76.0 MB until" in message
    assert "nothing is lost" in message
    assert message.endswith("`convsearch resume s` goes on")


def test_a_warning_names_the_bytes_that_clean_frees(harness: Harness) -> None:
    harness.create("s")
    with harness.dirs.running("gone"):
        harness.dirs.trial("gone", 0).mkdir()
    (harness.dirs.trial("gone", 0) / "1.ckpt").write_bytes(b"0" * 12 * MB)

    warning = DiskBudget(url=harness.url, study="s", workers=1, budget=150 * MB).check()

    assert warning is not None
    assert "make room (`convsearch clean` frees 12.0 MB, `convsearch delete STUDY` all" in warning


# -- with real runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much"])
def test_an_invalid_disk_budget_is_refused(harness: Harness, value: str) -> None:
    answer = harness.run("run", harness.write(), f"--disk={value}")

    assert answer.code == 2
    assert "--disk" in answer.err


def test_a_start_without_disk_space_is_refused_before_any_training(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSEARCH_DISK", "0.05")
    answer = harness.run("run", harness.write(), "--workers", "1")

    assert answer.code == 74
    assert "of the 50.0 MB that --disk allows, and a run of 1 worker may write 64.0 MB" in answer.err
    assert harness.counts().begun == 0


def test_a_run_ends_before_its_budget_is_used_up_and_resumes_with_a_larger_one(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "CHECK_INTERVAL_S", 1.0)  # the run below on a full disk keeps to the true interval
    full = harness.run("run", harness.write(**BULKY), "--workers", "1", "--disk", "0.12")
    usage = DiskBudget(url=harness.url, study="s", workers=1).measure()
    done = [trial for trial in harness.trials() if trial.state == "COMPLETE"]
    resumed = harness.run("resume", "s", "--workers", "1", "--disk", "1", "--trials", "1")

    assert (full.code, resumed.code) == (74, 0)
    assert "the run ends when fewer than 64.0 MB are left" in full.err
    assert "of the 120.0 MB that --disk allows, and a run of 1 worker may write" in full.err
    assert "(--disk 0.3), then `convsearch resume s` goes on" in full.err
    assert usage.used < 120 * MB
    assert len(done) >= 3
    assert harness.trials()[: len(done)] == tuple(done)
    assert {trial.state for trial in harness.trials()} == {"COMPLETE"}
    assert {trial.crashes for trial in harness.trials()} == {()}
    assert not list(harness.dirs.root.rglob("*.part"))


#: Two runs on a tmpfs that lasts as long as the shell: other files use 215 of its 335 MB during the first run.
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


def test_a_run_ends_before_the_disk_is_full_and_resumes_with_more_space(harness: Harness) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let users mount a file system (unshare --user --mount)")
    disk = harness.folder / "disk"
    disk.mkdir()

    command = [*unshare, "sh", "-c", SMALL, str(CONVSEARCH), str(disk), harness.write(**BULKY), str(harness.cache)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    full, free, resumed, *rest = process.stdout.splitlines()
    (stored,) = json.loads("\n".join(rest))["studies"]

    assert (full, resumed) == ("74", "0"), process.stderr
    assert f"the disk of {disk} has" in process.stderr
    assert "of which 16.8 MB stay in reserve, and a run of 1 worker may write" in process.stderr
    assert 16_777_216 < int(free) < 16_777_216 + MIN_BYTES
    assert stored["counts"]["complete"] == stored["counts"]["budget"] >= 3
