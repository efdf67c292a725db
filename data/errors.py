"""What is wrong with the images that were given."""


class DataError(Exception):
    """The data are missing, damaged, or not laid out as they must be; the message names the place and the way out."""

    exit_code = 65
