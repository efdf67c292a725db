"""A process is identified by its pid and its start time."""

import os

from search.process import is_dead, this_process


def test_a_process_is_dead_if_its_pid_is_free_or_reused() -> None:
    assert not is_dead(os.getpid(), this_process("me").started)
    assert is_dead(os.getpid(), this_process("me").started - 3600)
    assert is_dead(2**22 + 1, 0.0)  # larger than any pid
