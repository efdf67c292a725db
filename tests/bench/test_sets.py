"""The benchmark on image sets: it finds them, runs its arms for real, records each run, goes on, compares errors."""

import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search.analysis import correctness
from search.analysis.test_results import unpack
from search.errors import UsageError
from search.process import start_time
from search.study import provenance
from tests.bench import expert, image_sets, set_arms, set_runs, set_table, sets
from tests.bench.image_sets import ImageSet
from tests.bench.measure import page
from tests.bench.set_arms import Arm, Job, RunFailedError
from tests.bench.set_runs import SetRun
from tests.harness import COLOURS, Harness, wait_until

#: Less than a process needs to load torch, so each part of the script takes its least time.
MINUTES = 0.02
#: Fields of a made-up run.
RUN: dict[str, Any] = {
    "digest": "d",
    "seconds": 180.0,
    "code": "c",
    "commit": "1234567",
    "machine": "2 cores",
    "versions": {"torch": "2.15.0"},
    "date": "2026-11-30 12:00:00",
}


def job(folder: Path, images: Path, *, seed: int = 1) -> Job:
    return Job(
        images=ImageSet(name="painted", path=images, digest="d"),
        minutes=MINUTES,
        seed=seed,
        folder=folder,
        unpacked=images,
    )


def finished(arm: Arm, wrong: np.ndarray[Any, Any], *, seed: int = 1, name: str = "s", **more: Any) -> SetRun:
    """A run with these wrong images."""
    right = len(wrong) - int(wrong.sum())
    bits = correctness.pack(~wrong, np.zeros(len(wrong), np.int64))
    fields: Mapping[str, Any] = RUN | {"minutes": 3.0} | more
    return SetRun(
        set=name, arm=arm, seed=seed, right=right, images=len(wrong), test=right / len(wrong), bits=bits, **fields
    )


def errors(count: int, *, of: int = 1000) -> np.ndarray[Any, Any]:
    """(images,) of which the first `count` are wrong."""
    return np.arange(of) < count


# -- runs ---------------------------------------------------------------------------------------------------------


def test_the_expert_script_reads_all_images_in_order_and_holds_some_of_each_class_out(images: Path) -> None:
    train, test, classes = expert.read(images)
    rows, held_out = expert.split(train.labels, classes, seed=0)

    assert (classes, train.images.shape, test.images.shape) == (4, (400, 8, 8, 3), (40, 8, 8, 3))
    assert test.labels.tolist() == [label for label in range(4) for _ in range(10)]
    colours = [test.images[test.labels == label].float().mean((0, 1, 2)).argmax().item() for label in (0, 1, 3)]
    assert colours == [2, 1, 0]  # blue, green, red
    assert train.labels[held_out].bincount().tolist() == [20] * 4
    assert sorted([*rows.tolist(), *held_out.tolist()]) == list(range(400))


def test_the_expert_script_crops_and_mirrors_every_image_by_itself() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    images = image.repeat(200, 1, 1, 1)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")[0, 0]
    windows = [padded[down : down + 8, right : right + 8] for down in range(3) for right in range(3)]

    changed = expert.augmented(images, {"crop": 1, "flip": True})[:, 0]

    expected = [*windows, *(window.flip(1) for window in windows)]
    found = {next(n for n, window in enumerate(expected) if torch.equal(window, seen)) for seen in changed}
    assert len(found) > len(expected) / 2
    assert torch.equal(expert.augmented(images, {"crop": 0, "flip": False}), images)


