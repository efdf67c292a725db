"""The names of all stored attributes of studies and trials. They never change: stored studies have them.

Constants are named in the words of the code; a few stored names are of older versions.
"""

# -- user attributes of a study ----------------------------------------------------------------------------------

QUESTION = "question"
UID = "uid"
SPEC = "spec"
DATA = "data"
"""Fingerprint of the images, classes, counts, notes."""
VERSIONS = "versions"
"""Packages, hardware and code of the first run."""
CURRENT_VERSIONS = "versions_now"
"""Packages and code of the current run."""
BUDGET = "trials"
"""Maximum number of trials; a resumed study may change it, so it is not part of the spec that is compared."""
HOURS = "hours"
"""Wall-clock hours of the search; null is no limit."""
SECONDS_RUN = "seconds_run"
RUN_TIME_COUNTER = "clock"
"""The process that counts the run time."""
STOP = "stop"
"""Whether a stop of the study was requested."""
NOTHING_FOUND = "nothing_found"
JUDGED_BEFORE = "judged_before"
SELECTION = "selection"
REMOTE_FOLDER = "depot"
"""Folder of a copied study in the remote checkpoint store; a study that is no copy has none, and uses its uid."""

# -- user attributes of a trial ----------------------------------------------------------------------------------

ATTEMPTS = "attempts"
DEATHS = "deaths"
"""Number of consecutive deaths of its processes without progress, and the progress until then."""
CRASHES = "crashes"
"""Cause of each lost attempt."""
RETRAINED_ATTEMPTS = "anew"
"""Attempts that retrained recorded steps because no checkpoint was found."""
REASON = "reason"
"""Why it was pruned or failed."""
PARAMETERS = "parameters"
MACS = "macs"
SEED = "seed"
EPOCHS = "epochs"
SECONDS = "seconds"
IMAGES_PER_SECOND = "images_per_second"
LATENCY_MS = "latency_ms"
PAUSED = "paused"
"""Step of the rung at which it is paused; null once it is resumed."""
DECISION = "decision"
"""Step, value and reason of the decision to stop it."""
SPARED = "spared"
"""For an audited trial: the decision that the pruner would have made."""
JUDGED_STEP = "judged"
"""The last step at which Optuna's pruner was asked."""
JUDGED_FROM = "judged_from"
"""Step of the first rung that judges the trial, if it is not judged at the first rung of the study."""
FITTED = "fitted"
"""A text for each value that was changed because it could not be trained."""
CORRECT = "correct"
"""The validation images that it classified correctly, at rungs and at its end (`search.analysis.correctness`)."""
TEST = "test"
"""Result of a final training on the test images (`search.trial.final_training.to_stored_result`)."""

# -- system attributes of a trial --------------------------------------------------------------------------------

CONFIG = "config"
"""The full configuration, including fixed and default values."""
FIXED_PARAMS = "fixed_params"
"""Optuna's key for the parameters of an enqueued trial."""
FINISHED_BY = "convsearch:teller"
"""Token of the process that finished the trial; a repeated tell checks it."""

# -- constraints -------------------------------------------------------------------------------------------------

TRAINABLE = "trainable"
"""Name of the Optuna constraint that marks untrainable configurations."""
