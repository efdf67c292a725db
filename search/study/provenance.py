"""The origin of a result: the machine, the versions, the commit of this code."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from search import hardware as machine

ROOT = Path(__file__).parents[2]
#: Packages and folders of code that determine the result of a trial.
PACKAGES = ("convsearch", "torch", "optuna", "numpy")
FOLDERS = ("data", "models", "search")


def environment() -> dict[str, str]:
    """The stored origin of a study: versions, Python, machine and commit, by name."""
    versions = packages() | {"python": platform.python_version(), "machine": hardware()}
    return versions | ({"commit": head} if (head := commit()) else {})


def code_version() -> dict[str, str]:
    """Everything that determines the result of a trial: packages, and the SHA-256 of the code in the working tree."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("[!.]*.py")):
        digest.update(f"{file.relative_to(ROOT).as_posix()}\n{file.stat().st_size}\n".encode() + file.read_bytes())
    return packages() | {"code": digest.hexdigest()[:12]}


def packages() -> dict[str, str]:
    """The versions of `PACKAGES`."""
    return {name: version(name) for name in PACKAGES}


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """The differences between two code versions as text; studies of older versions have no `code` entry.

    Args:
        theirs: The code version of a study; see `code_version`.
        ours: The code version of this machine.
    """
    keys = (*PACKAGES, *(("code",) if "code" in theirs else ()))
    return [
        f"{key} {ours.get(key, 'none')} here, {theirs.get(key, 'none')} there"
        for key in keys
        if theirs.get(key) != ours.get(key)
    ]


def hardware() -> str:
    """Cores, processor and operating system."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return f"{machine.cores()} cores, {cpu or platform.processor()}; {platform.system()} {platform.release()}"


def commit() -> str:
    """The commit of this code, and whether files differ from it; empty outside a clone."""
    if not _is_clone():
        return ""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", *FOLDERS, "tests")
    return head + (" with changes" if head and changed else "")


def _is_clone() -> bool:
    return (ROOT / ".git").exists()


def _git(*words: str) -> str:
    try:
        command = ("git", "-C", str(ROOT), *words)
        return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout.strip()
    except OSError:  # git is not installed
        return ""


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
