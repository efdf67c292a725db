"""One file over https: resumed where it broke off, and checked before anybody reads it."""

import ssl
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, cast

from data.atomic import sha256_of
from data.errors import DataError
from data.progress import Advance, Say, progress

CHUNK = 2**18
TIMEOUT_S = 30.0  # read timeout; a server that is silent for longer counts as gone
ATTEMPTS = 3  # in a row without a single new byte


@dataclass(frozen=True, slots=True)
class Archive:
    """A file on the net, and how to know it."""

    url: str
    size: int
    """Bytes."""

    sha256: str


def fetch(archive: Archive, folder: Path, say: Say, *, context: ssl.SSLContext | None = None) -> Path:
    """Return the archive's place in `folder`, downloaded if it is not there whole; every byte has been checked.

    What an earlier call left as .part is gone on with. Raises DataError where the file cannot be had, or is wrong.
    """
    name = archive.url.rsplit("/", 1)[-1]
    target, part = folder / name, folder / f"{name}.part"
    if target.exists() and target.stat().st_size == archive.size and sha256_of(target) == archive.sha256:
        return target
    if not archive.url.startswith("https://"):
        raise DataError(f"only https is used, but the address is {archive.url}")
    folder.mkdir(parents=True, exist_ok=True)
    _download(archive, part, say, opener=_https_only(context))
    if (found := sha256_of(part)) != archive.sha256:
        part.unlink()
        raise DataError(
            f"{archive.url} has the SHA-256 {found}, but must have {archive.sha256}; "
            f"it was deleted: run again, or put the right file at {target}"
        )
    part.replace(target)
    return target


def _download(archive: Archive, part: Path, say: Say, *, opener: urllib.request.OpenerDirector) -> None:
    """Append to `part` until it has the size of the archive."""
    done = part.stat().st_size if part.exists() else 0
    if done > archive.size:
        part.unlink()
        done = 0
    say(f"downloading {archive.url} ({archive.size / 1e6:.1f} MB{f', {done / 1e6:.1f} are there' if done else ''})")
    failures = 0
    with progress("downloading", total=archive.size, done=done, say=say, in_bytes=True) as advance:
        while done < archive.size:
            reason = _append(_receive(archive, done, opener), part, advance)
            before, done = done, part.stat().st_size
            failures = 0 if done > before else failures + 1
            if failures == ATTEMPTS:
                raise DataError(
                    f"{archive.url} cannot be downloaded ({reason}); what has come is kept: run again, "
                    f"or put the file at {part.with_suffix('')}"
                )


def _append(pieces: Iterator[tuple[int, bytes]], part: Path, advance: Advance) -> str:
    """Write the pieces to their places, until they end or break off; returns why."""
    with part.open("ab") as file:
        try:
            for place, content in pieces:
                if place < file.tell():  # the server knows no ranges, and begins again
                    advance(place - file.tell())
                    file.truncate(place)
                file.write(content)
                advance(len(content))
        except _BrokenError as error:
            return str(error)
    return "the connection was closed"


class _BrokenError(Exception):
    """The network failed, not the disk."""


def _receive(archive: Archive, done: int, opener: urllib.request.OpenerDirector) -> Iterator[tuple[int, bytes]]:
    """Yield (place, content), from `done` on if the server can, and never more than the size of the archive."""
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with cast("HTTPResponse", opener.open(request, timeout=TIMEOUT_S)) as answer:
            goes_on = answer.status == 206 and (answer.headers["Content-Range"] or "").startswith(f"bytes {done}-")
            place = done if goes_on else 0
            while place < archive.size and (content := answer.read(min(CHUNK, archive.size - place))):
                yield place, content
                place += len(content)
    except (OSError, HTTPException) as error:  # URLError, HTTPError and TimeoutError are OSErrors
        raise _BrokenError(str(error) or type(error).__name__) from error


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise DataError(f"only https is used, but {req.full_url} leads to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _https_only(context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """An opener that has no other protocol than https; proxies of the environment are honoured."""
    opener = urllib.request.OpenerDirector()
    handlers: tuple[Callable[[], urllib.request.BaseHandler], ...] = (
        urllib.request.ProxyHandler,
        urllib.request.HTTPDefaultErrorHandler,
        _HttpsRedirects,
        urllib.request.HTTPErrorProcessor,
        lambda: urllib.request.HTTPSHandler(context=context or ssl.create_default_context()),
    )
    for handler in handlers:
        opener.add_handler(handler())
    return opener
