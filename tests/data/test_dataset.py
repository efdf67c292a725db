"""data/dataset.py, cache.py and parts.py: from [data] to tensors, through a cache that many processes share."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.config import DataConfig
from data.dataset import find, prepare
from data.errors import DataError
from data.parts import concat, load_test, load_train
from tests.harness import quiet, wait_until

SMALL = DataConfig(train_images=200, image_size=8, validation=50)
REAL = os.environ.get("CONVSEARCH_TEST_DATA", "")
NEEDS_REAL = pytest.mark.skipif(not REAL, reason="CONVSEARCH_TEST_DATA names no archive of the CIFAR-10 images as JPEG")

PREPARE = """
import sys
from pathlib import Path
from data.config import DataConfig
from data.dataset import prepare
config = DataConfig.model_validate_json(sys.argv[2])
print(prepare(config, Path(sys.argv[1]), lambda line: print(line, file=sys.stderr, flush=True)).fingerprint)
"""


def start(config: DataConfig, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARE, str(cache), config.model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def set_folder(cache: Path) -> Path:
    (meta,) = cache.glob("sets/*/meta.json")
    return meta.parent


def write_images(folder: Path, counts: dict[str, int]) -> Path:
    """Write images of one colour, which differs between parts, classes and images."""
    blue = 255 if folder.name == "test" else 0
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (40 * number, index, blue)).save(folder / name / f"{index:04}.png")
    return folder


def test_prepared_images_are_described(tmp_path: Path) -> None:
    info = prepare(SMALL, tmp_path, quiet)

    images = np.load(set_folder(tmp_path) / "train.npy") / 255
    assert info.train_counts == (20,) * 10
    assert info.test_counts == (10,) * 10
    assert info.image_size == 8
    assert info.notes == ()
    assert info.mean == pytest.approx(images.mean(axis=(0, 1, 2)))
    assert info.std == pytest.approx(images.std(axis=(0, 1, 2)))
    assert find(SMALL, tmp_path) == set_folder(tmp_path)


def test_preparing_again_prints_and_writes_nothing(tmp_path: Path) -> None:
    first = prepare(SMALL, tmp_path, quiet)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    lines: list[str] = []

    again = prepare(SMALL, tmp_path, lines.append)

    assert again == first
    assert lines == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_fingerprint_depends_on_the_content_and_not_on_the_split(tmp_path: Path) -> None:
    prints = [
        prepare(SMALL.model_copy(update=change), tmp_path, quiet).fingerprint
        for change in ({}, {"validation": 0.2}, {"seed": 1}, {"image_size": 9})
    ]

    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_search_gets_train_and_validation_images_that_share_one_memory_map(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)

    data = load_train(SMALL, tmp_path)

    assert data.train.images.shape == (200, 8, 8, 3)
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.data_ptr() == data.validation.images.data_ptr()
    assert (len(data.train), len(data.validation)) == (150, 50)
    rows = torch.cat([data.train.indices, data.validation.indices])
    assert rows.sort().values.tolist() == list(range(200))
    assert data.validation.labels[data.validation.indices].bincount().tolist() == [5] * 10


def test_writing_to_the_images_does_not_reach_the_cache(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)
    first = load_train(SMALL, tmp_path).train.images

    first.zero_()

    assert load_train(SMALL, tmp_path).train.images.any()


def test_a_search_needs_no_test_images_and_load_test_fails_without_them(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)
    assert len(load_test(SMALL, tmp_path)) == 100
    (set_folder(tmp_path) / "test.npy").unlink()

    prepare(SMALL, tmp_path, quiet)
    data = load_train(SMALL, tmp_path)

    assert len(data.train) == 150
    with pytest.raises(DataError, match=r"test\.npy is missing or damaged; delete .* and run the study again"):
        load_test(SMALL, tmp_path)


def test_images_that_were_not_prepared_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shapes has not been prepared in .*; run the study again"):
        load_train(SMALL, tmp_path)


@pytest.mark.parametrize("name", ["train.npy", "train_labels.npy", "test.npy", "meta.json"])
@pytest.mark.parametrize("keep", [0, 100], ids=["emptied", "cut"])
def test_a_damaged_cache_is_detected_and_prepared_again(tmp_path: Path, name: str, keep: int) -> None:
    first = prepare(SMALL, tmp_path, quiet)
    path = set_folder(tmp_path) / name
    content = path.read_bytes()
    path.write_bytes(content[:keep])

    with pytest.raises(DataError, match="run the study again"):
        load_train(SMALL, tmp_path)
    again = prepare(SMALL, tmp_path, quiet)

    assert again == first
    assert path.read_bytes() == content
    assert [entry.name for entry in (tmp_path / "sets").iterdir() if entry.name.startswith(".")] == []


def test_a_cache_of_another_schema_is_prepared_again(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)
    path = set_folder(tmp_path) / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "schema_number": 0}))

    prepare(SMALL, tmp_path, quiet)

    assert json.loads(path.read_text()) == meta


def test_several_processes_that_prepare_at_once_make_one_set(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"train_images": 3000})

    processes = [start(config, tmp_path) for _ in range(3)]
    answers = [process.communicate() for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert {fingerprint for fingerprint, _ in answers} == {f"{prepare(config, tmp_path, quiet).fingerprint}\n"}
    assert sum("preparing 3600 images" in output for _, output in answers) == 1
    assert len(list(tmp_path.glob("sets/*/"))) == 1


@pytest.mark.parametrize("row", [0, 5_000, 15_000])
def test_a_kill_while_preparing_leaves_no_incomplete_set(tmp_path: Path, row: int) -> None:
    config = SMALL.model_copy(update={"train_images": 20000, "image_size": 8})
    process = start(config, tmp_path)
    assert process.stderr is not None
    process.stderr.readline()  # drawing has started
    (part,) = tmp_path.glob("sets/.*/images")
    images = np.load(part, mmap_mode="r")
    wait_until(lambda: images[row].any(), look_s=0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    leftovers = list(tmp_path.glob("sets/.*"))

    with pytest.raises(DataError, match="not been prepared"):
        load_train(config, tmp_path)
    # The next set is smaller to keep the test fast; preparing it removes only the leftovers that have its name.
    (leftover,) = leftovers
    leftover.rename(leftover.with_name(f".{set_name(SMALL, tmp_path)}-x"))
    prepare(SMALL, tmp_path, quiet)

    assert list(tmp_path.glob("sets/.*")) == []


def set_name(config: DataConfig, cache: Path) -> str:
    prepare(config, cache / "other", quiet)
    return set_folder(cache / "other").name


def test_an_unbalanced_folder_is_noted(tmp_path: Path) -> None:
    write_images(tmp_path / "images/train", {"cat": 5, "dog": 16, "eel": 15})
    write_images(tmp_path / "images/test", {"cat": 1, "dog": 1, "eel": 1})
    config = DataConfig(source="folder", path=str(tmp_path / "images"), image_size=8)

    info = prepare(config, tmp_path / "cache", quiet)

    assert info.notes == ("unbalanced: 'cat' has 5 images, 'dog' 16; consider objective = \"balanced_accuracy\"",)


def test_three_to_one_is_still_balanced(tmp_path: Path) -> None:
    write_images(tmp_path / "images/train", {"cat": 5, "dog": 15})
    write_images(tmp_path / "images/test", {"cat": 1, "dog": 1})
    config = DataConfig(source="folder", path=str(tmp_path / "images"), image_size=8)

    assert prepare(config, tmp_path / "cache", quiet).notes == ()


def test_train_images_and_validation_take_a_share_of_every_class(tmp_path: Path) -> None:
    write_images(tmp_path / "images/train", {"cat": 40, "dog": 60})
    write_images(tmp_path / "images/test", {"cat": 1, "dog": 1})
    config = DataConfig(source="folder", path=str(tmp_path / "images"), image_size=8, train_images=20, validation=5)

    info = prepare(config, tmp_path / "cache", quiet)
    data = load_train(config, tmp_path / "cache")

    assert info.train_counts == (8, 12)
    assert data.validation.labels[data.validation.indices].bincount().tolist() == [2, 3]
    assert len(data.train) == 15
    assert not set(data.train.indices.tolist()) & set(data.validation.indices.tolist())


def test_a_search_sees_some_of_the_training_images_and_all_of_the_validation_images(tmp_path: Path) -> None:
    some = SMALL.model_copy(update={"search_images": 60})

    infos = [prepare(config, tmp_path, quiet) for config in (SMALL, some)]
    full, part = load_train(SMALL, tmp_path), load_train(some, tmp_path)

    assert infos[1] == replace(infos[0], train_count=60)
    assert part.train.labels[part.train.indices].bincount().tolist() == [6] * 10
    assert set(part.train.indices.tolist()) < set(full.train.indices.tolist())
    assert part.validation.indices.equal(full.validation.indices)
    assert len(load_train(SMALL.model_copy(update={"search_images": 1000}), tmp_path).train) == len(full.train)


def test_a_search_may_see_smaller_images_of_the_same_rows(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"image_size": 32})
    prepare(config, tmp_path, quiet)

    full = load_train(config, tmp_path)
    reduced = load_train(config.model_copy(update={"search_size": 8}), tmp_path)

    assert (full.info.image_size, reduced.info.image_size) == (32, 8)
    for large, part in ((full.train, reduced.train), (full.validation, reduced.validation)):
        assert (part.images.shape, part.images.dtype) == ((len(large), 8, 8, 3), torch.uint8)
        assert part.labels.equal(large.labels[large.indices])
        means = large.images[large.indices].float().view(-1, 8, 4, 8, 4, 3).mean(dim=(2, 4))
        assert (part.images.float() - means).abs().mean() < 12  # a wider filter than the mean, but the same images


def test_a_search_size_that_is_not_smaller_is_refused() -> None:
    with pytest.raises(ValueError, match=r"search_size must be less than image_size \(32\), but got 32; leave it out"):
        DataConfig(search_size=32)


@pytest.mark.parametrize("key", ["validation", "search_images"])
def test_an_impossible_split_is_refused_when_preparing(tmp_path: Path, key: str) -> None:
    config = SMALL.model_copy(update={key: 3})

    with pytest.raises(DataError, match=rf"\[data\] {key} must be at least 10 \(one image per class\), but got 3"):
        prepare(config, tmp_path, quiet)


def test_an_edited_folder_is_prepared_again_under_another_fingerprint(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images/train", {"cat": 20, "dog": 20})
    config = DataConfig(source="folder", path=str(tmp_path / "images"), image_size=8)
    first = prepare(config, tmp_path / "cache", quiet)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(images / "dog" / "0000.png")

    with pytest.raises(DataError, match="has changed since; run the study again"):
        load_train(config, tmp_path / "cache")
    second = prepare(config, tmp_path / "cache", quiet)

    assert second.fingerprint != first.fingerprint


def test_a_part_can_be_reduced_to_its_own_rows(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)
    part = load_train(SMALL, tmp_path).validation

    copy = part.own()

    assert copy.images.shape == (50, 8, 8, 3)
    assert torch.equal(copy.images[copy.indices], part.images[part.indices])
    assert torch.equal(copy.labels[copy.indices], part.labels[part.indices])
    assert part.to("cpu") is part


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "no-terminal"])
def test_a_bar_and_escape_codes_are_written_only_to_a_terminal(tmp_path: Path, is_terminal: bool) -> None:
    reader, writer = os.openpty() if is_terminal else os.pipe()
    command = [sys.executable, "-c", PREPARE, str(tmp_path), SMALL.model_dump_json()]
    environment = {**os.environ, "TERM": "xterm"}

    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=writer, env=environment, check=True)
    os.close(writer)
    output = os.read(reader, 1_000_000).decode()
    os.close(reader)

    assert "preparing 300 images of shapes" in output
    assert ("300/300" in output) == is_terminal
    assert ("\x1b" in output) == is_terminal


def test_preparing_does_not_load_torch(tmp_path: Path) -> None:
    code = PREPARE + "sys.exit('torch' in sys.modules)"

    result = subprocess.run([sys.executable, "-c", code, str(tmp_path), SMALL.model_dump_json()], check=False)

    assert result.returncode == 0


@NEEDS_REAL
def test_all_real_images_are_prepared_and_loaded(tmp_path: Path) -> None:
    config = DataConfig(source="folder", path=REAL, validation=5000)

    info = prepare(config, tmp_path, quiet)
    data = load_train(config, tmp_path)

    assert info.train_counts == (5000,) * 10
    assert info.test_counts == (500,) * 10
    assert info.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.005)  # as published for the original images
    assert (len(data.train), len(data.validation), len(load_test(config, tmp_path))) == (45000, 5000, 5000)


def test_two_parts_are_concatenated_without_a_copy(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)
    data = load_train(SMALL, tmp_path)

    joined = concat(data.train, data.validation)

    assert joined.indices.tolist() == [*data.train.indices.tolist(), *data.validation.indices.tolist()]
    assert joined.images.data_ptr() == data.train.images.data_ptr() == data.validation.images.data_ptr()
    assert sorted(joined.labels[joined.indices].tolist()) == sorted(joined.labels.tolist())
