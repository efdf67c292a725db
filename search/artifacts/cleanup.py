"""Unused files. `convsearch clean` removes them, and a run removes those of its study when it begins."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from data.progress import Say
from search.artifacts import files, study_dir
from search.artifacts.remote_checkpoints import RemoteCheckpoints
from search.artifacts.remote_store import RemoteStoreError
from search.artifacts.study_dir import StudyDirs
from search.storage import queries, ranking
from search.storage.read_only import open_reader, read_transaction
from search.storage.records import is_verdict
from search.storage.tables import TRIALS

#: Number of best finished trials of a search that keep their last checkpoints for an export. The baseline keeps them
#: too, and so do all trials of a verdict and all complete trials of a search with several objectives.
KEEP_BEST = 3
#: States of trials that are never resumed. A failed trial can be resumed from its checkpoint (`--retry-failed`).
DONE = ("COMPLETE", "PRUNED")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusedFiles:
    """Unused files of one study."""

    name: str
    """Name of the study."""
    paths: tuple[Path, ...]
    """Paths of the files; empty if the study no longer exists and all its files are unused."""
    size: int
    """Total size in bytes."""


def clean(url: str, cache: Path, *, data: bool, say: Say) -> int:
    """Remove files of missing studies, half-written files, and checkpoints of finished trials except the best.

    Args:
        url: URL of the database.
        cache: folder of decoded images.
        data: also remove decoded images that no study of this database uses.
        say: receives a message for each removal.

    Returns:
        The number of bytes freed.
    """
    engine, dirs = open_reader(url), study_dir.of(url)
    freed = 0
    for unused in unused_files(dirs, engine):
        freed += unused.size
        if unused.paths:
            _unlink(unused.paths)
            say(f"removed {len(unused.paths)} files in {dirs.study(unused.name)}: {_reason(unused)}")
        else:
            dirs.remove(unused.name)
            say(f"removed the files in {dirs.study(unused.name)}: there is no such study")
    for path in _unused_images(cache, engine) if data else ():
        freed += files.size(path)
        shutil.rmtree(path)
        say(f"removed {path}: images that no study uses")
    return freed


def remove_leftovers(dirs: StudyDirs, engine: sa.Engine, name: str, remote: RemoteCheckpoints | None = None) -> int:
    """Remove leftovers of killed workers: half-written files, and checkpoints of trials that had just finished.

    Args:
        dirs: the home folder.
        engine: connection to the database.
        name: name of the study.
        remote: remote checkpoints, which are removed too.

    Returns:
        The number of bytes freed on this machine.
    """
    paths = leftovers(dirs, engine, name)
    freed = sum(map(files.size, paths))
    _unlink(paths)
    if remote is not None:
        with suppress(RemoteStoreError):  # `delete` removes them with the study
            remote.delete(_unneeded_trials(engine, name, _states(engine, name)))
    return freed


def reclaimable_bytes(url: str) -> int:
    """Return the number of bytes that `clean` would free without `data`."""
    return sum(unused.size for unused in unused_files(study_dir.of(url), open_reader(url)))


def unused_files(dirs: StudyDirs, engine: sa.Engine) -> Iterator[UnusedFiles]:
    """Iterate over the studies that have unused files.

    Args:
        dirs: the home folder.
        engine: connection to the database.
    """
    names = dirs.studies()  # read before the database: a folder is created after its study, and removed after it
    stored = {row.name for row in queries.studies(engine)}
    for name in names:
        if name not in stored:
            yield UnusedFiles(name=name, paths=(), size=dirs.size(name))
        elif paths := leftovers(dirs, engine, name):
            yield UnusedFiles(name=name, paths=paths, size=sum(map(files.size, paths)))


def leftovers(dirs: StudyDirs, engine: sa.Engine, name: str) -> tuple[Path, ...]:
    """Return abandoned half-written files of a study, and checkpoints that are no longer needed.

    The study may be running: a finished trial that is not among the best never joins them later.

    Args:
        dirs: the home folder.
        engine: connection to the database.
        name: name of the study.
    """
    checkpoints = tuple(dirs.checkpoints(name))  # read before the states: only running trials write files
    states = _states(engine, name)
    unneeded = _unneeded_trials(engine, name, states)
    idle = {file.trial for file in checkpoints if states.get(file.trial) != "RUNNING"}
    return tuple(file.path for file in checkpoints if file.trial in unneeded or (file.is_half and file.trial in idle))


def _unneeded_trials(engine: sa.Engine, name: str, states: Mapping[int, str]) -> set[int]:
    """Return the numbers of finished trials whose checkpoints are no longer needed."""
    if is_verdict(name):
        return set()
    leaders = ranking.best(engine, name, top=KEEP_BEST)
    is_multi_objective = len(leaders.study.directions) > 1
    best = (
        {number for number, state in states.items() if state == "COMPLETE"}
        if is_multi_objective
        else {trial.number for trial in leaders.trials}
    )
    return {number for number, state in states.items() if state in DONE} - best - {leaders.study.baseline}


def _states(engine: sa.Engine, name: str) -> dict[int, str]:
    with read_transaction(engine) as connection:
        study_id = queries.find_study(connection, name)
        rows = sa.select(TRIALS.c.number, TRIALS.c.state).where(TRIALS.c.study_id == study_id)
        return dict(connection.execute(rows).all())


def _reason(unused: UnusedFiles) -> str:
    """Describe why the files are not needed."""
    half_written = sum(path.name.endswith(study_dir.HALF) for path in unused.paths)
    reasons = {
        "half-written": half_written,
        f"of finished trials that are not among the best {KEEP_BEST}": len(unused.paths) - half_written,
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
