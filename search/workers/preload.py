"""Imported once by the fork server of the workers, and by each Ray actor: loads all that a worker needs.

First it makes the server die with its launcher. Otherwise the server would outlive a killed launcher while it loads
torch, and while one of its workers is stopped (SIGSTOP) and cannot notice the end of the launcher. Only this module has
side effects on import, because a preloaded module has no other entry point.
"""

import gc
from importlib import import_module

from models.libraries import load_dynamo
from search.process import die_with_parent

#: Modules that a worker needs, with `torch._dynamo`. Otherwise torch would import that at the first optimizer, and
#: Optuna the second one at the first connection.
MODULES = ("search.trial.runner", "alembic.migration")

die_with_parent()
gc.disable()  # nothing is garbage while modules load, and collections would take a quarter of the time
try:
    for name in MODULES:
        import_module(name)
    load_dynamo()
finally:
    gc.freeze()  # the workers neither scan nor copy the pages of the loaded modules
    gc.enable()
