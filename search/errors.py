"""What can go wrong, as one tree. The exit code of the command is written beside each branch.

    ConvsearchError            1   a bug of ours, if nothing below fits
    +-- UsageError             2   the command line asks for what is not there
    +-- DatabaseError         69   the database cannot be reached, or is none
    +-- ClusterError          69   the Ray cluster cannot be reached, or does not answer
    +-- AllFailed             70   every trial so far has failed
    +-- AllImpossible         76   none of the first trials can be trained
    +-- DiskError             74   a file or folder cannot be written
    +-- BusyError             75   somebody else works on this study or database
    +-- SpecError             78   a study file is wrong, or differs from the stored study
    +-- LeaseLost              1   this process no longer owns its trial; only a worker ever sees it

Wrong data are `data.errors.DataError`, exit code 65.
"""


class ConvsearchError(Exception):
    """The base of every error that this service raises on purpose."""

    exit_code = 1


class UsageError(ConvsearchError):
    """The command line names something that does not exist or cannot be."""

    exit_code = 2


class DatabaseError(ConvsearchError):
    """The database is missing, is no database, or does not answer."""

    exit_code = 69


class ClusterError(ConvsearchError):
    """The Ray cluster cannot be started or reached, or does not answer any more."""

    exit_code = 69


class AllTrialsFailedError(ConvsearchError):
    """Every trial so far has failed, so that going on would waste the budget."""

    exit_code = 70


class AllTrialsImpossibleError(ConvsearchError):
    """None of the first trials has a network that can be trained, so that the study file asks for what cannot be."""

    exit_code = 76


class DiskError(ConvsearchError):
    """A file or folder cannot be written."""

    exit_code = 74


class BusyError(ConvsearchError):
    """Somebody else works on the study, or on the database, and must not be disturbed."""

    exit_code = 75


class SpecError(ConvsearchError):
    """A study file breaks a rule, or differs from the study that is stored under its name."""

    exit_code = 78


class LeaseLostError(ConvsearchError):
    """This process does not own the trial any more, so that it must not write to it."""
