"""The standard streams: usable even if they are closed, full, or have an encoding with few characters."""

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Final, Literal, TextIO

from search.console import echo
from search.errors import DiskError

#: Errors of a write to a stream that can take no more: a full disk, a quota, a file that may not be written.
REFUSALS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def prepare() -> None:
    """Replace closed streams by /dev/null, and let all streams escape the characters that their encoding lacks."""
    for number in range(3):  # otherwise the next file, such as the database, would become one of these streams
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number
        os.set_inheritable(number, True)
    sys.stdin = sys.stdin or _null("r")
    sys.stdout = sys.stdout or _null("w")
    sys.stderr = _unbuffered(sys.stderr) if sys.stderr else _null("w")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # it looks for the position, which a pipe that has replaced a file does not have
                stream.reconfigure(errors="backslashreplace")


def use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode (PEP 540) if its locale has another encoding.

    File names and texts are UTF-8 in any locale: the classes of a folder are the same on all machines. The streams keep
    the encoding of the locale.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def finish(code: int) -> int:
    """Write the rest of the buffer of stdout.

    Args:
        code: exit code of the command.

    Returns:
        The exit code; that of a disk error if the output of a command that succeeded cannot be written.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # its reader wanted no more
        discard(sys.stdout)
    except OSError as error:
        discard(sys.stdout)
        echo(refusal(error))
        code = code or DiskError.exit_code
    return code


def discard(stream: TextIO) -> None:
    """Discard the buffer of a stream, and all later output: nothing reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_refusal(error: OSError) -> bool:
    """Whether an error is that of a stream which can take no more. Errors of named files are not."""
    return error.errno in REFUSALS and error.filename is None


def refusal(error: OSError) -> str:
    """The message for an output that cannot be written."""
    return f"convsearch: the output cannot be written: {error.strerror}"


def _unbuffered(stream: TextIO) -> TextIO:
    """Let a message be lost that a full disk refuses. From a buffer it would be written, and fail, again and again."""
    if stream is not sys.__stderr__:
        return stream
    raw = io.FileIO(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(raw, encoding=stream.encoding, write_through=True)


def _null(mode: Literal["r", "w"]) -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_RDWR), mode)
