"""The log of one trial: a line for each event, over all attempts. `show` names the file."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path


def note(log: Path, text: str) -> None:
    """Add an event to the log; later lines of `text` are indented. A log that cannot be written stops no trial."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    first, *rest = text.rstrip().splitlines() or [""]
    lines = [f"{when} {first}", *(f"    {line}" for line in rest)]
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write("\n".join(lines) + "\n")
