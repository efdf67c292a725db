"""The error for unusable images."""


class DataError(Exception):
    """The data are missing or damaged, or have a wrong layout; the message names the file and the remedy."""

    exit_code = 65
