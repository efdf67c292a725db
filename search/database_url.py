"""The address of a database: the passwords in it, and how they are kept out of messages.

The command line of a process is open to everybody on the machine, the environment is not. What is given by the
environment may have a password, in the one place that SQLAlchemy hides when it shows an address.
"""

import re

from search.errors import UsageError

#: The options of libpq that are secrets (https://www.postgresql.org/docs/current/libpq-connect.html).
SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
#: `user:password@` behind the scheme, as SQLAlchemy reads it: a user may hold an @, and a password anything but that.
#: Up to the last @ of the line, so that one which should have been written as %40 shows nothing.
_IN_FRONT = re.compile(r"(://[^:/\n]*:)[^\n]*@")
#: What stands behind a secret option, or behind one whose name is partly written in %-codes.
_OPTION = re.compile(rf"\b((?:{'|'.join(SECRETS)}|[\w%]*%[0-9a-f]{{2}}[\w%]*)=)[^&\n]+", re.IGNORECASE)


def move_password(url: str) -> str:
    """`url` with its password, if it has one, where no message will show it.

    Raises:
        UsageError: some of it would be taken for another part, and shown.
    """
    if url.startswith("sqlite:"):
        return url  # a file has no password; and SQLAlchemy, which takes a while to load, is not needed to say so
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        return url  # opening it says what is wrong
    except ValueError as error:
        raise UsageError("the port of the storage must be a number; write postgresql://USER@HOST:5432/NAME") from error
    if "@" in (parsed.host or ""):
        raise UsageError("the storage's address has two @; write %40 for the one in the password")
    for key in SECRETS[1:]:
        if key in parsed.query:
            raise UsageError(f"{key} must not stand in an address; name a service file in PGSERVICEFILE that has it")
    if "password" not in parsed.query:
        return url
    last = parsed.query["password"]
    password = last if isinstance(last, str) else last[-1]
    moved = parsed.difference_update_query(["password"]).set(username=parsed.username or "", password=password)
    return moved.render_as_string(hide_password=False)


def has_password(url: str) -> bool:
    """Whether a password stands in `url`, be it an address that can be used or not."""
    return redact(url) != url or _has_secret(url)


def redact(text: str) -> str:
    """`text` with stars for the passwords of all addresses in it."""
    return _OPTION.sub(r"\1***", _IN_FRONT.sub(r"\1***@", text))


def _has_secret(url: str) -> bool:
    """Whether SQLAlchemy, which knows more ways to write an address than we do, finds a secret in it."""
    if url.startswith("sqlite:"):
        return False
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return False
    return parsed.password is not None or any(key in parsed.query for key in SECRETS)
