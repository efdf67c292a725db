"""Download of one file over https, with resumption and a check of its hash."""

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
TIMEOUT_S = 30.0  # read timeout; a longer silence counts as a lost connection
ATTEMPTS = 3  # consecutive attempts without a new byte


@dataclass(frozen=True, slots=True)
class Archive:
    """A remote file, with its size and hash."""

    url: str
    size: int
    """Bytes."""

    sha256: str


def fetch(archive: Archive, folder: Path, say: Say, *, context: ssl.SSLContext | None = None) -> Path:
    """Download a file into `folder` unless it is there already. Resumes the .part file of an earlier call.

    Args:
        archive: the file.
        folder: the target.
        say: receives lines of progress.
        context: the TLS configuration.

    Returns:
        The path of the file. Its hash is checked.

    Raises:
        DataError: the file cannot be downloaded, or its hash is wrong.
    """
    name = archive.url.rsplit("/", 1)[-1]
    target, part = folder / name, folder / f"{name}.part"
    if target.exists() and target.stat().st_size == archive.size and sha256_of(target) == archive.sha256:
        return target
    if not archive.url.startswith("https://"):
        raise DataError(f"only https is used, but the address is {archive.url}")
    folder.mkdir(parents=True, exist_ok=True)
    _download(archive, part, say, opener=_https_only(context))
    if (digest := sha256_of(part)) != archive.sha256:
        part.unlink()
        raise DataError(
            f"{archive.url} has the SHA-256 {digest}, but must have {archive.sha256}; "
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
    say(f"downloading {archive.url} ({archive.size / 1e6:.1f} MB{f', {done / 1e6:.1f} MB done' if done else ''})")
    failures = 0
    with progress("downloading", total=archive.size, done=done, say=say, in_bytes=True) as advance:
        while done < archive.size:
            reason = _append(_receive(archive, done, opener), part, advance)
            previous, done = done, part.stat().st_size
            failures = 0 if done > previous else failures + 1
            if failures == ATTEMPTS:
                raise DataError(
                    f"{archive.url} cannot be downloaded ({reason}); the partial file is kept: run again, "
                    f"or put the file at {part.with_suffix('')}"
                )


def _append(pieces: Iterator[tuple[int, bytes]], part: Path, advance: Advance) -> str:
    """Write the pieces at their offsets until the stream ends; returns the reason for the end."""
    with part.open("ab") as file:
        try:
            for offset, content in pieces:
                if offset < file.tell():  # the server does not support ranges, and starts again
                    advance(offset - file.tell())
                    file.truncate(offset)
                file.write(content)
                advance(len(content))
        except _BrokenError as error:
            return str(error)
    return "the connection was closed"


class _BrokenError(Exception):
    """The network failed, not the disk."""


def _receive(archive: Archive, done: int, opener: urllib.request.OpenerDirector) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, content), starting at `done` if the server supports ranges, up to the size of the archive."""
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with cast("HTTPResponse", opener.open(request, timeout=TIMEOUT_S)) as response:
            resumes = response.status == 206 and (response.headers["Content-Range"] or "").startswith(f"bytes {done}-")
            offset = done if resumes else 0
            while offset < archive.size and (content := response.read(min(CHUNK, archive.size - offset))):
                yield offset, content
                offset += len(content)
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
    """An opener for https only; it uses the proxies of the environment."""
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