def test_a_benchmark_records_each_run_and_goes_on_where_it_ended(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_test = tmp_path / "empty"
    shutil.copytree(images / "train", without_test / "train")
    (without_test / "test" / "blue").mkdir(parents=True)
    results = tmp_path / "results.jsonl"
    words = ["--sets", str(without_test), str(images), "--arms", "expert", "--seeds", "1", "--minutes", str(MINUTES)]
    command = [*words, "--results", str(results)]

    assert sets.main([*command, "--runs", "1"]) == 0
    (first,) = set_runs.read(results)
    assert sets.main(command) == 0
    both = set_runs.read(results)
    assert sets.main(command) == 0

    assert set_runs.read(results) == both
    assert both[0] == first
    assert first.failure.startswith("exit 1:")
    assert first.test is None
    assert both[1].set == images.name
    assert both[1].test is not None
    assert both[1].test == (both[1].right or 0) / 40
    wrong = both[1].wrong()
    assert wrong is not None
    assert both[1].right == 40 - wrong.sum()
    assert both[1].trials is not None
    assert both[1].trials >= 1
    assert {"optimizer", "learning_rate", "width", "flip", "crop"} < set(both[1].configuration)
    printed = capsys.readouterr()
    assert "1 of 1: empty, expert, seed 1, 0.02 minutes: exit 1:" in printed.err
    assert f"| {images.name} " in printed.out
    assert "Runs that failed or were late" in printed.out


def test_a_run_is_done_only_with_the_same_code_and_a_failed_one_is_repeated_on_request(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    (images,) = image_sets.find([str(tmp_path)], None)
    plan = sets.Plan(sets=(images,), arms=("expert",), seeds=(1,))
    machine = provenance.hardware()
    run = finished("expert", errors(1), name=images.name, machine=machine, digest=images.digest)

    def missing(run: SetRun, plan: sets.Plan = plan, code: str = "c") -> int:
        return len(sets.missing_runs(plan, [run], {"expert": code}))

    assert missing(run) == 0
    assert missing(run, code="changed") == 1
    assert missing(replace(run, machine="another")) == 1
    assert missing(replace(run, failure="killed", test=None)) == 0
    assert missing(replace(run, failure="killed", test=None), replace(plan, retries=True)) == 1


def test_a_run_that_takes_much_too_long_is_killed_with_its_children(tmp_path: Path, images: Path) -> None:
    late = replace(job(tmp_path, images), began=time.monotonic() - 3600)
    code = "import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
    code += "open('pid', 'w').write(str(p.pid))\nwhile True: pass"

    with pytest.raises(RunFailedError, match=r"killed after 36\d\d s: too late"):
        set_arms.call([sys.executable, "-c", code], late)

    if (tmp_path / "pid").exists():  # on a busy machine it is killed before
        child = int((tmp_path / "pid").read_text())
        wait_until(lambda: start_time(child) is None)


def test_a_process_that_is_killed_is_a_failure_that_names_the_signal(tmp_path: Path, images: Path) -> None:
    with pytest.raises(RunFailedError, match="killed by SIGKILL"):
        set_arms.call([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], job(tmp_path, images))


def test_the_verdict_of_a_study_is_read_with_the_images_that_are_right(harness: Harness) -> None:
    study = harness.write(final={"epochs": 1}, budget={"trials": 1, "epochs": 1})
    assert harness.run("run", study, "--workers", "1").code == 0
    place = harness.folder / "home"

    outcome = set_arms.verdict(job(place, harness.images), 12.0)

    stored = harness.run("best", "s.final", "--json").json["trials"][0]
    assert (outcome.seconds, outcome.images, outcome.trials) == (12.0, 40, 1)
    assert outcome.right / outcome.images == stored["values"][0]
    assert outcome.epochs == stored["epochs"]
    assert unpack({"bits": outcome.bits, "images": 40}).sum() == outcome.right


def test_an_earlier_clone_runs_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "__init__.py").write_text("raise SystemExit('the code of the clone')")

    result = subprocess.run(
        [str(set_arms.command(tmp_path)), "studies"],
        env=set_arms.environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert "the code of the clone" in result.stderr


def test_a_clone_at_another_commit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no commit, not at {set_arms.BEFORE}"):
        set_arms.clone(tmp_path, tmp_path)


# -- image sets ---------------------------------------------------------------------------------------------------


def test_sets_are_found_by_name_or_path_and_archives_are_unpacked_once(tmp_path: Path, images: Path) -> None:
    data = tmp_path / "data"
    (data / "sets").mkdir(parents=True)
    with tarfile.open(data / "sets" / "painted.tar", "w") as archive:
        archive.add(images, "painted")
    shutil.copyfile(data / "sets" / "painted.tar", data / "more.tar")

    every = image_sets.find([], data)
    beside = image_sets.find([], data / "more.tar")
    (named,) = image_sets.find(["painted"], data)
    (folder,) = image_sets.find([str(images)], None)
    place = image_sets.unpacked(named, tmp_path)

    assert [images.name for images in every] == ["painted", "more"]
    assert beside == every
    assert image_sets.unpacked(folder, tmp_path) == images.resolve()
    assert sorted(path.name for path in (place / "train").iterdir()) == sorted(COLOURS)
    (place / "marked").touch()
    assert image_sets.unpacked(named, tmp_path) == place
    assert (place / "marked").exists()
    with pytest.raises(UsageError, match=r"there is no image set 'other'.* the names are painted, more"):
        image_sets.find(["other"], data)
    with pytest.raises(UsageError, match="name image sets by --sets PATH"):
        image_sets.find([], None)
    with pytest.raises(UsageError, match="must hold train/CLASS"):
        image_sets.unpacked(ImageSet(name="data", path=data, digest="d"), tmp_path)


def test_two_benchmarks_do_not_write_to_one_file(tmp_path: Path, images: Path) -> None:
    results = tmp_path / "results.jsonl"

    with set_runs.alone(results):
        code = sets.main(["--sets", str(images), "--arms", "expert", "--results", str(results)])

    assert code == 75
    assert not results.exists()


# -- the table ----------------------------------------------------------------------------------------------------


def test_the_ratio_of_errors_has_an_interval_over_seeds_and_images() -> None:
    rng = np.random.default_rng(0)
    theirs = (rng.random((3, 2000)) < 0.2).astype(float)
    ours = theirs * (rng.random((3, 2000)) < 0.5)

    ratio = set_table.error_ratio(ours, theirs)
    one_seed = set_table.error_ratio(ours[:1], theirs[:1])

    assert ratio is not None
    assert one_seed is not None
    assert ratio.value == pytest.approx(ours.sum() / theirs.sum())
    assert 0.3 < ratio.low < ratio.value < ratio.high < 0.7
    assert one_seed.low < one_seed.value < one_seed.high


def test_a_ratio_to_few_errors_is_unbounded_and_one_to_none_does_not_exist() -> None:
    few = np.stack([errors(1, of=50), errors(0, of=50)]).astype(float)

    ratio = set_table.error_ratio(np.stack([errors(5, of=50)] * 2).astype(float), few)

    assert str(ratio).startswith("10.00 (0.")
    assert str(ratio).endswith(" to unbounded, n = 2)")
    assert set_table.error_ratio(few, np.zeros((2, 50))) is None


def test_the_table_has_accuracies_by_seed_ratios_targets_and_failures() -> None:
    runs = [
        *(finished("expert", errors(200 + seed), seed=seed) for seed in (1, 2, 3)),
        *(finished("recipe", errors(110 + seed), seed=seed) for seed in (1, 2, 3)),
        *(finished("ours", errors(100 + seed), seed=seed, seconds=200.0) for seed in (1, 2, 3)),
        SetRun(set="s", arm="ours", seed=4, minutes=3.0, failure="exit 70: all failed", busy=0.5, **RUN),
        SetRun(set="s", arm="before", seed=1, minutes=3.0, failure="killed by SIGKILL: ", **RUN),
        *(finished("recipe", errors(10), seed=seed, name="easy") for seed in (1, 2, 3)),
        *(finished("ours", errors(30), seed=seed, name="easy") for seed in (1, 2, 3)),
        finished("expert", errors(900), seed=1),  # replaced by the next one
        finished("expert", errors(201), seed=1),
    ]

    text = page(set_table.result(runs), "python -m tests.bench sets")

    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    rows = {row[0]: row[1:] for row in cells}
    assert ["s", "1,000", "0.799 0.798 0.797", "0.889 0.888 0.887", "failed", "0.899* 0.898* 0.897* failed"] in [
        row[:6] for row in cells
    ]
    assert "not counted" in rows["easy"]
    assert rows["ours / expert, median"] == ["1", "0.50", "0.7", "met"]
    assert rows["ours / recipe, mean"] == ["1", "0.91", "1", "met"]
    assert ["s", "before", "1", "3", "180 s", "killed by SIGKILL:"] in cells
    assert ["s", "ours", "3", "3", "200 s", "late"] in cells
    assert rows["runs of ours without a tested network"] == ["2", "1", "0", "missed"]
    assert "Other work shared the machine before 1 run of 17 (up to 50% of its cores)" in text
    assert "ours: 7 runs, 190 s in the median, commit 1234567." in text


def test_results_are_kept_as_lines_and_unknown_keys_of_other_versions_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    run = finished("ours", errors(3), configuration={"width": 8})

    set_runs.add(file, run)
    set_runs.add(file, replace(run, seed=2))
    file.write_text(file.read_text() + json.dumps({**json.loads(file.read_text().splitlines()[0]), "later": 1}) + "\n")

    assert set_runs.read(file) == [run, replace(run, seed=2), run]
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_the_help_explains_the_options() -> None:
    text = sets.parser().format_help()

    assert all(option in text for option in ("--sets", "--minutes", "--seeds", "--arms", "--table", "--before"))
