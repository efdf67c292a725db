"""A worker's place on the machine: a core of its own, and memory that it keeps."""

import ctypes
import os
import sys

#: Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
#: Bytes that the heap grows by at least, so that it does so seldom; a layer's images take some ten million.
TOP_PAD_BYTES = 64 * 2**20
#: As M_TRIM_THRESHOLD: hand nothing back.
NEVER = -1


def take(core: int | None) -> None:
    """Settle this process: on one core if that is given, and with memory that is not handed back."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})
    keep_memory()


def keep_memory() -> None:
    """Keep freed memory for the next batch; glibc alone returns every large tensor to the kernel.

    Each of them is then made of new pages, which the kernel must find and clear: without that 3,800 images per second
    became 4,700 in bfloat16, 2,040 became 2,150 in float32 (studies/LOG.md). Another C library is left as it is.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, NEVER)
    library.mallopt(M_TOP_PAD, TOP_PAD_BYTES)
