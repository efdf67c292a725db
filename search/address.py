"""The address of a database: the passwords that may stand in it, and who gets to see them.

The command line of a process is open to everybody on the machine, the environment is not. What is given by the
environment may have a password, in the one place that SQLAlchemy hides when it shows an address.
"""

import re

from search.errors import UsageError

#: `user:password@` behind the scheme, up to the last @ of the word: a password may hold one, though it should not.
_IN_FRONT = re.compile(r"(://[^:/@\s]*:)[^\s'\"`]+@")
#: The options of libpq that are secrets (https://www.postgresql.org/docs/current/libpq-connect.html).
_OPTION = re.compile(r"(\b(?:ssl)?password=)[^&\s'\"`]+", re.IGNORECASE)


def usable(url: str) -> str:
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
        return url  # who opens it says what is wrong
    except ValueError as error:
        raise UsageError("the port of the storage must be a number; write postgresql://USER@HOST:5432/NAME") from error
    if "@" in (parsed.host or ""):
        raise UsageError("the storage's address has two @; write %40 for the one in the password")
    if "sslpassword" in parsed.query:
        raise UsageError("sslpassword must not stand in an address; name a service file in PGSERVICEFILE that has it")
    if "password" not in parsed.query:
        return url
    last = parsed.query["password"]
    password = last if isinstance(last, str) else last[-1]
    moved = parsed.difference_update_query(["password"]).set(username=parsed.username or "", password=password)
    return moved.render_as_string(hide_password=False)


def has_password(url: str) -> bool:
    """Whether a password stands in `url`, be it an address that can be used or not."""
    return hidden(url) != url


def hidden(text: str) -> str:
    """`text` with stars for the passwords of all addresses in it."""
    return _OPTION.sub(r"\1***", _IN_FRONT.sub(r"\1***@", text))
