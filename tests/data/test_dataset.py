"""data/dataset.py, cache.py and parts.py: from [data] to tensors over a cache that many processes share."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.config import DataConfig
from data.dataset import find, prepare
from data.errors import DataError
from data.parts import concat, load_test, load_train

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


def quiet(line: str) -> None:
    pass


def the_set(cache: Path) -> Path:
    (meta,) = cache.glob("sets/*/meta.json")
    return meta.parent


def write_images(folder: Path, counts: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            Image.new("RGB", (8, 8), (40 * number, place, 0)).save(folder / name / f"{place:04}.png")
    return folder


def test_prepared_images_are_described(tmp_path: Path) -> None:
    info = prepare(SMALL, tmp_path, quiet)

    images = np.load(the_set(tmp_path) / "train.npy") / 255
    assert info.train_counts == (20,) * 10
    assert info.test_counts == (10,) * 10
    assert info.image_size == 8
    assert info.notes == ()
    assert info.mean == pytest.approx(images.mean(axis=(0, 1, 2)))
    assert info.std == pytest.approx(images.std(axis=(0, 1, 2)))
    assert find(SMALL, tmp_path) == the_set(tmp_path)


def test_preparing_again_says_and_writes_nothing(tmp_path: Path) -> None:
    first = prepare(SMALL, tmp_path, quiet)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    said: list[str] = []

    again = prepare(SMALL, tmp_path, said.append)

    assert again == first
    assert said == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_fingerprint_is_of_the_content_and_not_of_the_split(tmp_path: Path) -> None:
    prints = [
        prepare(SMALL.model_copy(update=change), tmp_path, quiet).fingerprint
        for change in ({}, {"validation": 0.2}, {"seed": 1}, {"image_size": 9})
    ]

    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_search_gets_train_and_validation_images_that_share_one_map(tmp_path: Path) -> None:
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


def test_a_search_does_without_the_test_images_and_only_the_verdict_misses_them(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)
    assert len(load_test(SMALL, tmp_path)) == 100
    (the_set(tmp_path) / "test.npy").unlink()

    prepare(SMALL, tmp_path, quiet)
    data = load_train(SMALL, tmp_path)

    assert len(data.train) == 150
    with pytest.raises(DataError, match=r"test\.npy is missing or damaged; delete .* and run the study again"):
        load_test(SMALL, tmp_path)


def test_what_was_not_prepared_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shapes has not been prepared in .*; run the study again"):
        load_train(SMALL, tmp_path)


@pytest.mark.parametrize("name", ["train.npy", "train_labels.npy", "test.npy", "meta.json"])
@pytest.mark.parametrize("keep", [0, 100], ids=["emptied", "cut"])
def test_a_damaged_cache_is_noticed_and_made_anew(tmp_path: Path, name: str, keep: int) -> None:
    first = prepare(SMALL, tmp_path, quiet)
    path = the_set(tmp_path) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])

    with pytest.raises(DataError, match="run the study again"):
        load_train(SMALL, tmp_path)
    again = prepare(SMALL, tmp_path, quiet)

    assert again == first
    assert path.read_bytes() == whole
    assert [entry.name for entry in (tmp_path / "sets").iterdir() if entry.name.startswith(".")] == []


def test_a_cache_of_another_schema_is_made_anew(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)
    path = the_set(tmp_path) / "meta.json"
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
    assert sum("preparing 3600 images" in talk for _, talk in answers) == 1
    assert len(list(tmp_path.glob("sets/*/"))) == 1


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.3])
def test_a_kill_while_preparing_leaves_no_half_set(tmp_path: Path, delay_s: float) -> None:
    config = SMALL.model_copy(update={"train_images": 20000, "image_size": 8})
    process = start(config, tmp_path)
    assert process.stderr is not None
    process.stderr.readline()  # it has begun to draw
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = list(tmp_path.glob("sets/.*"))

    with pytest.raises(DataError, match="not been prepared"):
        load_train(config, tmp_path)
    # What is prepared next is smaller only so that the test is quick; the leftovers of its own set are what it removes.
    (again,) = left
    again.rename(again.with_name(f".{the_key(SMALL, tmp_path)}-x"))
    prepare(SMALL, tmp_path, quiet)

    assert list(tmp_path.glob("sets/.*")) == []


def the_key(config: DataConfig, cache: Path) -> str:
    prepare(config, cache / "other", quiet)
    return the_set(cache / "other").name


def test_an_unbalanced_folder_is_said_to_be_so(tmp_path: Path) -> None:
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


def test_train_images_takes_a_part_of_every_class_and_validation_a_part_of_these(tmp_path: Path) -> None:
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
    whole, part = load_train(SMALL, tmp_path), load_train(some, tmp_path)

    assert infos[0] == infos[1]
    assert part.train.labels[part.train.indices].bincount().tolist() == [6] * 10
    assert set(part.train.indices.tolist()) < set(whole.train.indices.tolist())
    assert part.validation.indices.equal(whole.validation.indices)
    assert len(load_train(SMALL.model_copy(update={"search_images": 1000}), tmp_path).train) == len(whole.train)


def test_a_search_may_see_smaller_images_of_the_same_rows(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"image_size": 32})
    prepare(config, tmp_path, quiet)

    whole = load_train(config, tmp_path)
    seen = load_train(config.model_copy(update={"search_size": 8}), tmp_path)

    assert (whole.info.image_size, seen.info.image_size) == (32, 8)
    for large, part in ((whole.train, seen.train), (whole.validation, seen.validation)):
        assert (part.images.shape, part.images.dtype) == ((len(large), 8, 8, 3), torch.uint8)
        assert part.labels.equal(large.labels[large.indices])
        means = large.images[large.indices].float().view(-1, 8, 4, 8, 4, 3).mean(dim=(2, 4))
        assert (part.images.float() - means).abs().mean() < 12  # a wider filter than the mean, but the same pictures


def test_a_search_size_that_is_not_smaller_is_refused() -> None:
    with pytest.raises(ValueError, match=r"search_size must be less than image_size \(32\), but got 32; leave it out"):
        DataConfig(search_size=32)


@pytest.mark.parametrize("key", ["validation", "search_images"])
def test_a_split_that_cannot_be_is_refused_when_preparing(tmp_path: Path, key: str) -> None:
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


def test_a_part_can_be_cut_down_to_its_own_rows(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)
    part = load_train(SMALL, tmp_path).validation

    own = part.own()

    assert own.images.shape == (50, 8, 8, 3)
    assert torch.equal(own.images[own.indices], part.images[part.indices])
    assert torch.equal(own.labels[own.indices], part.labels[part.indices])
    assert part.to("cpu") is part


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "no-terminal"])
def test_a_bar_is_drawn_on_a_terminal_and_no_escape_codes_elsewhere(tmp_path: Path, is_terminal: bool) -> None:
    reader, writer = os.openpty() if is_terminal else os.pipe()
    command = [sys.executable, "-c", PREPARE, str(tmp_path), SMALL.model_dump_json()]
    environment = {**os.environ, "TERM": "xterm"}

    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=writer, env=environment, check=True)
    os.close(writer)
    talk = os.read(reader, 1_000_000).decode()
    os.close(reader)

    assert "preparing 300 images of shapes" in talk
    assert ("300/300" in talk) == is_terminal
    assert ("\x1b" in talk) == is_terminal


def test_preparing_does_not_load_torch(tmp_path: Path) -> None:
    code = PREPARE + "sys.exit('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), SMALL.model_dump_json()], check=False)

    assert done.returncode == 0


@NEEDS_REAL
def test_the_real_images_are_prepared_whole_and_found_again(tmp_path: Path) -> None:
    config = DataConfig(source="folder", path=REAL, validation=5000)

    info = prepare(config, tmp_path, quiet)
    data = load_train(config, tmp_path)

    assert info.train_counts == (5000,) * 10
    assert info.test_counts == (500,) * 10
    assert info.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.005)  # as published of the original images
    assert (len(data.train), len(data.validation), len(load_test(config, tmp_path))) == (45000, 5000, 5000)


def test_two_parts_are_one_together_without_a_copy(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path, quiet)
    data = load_train(SMALL, tmp_path)

    whole = concat(data.train, data.validation)

    assert whole.indices.tolist() == [*data.train.indices.tolist(), *data.validation.indices.tolist()]
    assert whole.images.data_ptr() == data.train.images.data_ptr() == data.validation.images.data_ptr()
    assert sorted(whole.labels[whole.indices].tolist()) == sorted(whole.labels.tolist())
