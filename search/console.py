"""Messages on stderr: without control characters and passwords, and without errors if they cannot be written."""

import sys
from contextlib import suppress

from data.text import counted, is_printable
from search import database_url


def echo(text: str) -> None:
    """Print a message to stderr. A broken pipe or a full disk is ignored, and the work continues."""
    with suppress(OSError):
        sys.stderr.write(f"{sanitize(text)}\n")  # print would write the end of the line separately
        sys.stderr.flush()


def sanitize(text: str) -> str:
    """Escape control characters in all lines, and replace the passwords in addresses."""
    return "\n".join(escape(line) for line in database_url.redact(text).split("\n"))


def count_workers(workers: int) -> str:
    """`1 worker`, `2 workers`."""
    return counted(workers, "worker")


def escape(raw: str) -> str:
    """Escape characters that move the cursor, recolour a terminal or reverse text, as in `\\x1b`.

    Names, reasons and questions may come from untrusted sources: a shared database or a downloaded archive. Joiners and
    special spaces stay: names in Persian, Hindi or Japanese have them.
    """
    if raw.isprintable():
        return raw
    return "".join(char if is_printable(char) else char.encode("unicode_escape").decode() for char in raw)
