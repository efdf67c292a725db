"""A process that dies when its parent dies, however that dies."""

import ctypes
import os
import signal
import sys

#: From linux/prctl.h: the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Be killed when the parent process dies (Linux: prctl(2); elsewhere this does nothing)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between the two lines
        os.kill(os.getpid(), signal.SIGKILL)
