"""The home folder of the user, and paths that begin with it."""

import os
import pwd
from pathlib import Path

from data.errors import DataError


def find() -> Path | None:
    """Return the home folder of this user: $HOME, otherwise the one in passwd. None if neither is an absolute path.

    A container often runs as a user with neither.
    """
    text = os.environ.get("HOME", "")
    return Path(text) if os.path.isabs(text) else _of_user(os.getuid())


def expand(text: str) -> Path:
    """Return the path that a user wrote. ~ and ~USER at its beginning are home folders, as in a shell.

    Args:
        text: the path. If there is no such home folder, a file of that very name is taken.

    Raises:
        DataError: there is no such user, or the user has no home folder.
    """
    if not text.startswith("~"):
        return Path(text)
    name, _, rest = text[1:].partition("/")
    folder = _of_user(name) if name else find()
    if folder is not None:
        return folder / rest.lstrip("/")
    if os.path.lexists(text):
        return Path(text)
    reason = f"there is no user {name!r}" if name else "this user has no home folder (no HOME, no entry in passwd)"
    raise DataError(f"{text}: {reason}; write the path without ~")


def _of_user(user: str | int) -> Path | None:
    try:
        entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except (KeyError, ValueError):  # ValueError: a name with a NUL byte
        return None
    return Path(entry.pw_dir) if os.path.isabs(entry.pw_dir) else None
