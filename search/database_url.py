"""Database URLs: find their passwords and keep them out of messages.

Every user of the machine can read the command line of a process, but not its environment. A URL from the environment
may have a password, in the one position that SQLAlchemy hides when it prints a URL.
"""

import re

from data import home
from data.errors import DataError
from search.errors import UsageError

#: Options of libpq that hold secrets (https://www.postgresql.org/docs/current/libpq-connect.html).
SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
#: `user:password@` after the scheme, as SQLAlchemy parses it: a user may contain an @, and a password anything else.
#: The match extends to the last @ of the line: an @ that should have been written as %40 reveals nothing.
_CREDENTIALS = re.compile(r"(://[^:/\n]*:)[^\n]*@")
#: The value of a secret option, or of an option whose name contains %-codes.
_OPTION = re.compile(rf"\b((?:{'|'.join(SECRETS)}|[\w%]*%[0-9a-f]{{2}}[\w%]*)=)[^&\n]+", re.IGNORECASE)


#: The start of a SQLite URL whose file begins with ~ or ~USER.
_HOME = re.compile(r"(sqlite(?:\+\w+)?:///)(~[^/?]*)")


def expand_home(url: str) -> str:
    """Replace the ~ or ~USER that the file of a SQLite URL begins with by the home folder.

    Args:
        url: The URL of a database.

    Raises:
        UsageError: There is no such user, or the user has no home folder.
    """
    match = _HOME.match(url)
    if match is None:
        return url
    try:
        folder = str(home.expand(match[2]))
    except DataError as error:
        raise UsageError(str(error)) from error
    return match[1] + folder.replace("%", "%25").replace("?", "%3F") + url[match.end() :]


def move_password(url: str) -> str:
    """Move the password of `url`, if it has one, to the position that messages hide.

    Args:
        url: The URL of a database.

    Raises:
        UsageError: A part of the password would be parsed as another part of the URL, and shown.
    """
    if url.startswith("sqlite:"):
        return url  # a file has no password, and importing SQLAlchemy is slow
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        return url  # opening it reports the fault
    except ValueError as error:
        raise UsageError("the port of the storage must be a number; write postgresql://USER@HOST:5432/NAME") from error
    if "@" in (parsed.host or ""):
        raise UsageError("the storage's address has two @; write %40 for the one in the password")
    for key in SECRETS[1:]:
        if key in parsed.query:
            raise UsageError(f"{key} must not stand in an address; name a service file in PGSERVICEFILE that has it")
    if "password" not in parsed.query:
        return url
    option = parsed.query["password"]
    password = option if isinstance(option, str) else option[-1]
    moved = parsed.difference_update_query(["password"]).set(username=parsed.username or "", password=password)
    return moved.render_as_string(hide_password=False)


def has_password(url: str) -> bool:
    """Whether `url`, valid or not, contains a password."""
    return redact(url) != url or _has_secret(url)


def redact(text: str) -> str:
    """Replace the passwords of all URLs in `text` by stars."""
    return _OPTION.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", text))


def _has_secret(url: str) -> bool:
    """Whether SQLAlchemy, which accepts more URL formats than the patterns above, finds a secret in `url`."""
    if url.startswith("sqlite:"):
        return False
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return False
    return parsed.password is not None or any(key in parsed.query for key in SECRETS)
