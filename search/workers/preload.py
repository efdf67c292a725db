"""Loaded by the server that workers are forked from, before anything else: it dies with its launcher.

By itself it would outlive a launcher that is killed, for the seconds in which it loads torch, and for as long as a
worker of it is stopped (SIGSTOP) and cannot see that the launcher is gone. This is the one file that does something
when it is imported, because a preloaded module has no other moment.
"""

from search.process import die_with_parent

die_with_parent()
