"""A real headless browser, if the machine has one."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def opened(url: str, profile: Path, *flags: str, errors: int = subprocess.DEVNULL) -> "Iterator[subprocess.Popen[str]]":
    """Open a URL in a browser; at the end, the browser and all its processes are killed."""
    always = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    process = subprocess.Popen(
        [str(BROWSER), *always, f"--user-data-dir={profile}", *flags, url],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # no process is left
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
