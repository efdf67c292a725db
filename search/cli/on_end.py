"""The hook of `--on-end`, for example a notification."""

import os
import subprocess
import sys

from search.console import echo

#: Timeout of the hook in seconds.
PATIENCE_S = 60.0


def run_hook(command: str, *, study: str, code: int) -> None:
    """Run a shell command with the study and the exit code in its environment. A failure is only reported.

    Args:
        command: command for the shell.
        study: value of CONVSEARCH_STUDY.
        code: value of CONVSEARCH_EXIT, the exit code of this process.
    """
    env = os.environ | {"CONVSEARCH_STUDY": study, "CONVSEARCH_EXIT": str(code)}
    try:
        result = subprocess.run(command, shell=True, env=env, timeout=PATIENCE_S, stdout=sys.stderr)
    except subprocess.TimeoutExpired:
        echo(f"--on-end: {command!r} took more than {PATIENCE_S:.0f} s, and was killed")
        return
    except KeyboardInterrupt:
        echo(f"--on-end: {command!r} was interrupted")
        return
    if result.returncode:
        echo(f"--on-end: {command!r} ended with {result.returncode}")
