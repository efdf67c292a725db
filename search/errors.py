"""The exceptions of the service, with the exit code of the command for each.

    ConvsearchError                1   a bug, if no subclass fits
    +-- UsageError                 2   the command line names something that does not exist
    +-- DatabaseError             69   the database cannot be reached, or is not a database
    +-- ClusterError              69   the Ray cluster cannot be reached, or does not answer
    +-- AllTrialsFailedError      70   every trial so far has failed
    +-- AllTrialsImpossibleError  76   nothing can be trained, or the first trials all ended without a result
    +-- DiskError                 74   a file or folder cannot be written
    +-- BusyError                 75   another process works on this study or database
    +-- SpecError                 78   a study file is wrong, or differs from the stored study
    +-- LeaseLostError             1   this process no longer owns its trial; only raised in workers

Invalid data raise `data.errors.DataError`, exit code 65.
"""


class ConvsearchError(Exception):
    """Base class of the errors that this service raises."""

    exit_code = 1


class UsageError(ConvsearchError):
    """The command line names something that does not exist or is not possible."""

    exit_code = 2


class DatabaseError(ConvsearchError):
    """The database is missing, is not a database, or does not answer."""

    exit_code = 69


class ClusterError(ConvsearchError):
    """The Ray cluster cannot be started or reached, or no longer answers."""

    exit_code = 69


class AllTrialsFailedError(ConvsearchError):
    """Every trial so far has failed; more trials would waste the budget."""

    exit_code = 70


class AllTrialsImpossibleError(ConvsearchError):
    """Nothing can be trained, or the first trials all ended without a result; the study file must change."""

    exit_code = 76


class DiskError(ConvsearchError):
    """A file or folder cannot be written."""

    exit_code = 74


class BusyError(ConvsearchError):
    """Another process works on the study or the database, and must not be disturbed."""

    exit_code = 75


class SpecError(ConvsearchError):
    """A study file breaks a rule, or differs from the stored study of the same name."""

    exit_code = 78


class LeaseLostError(ConvsearchError):
    """This process no longer owns the trial and must not write to it."""
