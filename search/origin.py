"""Where a result comes from: the machine, the versions, the commit of this code."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from search import machine

ROOT = Path(__file__).parents[1]
#: What decides what a trial computes.
PACKAGES = ("convsearch", "torch", "optuna", "numpy")


def environment() -> dict[str, str]:
    """What a study keeps of all that, by name."""
    found = {name: version(name) for name in PACKAGES} | {"python": platform.python_version(), "machine": hardware()}
    return found | ({"commit": known} if (known := commit()) else {})


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """In what two environments compute otherwise, in words; the commit counts where both lie in a clone."""
    keys = (*PACKAGES, *(("commit",) if "commit" in theirs and "commit" in ours else ()))
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
    if not (ROOT / ".git").exists():
        return ""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "data", "models", "search", "tests")
    return head + (" with changes" if head and changed else "")


def _git(*words: str) -> str:
    try:
        return subprocess.run(("git", "-C", str(ROOT), *words), capture_output=True, text=True).stdout.strip()
    except OSError:  # there is no git
        return ""


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
