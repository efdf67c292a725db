"""Damaged checkpoints: each is refused, in the same words, and the one before it is taken."""

import random
import shutil
import time
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

#: Three trials, whose last two checkpoints are kept, with all that a training can consist of.
STUDY: Tables = {
    "budget": {"trials": 3, "epochs": 2, "steps_per_epoch": 2},
    "space": {"ema": 0.9, "scheduler": "plateau", "optimizer": ["adam", "sgd"]},
}
PAGE = 4096
DAMAGES_OF_A_CASE = 50

Damage = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(content)
    for place in dice.sample(range(len(content)), dice.randint(1, 8)):
        damaged[place] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def cut(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content))]


def zero_a_page(content: bytes, dice: random.Random) -> bytes:
    """A page that was never written, as after a power cut."""
    start = dice.randrange(0, len(content), PAGE)
    return content[:start] + bytes(len(content[start : start + PAGE])) + content[start + PAGE :]


def append(content: bytes, dice: random.Random) -> bytes:
    return content + dice.randbytes(dice.randint(1, PAGE))


DAMAGES: Mapping[str, Damage] = {"bits flipped": flip, "cut": cut, "page zeroed": zero_a_page, "bytes appended": append}
SWAPPED = "file of another"


@dataclass(frozen=True, slots=True)
class Folder:
    """The checkpoints of one trial, and a whole one of another trial or study."""

    folder: Path
    uid: str
    trial: int
    strangers: tuple[Path, ...]


def checkpoints(workspace: Workspace) -> FaultResult:
    began = time.monotonic()
    harness = workspace.harness("checkpoints")
    folders = _folders(harness)
    cases = range(max(1, workspace.count(1000) // DAMAGES_OF_A_CASE))
    reports = workspace.each("checkpoint", partial(_damage_some, folders), cases)
    return results.total("a checkpoint is damaged", reports, seconds=time.monotonic() - began)


def _folders(harness: Harness) -> list[Folder]:
    """Of two studies of three trials each."""
    for name in ("one", "other"):
        worker = processes.work(harness, harness.create(name, **STUDY))
        assert worker.end() == 0, worker.said
    whole = {
        (name, n): sorted(harness.dirs.trial(name, n).glob("*.ckpt")) for name in ("one", "other") for n in range(3)
    }
    uid = {name: stored_study.load(Storage(harness.url), name).uid for name in ("one", "other")}
    return [
        Folder(files[0].parent, uid[name], n, tuple(p for key, ps in whole.items() if key != (name, n) for p in ps))
        for (name, n), files in whole.items()
    ]


def _damage_some(folders: list[Folder], case: Case) -> None:
    for _ in range(DAMAGES_OF_A_CASE):
        place = case.dice.choice(folders)
        kind = case.dice.choice([*DAMAGES, SWAPPED])
        copy = case.harness.folder / "trial-00000"
        shutil.copytree(place.folder, copy)
        before, newest = sorted(copy.glob("*.ckpt"))
        expected = checkpoint.load(before)[0]
        if kind == SWAPPED:
            shutil.copy(case.dice.choice(place.strangers), newest)
        else:
            newest.write_bytes(_damaged(newest.read_bytes(), DAMAGES[kind], case.dice))
        case.injected += 1
        case.facts[kind] += 1
        _is_refused(newest, is_whole=kind == SWAPPED)
        found = checkpoint.latest(copy, study=place.uid, trial=place.trial)
        assert found is not None, "the checkpoint before it was not taken"
        assert found[0] == expected, f"{found[0]} was taken, and not {expected}"
        case.survived += 1
        shutil.rmtree(copy)


def _damaged(content: bytes, damage: Damage, dice: random.Random) -> bytes:
    """`content` after `damage`, which must change it: a page may be zero already."""
    while (damaged := damage(content, dice)) == content:
        continue
    return damaged


def _is_refused(path: Path, *, is_whole: bool) -> None:
    """A damaged file is; the whole one of another trial is loaded, and then not taken for this trial's."""
    refusal = _refusal(path)
    assert (refusal is None) == is_whole, f"a whole file was refused: {refusal}" if is_whole else "it was loaded"
    assert refusal is None or path.name in refusal, f"the message does not name the file: {refusal}"


def _refusal(path: Path) -> str | None:
    try:
        checkpoint.load(path)
    except CorruptCheckpoint as error:
        return str(error)
    return None
