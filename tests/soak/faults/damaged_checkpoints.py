"""Damaged checkpoints: each is refused with a message that names it, and the previous one is loaded."""

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from search.artifacts import checkpoint
from search.artifacts.checkpoint import CorruptCheckpoint
from search.storage.rdb import Storage
from search.study import stored_study
from tests.harness import Harness, Tables
from tests.soak import processes, results
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace

#: Three trials, whose last two checkpoints are kept, with every kind of training state.
STUDY: Tables = {
    "budget": {"trials": 3, "epochs": 2, "steps_per_epoch": 2},
    "space": {"ema": 0.9, "scheduler": "plateau", "optimizer": ["adam", "sgd"]},
}
PAGE = 4096
DAMAGES_PER_CASE = 50

Damage = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for position in rng.sample(range(len(content)), rng.randint(1, 8)):
        damaged[position] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def zero_a_page(content: bytes, rng: random.Random) -> bytes:
    """A page that was never written, as after a power cut."""
    start = rng.randrange(0, len(content), PAGE)
    return content[:start] + bytes(len(content[start : start + PAGE])) + content[start + PAGE :]


def append(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randint(1, PAGE))


DAMAGES: Mapping[str, Damage] = {"bits flipped": flip, "cut": cut, "page zeroed": zero_a_page, "bytes appended": append}
SWAPPED = "file of another"


@dataclass(frozen=True, slots=True)
class Folder:
    """The checkpoints of one trial, and intact ones of other trials and studies."""

    path: Path
    uid: str
    trial: int
    others: tuple[Path, ...]


def checkpoints(workspace: Workspace) -> FaultResult:
    harness = workspace.harness("checkpoints")
    folders = _folders(harness)
    cases = range(max(1, workspace.count(1000) // DAMAGES_PER_CASE))
    reports = workspace.run_cases("checkpoint", partial(_damage_some, folders), cases)
    return results.total("a checkpoint is damaged", reports)


def _folders(harness: Harness) -> list[Folder]:
    """Run two studies of three trials each; one folder for each trial."""
    for name in ("one", "other"):
        worker = processes.work(harness, harness.create(name, **STUDY))
        assert worker.end() == 0, worker.said
    files_of = {
        (name, n): sorted(harness.dirs.trial(name, n).glob("*.ckpt")) for name in ("one", "other") for n in range(3)
    }
    uid = {name: stored_study.load(Storage(harness.url), name).uid for name in ("one", "other")}
    return [
        Folder(files[0].parent, uid[name], n, tuple(p for key, ps in files_of.items() if key != (name, n) for p in ps))
        for (name, n), files in files_of.items()
    ]


def _damage_some(folders: list[Folder], case: Case) -> None:
    for _ in range(DAMAGES_PER_CASE):
        folder = case.rng.choice(folders)
        kind = case.rng.choice([*DAMAGES, SWAPPED])
        copy = case.harness.folder / "trial-00000"
        shutil.copytree(folder.path, copy)
        before, newest = sorted(copy.glob("*.ckpt"))
        expected = checkpoint.load(before)[0]
        if kind == SWAPPED:
            shutil.copy(case.rng.choice(folder.others), newest)
        else:
            newest.write_bytes(_damaged(newest.read_bytes(), DAMAGES[kind], case.rng))
        case.injected += 1
        case.facts[kind] += 1
        _is_refused(newest, is_intact=kind == SWAPPED)
        loaded = checkpoint.latest(copy, study=folder.uid, trial=folder.trial)
        assert loaded is not None, "the previous checkpoint was not loaded"
        assert loaded[0] == expected, f"{loaded[0]} was loaded, and not {expected}"
        case.survived += 1
        shutil.rmtree(copy)


def _damaged(content: bytes, damage: Damage, rng: random.Random) -> bytes:
    """Apply `damage` until it changes `content`; a page may be zero already."""
    while (damaged := damage(content, rng)) == content:
        continue
    return damaged


def _is_refused(path: Path, *, is_intact: bool) -> None:
    """Check that a damaged file is refused, and that the intact file of another trial can be loaded."""
    refusal = _refusal(path)
    assert (refusal is None) == is_intact, f"an intact file was refused: {refusal}" if is_intact else "it was loaded"
    assert refusal is None or path.name in refusal, f"the message does not name the file: {refusal}"


def _refusal(path: Path) -> str | None:
    try:
        checkpoint.load(path)
    except CorruptCheckpoint as error:
        return str(error)
    return None
