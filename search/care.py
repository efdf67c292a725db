"""`convsearch clean`: remove the files that no study needs any more."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from search import home, query
from search.home import Home
from search.reader import open_reader

Say = Callable[[str], None]


def clean(url: str, cache: Path, *, data: bool, say: Say) -> int:
    """Remove the files of studies that are gone and half-written files; with `data` also decoded images that no study
    of this database uses. Returns the bytes that this freed.
    """
    engine, files = open_reader(url), home.of(url)
    known = {row.name for row in query.studies(engine)}
    freed = 0
    for name in files.studies():
        if name not in known:
            freed += files.remove(name)
            say(f"removed the files in {files.study(name)}: there is no such study")
    for path, why in [*_halves(files, engine), *(_unused_images(cache, engine) if data else ())]:
        freed += home.size(path)
        say(f"removed {path}: {why}")
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return freed


def _halves(files: Home, engine: sa.Engine) -> Iterator[tuple[Path, str]]:
    known = {row.name for row in query.studies(engine)}
    for name in known.intersection(files.studies()):
        if not query.progress(engine, name, seen=query.finished(engine, name)).running:
            yield from ((path, "half-written") for path in files.study(name).glob("trial-*/*.part"))


def _unused_images(cache: Path, engine: sa.Engine) -> Iterator[tuple[Path, str]]:
    used = {row.data.get("fingerprint") for row in query.studies(engine)}
    for meta in cache.glob("sets/*/meta.json"):
        if json.loads(meta.read_text()).get("fingerprint") not in used:
            yield meta.parent, "images that no study uses"
