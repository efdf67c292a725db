"""The folders of decoded images and of pretrained weights, also for a user without a home folder."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from data import home
from search.artifacts.files import nearest_existing
from search.console import echo
from search.errors import DiskError

NAMING = "--cache or CONVSEARCH_CACHE names another folder"


def default_cache() -> Path:
    """Return the default folder of decoded images: convsearch in $XDG_CACHE_HOME or ~/.cache.

    If this user cannot use it, it is runs/.cache in the working directory, or, where this user cannot write or others
    can, a private folder among the temporary files; with a message.

    Raises:
        DiskError: none of these folders can be used.
    """
    standard = _standard_folder("convsearch")
    if standard is not None and _is_usable(standard):
        return standard
    folder = _local_folder() or _temporary_folder()
    reason = "this user has no home folder" if standard is None else f"{standard} cannot be written"
    echo(f"{reason}: decoded images go to {folder}; {NAMING}")
    return folder


def use_torch_folder(cache: Path) -> None:
    """Let torch keep pretrained weights in a folder of `cache` if this user cannot use torch's default folder."""
    standard = _standard_folder("torch")
    if standard is None or not _is_usable(standard):
        os.environ.setdefault("TORCH_HOME", str(cache.absolute() / "torch"))


def _standard_folder(program: str) -> Path | None:
    """The folder of a program by the XDG Base Directory Specification; None for a user without a home folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # by the specification, relative paths are ignored
        return Path(base, program)
    folder = home.find()
    return folder / ".cache" / program if folder is not None and os.path.isdir(folder) else None


def _is_usable(folder: Path) -> bool:
    """Whether a folder can be read or, if it does not exist yet, created."""
    existing = nearest_existing(folder)
    return existing.is_dir() and _may(existing, os.R_OK | os.X_OK if existing == folder else os.W_OK | os.X_OK)


def _local_folder() -> Path | None:
    """The folder in the working directory; None if this user cannot write to it, or others can exchange it."""
    folder = Path("runs", ".cache")
    existing = [path for path in (Path(), folder.parent, folder) if os.path.exists(path)]
    is_usable = all(map(_is_trusted, existing)) and _may(existing[-1], os.W_OK | os.X_OK)
    return folder.absolute() if is_usable else None


def _is_trusted(folder: Path) -> bool:
    status = folder.stat()
    is_closed = stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_IWOTH
    return is_closed and status.st_uid in (0, os.geteuid())


def _may(folder: Path, access: int) -> bool:
    return os.access(folder, access, effective_ids=os.access in os.supports_effective_ids)


def _temporary_folder() -> Path:
    """Create a folder that only this user can enter. Another user may have created one of its name: it is refused."""
    try:
        folder = Path(tempfile.gettempdir(), f"convsearch-{os.geteuid()}")
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise DiskError(f"there is no folder for decoded images ({error.strerror}); {NAMING}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise DiskError(f"{folder} is not a private folder of this user, so it is not used; {NAMING}")
    return folder
