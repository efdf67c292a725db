"""What is said to a person, on stderr: it can steer no terminal, tells no password, and stops nothing."""

import sys
from contextlib import suppress

from search import database_url


def echo(text: str) -> None:
    """Say it, if anybody still listens: a pipe may be broken and a disk full, and the work goes on all the same."""
    with suppress(OSError):
        print(sanitize(text), file=sys.stderr, flush=True)


def sanitize(text: str) -> str:
    """Lines for a person: what came from elsewhere can steer no terminal, and no address tells its password."""
    return "\n".join(escape(line) for line in database_url.redact(text).split("\n"))


def count_workers(workers: int) -> str:
    """`1 worker`, `2 workers`."""
    return "1 worker" if workers == 1 else f"{workers} workers"


def escape(raw: str) -> str:
    """`raw` with what could move the cursor, recolour a terminal or turn text around written out, as in `\\x1b`.

    Names, reasons and questions come from anywhere: a database is handed on, an archive is fetched.
    """
    if raw.isprintable():
        return raw
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in raw)
