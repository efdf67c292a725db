"""Where a result comes from: the machine, the versions, the commit of this code."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from search import hardware as machine

ROOT = Path(__file__).parents[2]
#: What decides what a trial computes.
PACKAGES = ("convsearch", "torch", "optuna", "numpy")
FOLDERS = ("data", "models", "search")


def environment() -> dict[str, str]:
    """What a study keeps of all that, by name."""
    found = packages() | {"python": platform.python_version(), "machine": hardware()}
    return found | ({"commit": known} if (known := commit()) else {})


def code_version() -> dict[str, str]:
    """What decides what a trial computes: packages, and the SHA-256 of this code, be it committed or not."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("[!.]*.py")):
        digest.update(f"{file.relative_to(ROOT).as_posix()}\n{file.stat().st_size}\n".encode() + file.read_bytes())
    return packages() | {"code": digest.hexdigest()[:12]}


def packages() -> dict[str, str]:
    """The versions of those that count."""
    return {name: version(name) for name in PACKAGES}


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """In what two codes differ, in words; a study of an older version did not note all of it."""
    keys = (*PACKAGES, *(("code",) if "code" in theirs else ()))
    return [
        f"{key} {ours.get(key, 'none')} here, {theirs.get(key, 'none')} there"
        for key in keys
        if theirs.get(key) != ours.get(key)
    ]


def hardware() -> str:
    """Cores, processor, system."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return f"{machine.cores()} cores, {cpu or platform.processor()}; {platform.system()} {platform.release()}"


def commit() -> str:
    """The commit of this code, and whether it was changed since; nothing if it does not lie in a clone."""
    if not _is_clone():
        return ""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", *FOLDERS, "tests")
    return head + (" with changes" if head and changed else "")


def _is_clone() -> bool:
    return (ROOT / ".git").exists()


def _git(*words: str) -> str:
    try:
        return subprocess.run(("git", "-C", str(ROOT), *words), capture_output=True, text=True).stdout.strip()
    except OSError:  # there is no git
        return ""


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
