"""What is done when a command ends: somebody wants to be told."""

import os
import subprocess
import sys

from search.console import echo

#: Nobody waits longer for a message to be sent.
PATIENCE_S = 60.0


def run_hook(command: str, *, study: str, code: int) -> None:
    """Run a shell's command, which finds the study and the exit code in its environment; say if it fails.

    It changes nothing about how ours has ended.
    """
    told = os.environ | {"CONVSEARCH_STUDY": study, "CONVSEARCH_EXIT": str(code)}
    try:
        done = subprocess.run(command, shell=True, env=told, timeout=PATIENCE_S, stdout=sys.stderr)
    except subprocess.TimeoutExpired:
        echo(f"--on-end: {command!r} took more than {PATIENCE_S:.0f} s, and was killed")
        return
    except KeyboardInterrupt:
        echo(f"--on-end: {command!r} was interrupted")
        return
    if done.returncode:
        echo(f"--on-end: {command!r} ended with {done.returncode}")
