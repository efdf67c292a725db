"""Preloaded first by the fork server of the workers: makes the server die with its launcher.

Otherwise it would outlive a killed launcher while it loads torch, and while one of its workers is stopped (SIGSTOP) and
cannot notice the end of the launcher. Only this module has a side effect on import, because a preloaded module has no
other entry point.
"""

from search.process import die_with_parent

die_with_parent()
