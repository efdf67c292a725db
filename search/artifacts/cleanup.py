"""What nobody needs any more: `convsearch clean` removes it, and a run does so for its own study when it begins."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from data.progress import Say
from search.artifacts import study_dir
from search.artifacts.remote_checkpoints import RemoteCheckpoints
from search.artifacts.remote_store import RemoteStoreError
from search.artifacts.study_dir import StudyDirs
from search.storage import queries, ranking
from search.storage.read_only import open_reader, read_transaction
from search.storage.records import is_verdict
from search.storage.trial_loader import TRIALS

#: Finished trials of a search, the best ones, that keep their last checkpoints for an export, and so does the
#: baseline; so do all of a verdict, and all complete ones of a search with several objectives.
KEEP_BEST = 3
#: The trials of these states are never taken up again; a failed one can be, from its checkpoint (`--retry-failed`).
DONE = ("COMPLETE", "PRUNED")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusedFiles:
    """Files of one study that nobody needs."""

    name: str
    """Of the study."""
    paths: tuple[Path, ...]
    """Empty if the study is gone, and all its files are meant."""
    size: int
    """Bytes."""


def clean(url: str, cache: Path, *, data: bool, say: Say) -> int:
    """Remove the files of studies that are gone, half-written files, and the checkpoints of finished trials but for
    the best; with `data` also decoded images that no study of this database uses. Returns the bytes that this freed.
    """
    engine, files = open_reader(url), study_dir.of(url)
    freed = 0
    for each in unused_files(files, engine):
        freed += each.size
        if each.paths:
            _unlink(each.paths)
            say(f"removed {len(each.paths)} files in {files.study(each.name)}: {_needless(each)}")
        else:
            files.remove(each.name)
            say(f"removed the files in {files.study(each.name)}: there is no such study")
    for path in _unused_images(cache, engine) if data else ():
        freed += study_dir.size(path)
        shutil.rmtree(path)
        say(f"removed {path}: images that no study uses")
    return freed


def remove_leftovers(files: StudyDirs, engine: sa.Engine, name: str, far: RemoteCheckpoints | None = None) -> int:
    """Remove what a kill left of a study: half-written files, and checkpoints of trials that had just finished.

    `far`: where other copies of these lie. Returns the bytes freed here.
    """
    paths = leftovers(files, engine, name)
    freed = sum(map(study_dir.size, paths))
    _unlink(paths)
    if far is not None:
        with suppress(RemoteStoreError):  # they go with the study
            far.delete(_done(engine, name, _states(engine, name)))
    return freed


def reclaimable_bytes(url: str) -> int:
    """The bytes that `clean` would free."""
    return sum(each.size for each in unused_files(study_dir.of(url), open_reader(url)))


def unused_files(files: StudyDirs, engine: sa.Engine) -> Iterator[UnusedFiles]:
    """What nobody needs of each study, as far as there is something."""
    names = files.studies()  # before the studies: a folder is made after its study, and goes after it
    known = {row.name for row in queries.studies(engine)}
    for name in names:
        if name not in known:
            yield UnusedFiles(name=name, paths=(), size=files.size(name))
        elif paths := leftovers(files, engine, name):
            yield UnusedFiles(name=name, paths=paths, size=sum(map(study_dir.size, paths)))


def leftovers(files: StudyDirs, engine: sa.Engine, name: str) -> tuple[Path, ...]:
    """The half-written files of a study that nobody is writing, and the checkpoints that nobody will need.

    It may be running meanwhile: a trial that is done and not among the best will never be either.
    """
    found = tuple(files.checkpoints(name))  # before the states: a file that is being written belongs to a running trial
    states = _states(engine, name)
    done = _done(engine, name, states)
    idle = {each.trial for each in found if states.get(each.trial) != "RUNNING"}
    return tuple(each.path for each in found if each.trial in done or (each.is_half and each.trial in idle))


def _done(engine: sa.Engine, name: str, states: Mapping[int, str]) -> set[int]:
    """The numbers of finished trials whose checkpoints nobody will need."""
    if is_verdict(name):
        return set()
    shown = ranking.best(engine, name, top=KEEP_BEST)
    several = len(shown.study.directions) > 1
    best = (
        {number for number, state in states.items() if state == "COMPLETE"}
        if several
        else {t.number for t in shown.trials}
    )
    best |= {number for number in (shown.study.baseline,) if number is not None}
    return {number for number, state in states.items() if state in DONE} - best


def _states(engine: sa.Engine, name: str) -> dict[int, str]:
    with read_transaction(engine) as connection:
        study_id = queries.find_study(connection, name)
        rows = sa.select(TRIALS.c.number, TRIALS.c.state).where(TRIALS.c.study_id == study_id)
        return dict(connection.execute(rows).all())


def _needless(each: UnusedFiles) -> str:
    """Why the files are not needed."""
    halves = sum(path.name.endswith(study_dir.HALF) for path in each.paths)
    reasons = {
        "half-written": halves,
        f"of finished trials that are not among the best {KEEP_BEST}": len(each.paths) - halves,
    }
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)


def _unlink(paths: tuple[Path, ...]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _unused_images(cache: Path, engine: sa.Engine) -> Iterator[Path]:
    used = {row.data.get("fingerprint") for row in queries.studies(engine)}
    for meta in cache.glob("sets/*/meta.json"):
        if json.loads(meta.read_text()).get("fingerprint") not in used:
            yield meta.parent
