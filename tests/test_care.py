"""`clean` removes what no study needs, and nothing else."""

import json
from pathlib import Path

import pytest

from search import care, home, lease, spec, study
from search.storage import Storage

DATA = {"fingerprint": "used", "classes": ["cat", "dog"]}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with the images of a study and those of none."""
    for fingerprint in ("used", "unused"):
        folder = tmp_path / "cache" / "sets" / fingerprint
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(json.dumps({"fingerprint": fingerprint}))
        (folder / "train.npy").write_bytes(b"0" * 1000)
    return tmp_path / "cache"


def add(url: str, name: str) -> Storage:
    """A study with the files of a trial, one of them half-written."""
    storage = Storage(url, create=True, token="me")
    wanted = spec.build({"budget": {"trials": 2, "epochs": 1}, "space": {"width": [8, 16]}})
    stored = study.open_or_create(storage, wanted, name=name, data=DATA)
    study.set_trials(storage, stored, 2)
    with home.of(url).running(name):
        folder = home.of(url).trial(name, 0)
        folder.mkdir()
    (folder / "step.ckpt").write_bytes(b"1234")
    (folder / "next.ckpt.part").write_bytes(b"12345")
    return storage


def clean(url: str, cache: Path, *, data: bool = False) -> tuple[int, list[str]]:
    said: list[str] = []
    return care.clean(url, cache, data=data, say=said.append), said


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_files_of_a_study_that_is_gone_are_removed_and_of_others_only_half_written_ones(
    url: str, cache: Path
) -> None:
    add(url, "kept")
    storage = add(url, "gone")
    storage.delete_study(storage.get_study_id_from_name("gone"))
    root = home.of(url).root
    (root / "photos").mkdir()
    (root / "photos" / "trial-00000").write_text("mine")

    freed, said = clean(url, cache)

    assert files(root) == {
        *("studies.db", "photos/trial-00000", "kept/convsearch.lock", "kept/trial-00000/step.ckpt"),
    }
    assert freed > 4 + 5 + 5
    assert len(said) == 2
    assert said[0].endswith("gone: there is no such study")
    assert said[1].endswith("next.ckpt.part: half-written")


def test_what_belongs_to_another_database_in_the_same_folder_stays(url: str, cache: Path) -> None:
    add(url, "ours")
    add(url.replace("studies.db", "other.db"), "theirs")
    before = files(home.of(url).root / "theirs")

    clean(url, cache)

    assert files(home.of(url).root / "theirs") == before


def test_what_a_running_study_is_writing_stays(url: str, cache: Path) -> None:
    storage = add(url, "s")
    lease.claim(storage, storage.get_study_id_from_name("s"), lease.this_process("me"))

    freed, said = clean(url, cache)

    assert (freed, said) == (0, [])
    assert (home.of(url).trial("s", 0) / "next.ckpt.part").exists()


def test_images_that_no_study_uses_are_removed_only_when_asked_for(url: str, cache: Path) -> None:
    add(url, "s")
    clean(url, cache)
    before = files(cache)

    freed, said = clean(url, cache, data=True)

    assert len(before) == 4
    assert files(cache) == {"sets/used/meta.json", "sets/used/train.npy"}
    assert freed > 1000
    assert said[0].endswith("unused: images that no study uses")


def test_a_second_time_there_is_nothing_to_remove(url: str, cache: Path) -> None:
    add(url, "s")
    clean(url, cache, data=True)

    assert clean(url, cache, data=True) == (0, [])
