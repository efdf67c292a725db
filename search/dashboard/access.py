"""Access control of the dashboard: which requests are allowed, and how their responses are restricted.

optuna-dashboard has no password, accepts every Host header, deletes studies on request, and serves stored files as
pages of its origin. A request therefore needs the printed URL, whose token becomes a cookie. The Host header must name
this machine, which stops a foreign page that rebinds its name to 127.0.0.1. Requests must be for reading. Stored files
are served as downloads.
"""

import hmac
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from search.tables import without_formulas

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
#: Host names that a browser on this machine, or at the other end of an ssh tunnel, may use; the port does not matter.
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: Paths of the dashboard itself. Everything else is stored content, which is served as a download and never as a page.
OWN_PAGES = ("/dashboard", "/api/", "/static/", "/favicon.ico")
Headers = list[tuple[str, str]]
_GUARD_HEADERS: Headers = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
#: A safe Content-Disposition. A study may be called `x.bat; a=`, and a browser would use the first half as file name.
_SAFE_DISPOSITION = re.compile(r'attachment; filename=([\w.-]+|"[\w. -]+")')
_DOWNLOAD_HEADERS: Headers = [("Content-Security-Policy", "sandbox; default-src 'none'")]


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessPolicy:
    """Which requests are allowed, and the URL with its token."""

    token: str = field(repr=False)
    """Secret that the first URL must contain."""
    port: int
    """Port of the server; part of the cookie name, because browsers share cookies among the ports of a host."""
    host: str = HOST
    """Host name in the URL."""
    names: frozenset[str] = LOCAL_NAMES
    """Accepted host names in lower case."""

    @property
    def url(self) -> str:
        """URL with the token."""
        return f"http://{self.host}:{self.port}/?{urlencode({'token': self.token})}"

    @property
    def cookie(self) -> str:
        """Name of the cookie."""
        return f"convsearch_{self.port}"

    def matches(self, candidate: str) -> bool:
        """Compare `candidate` with the token in constant time."""
        return hmac.compare_digest(candidate.encode(), self.token.encode())


def guard(app: "WSGIApplication", policy: AccessPolicy) -> "WSGIApplication":
    """Restrict `app` to reading requests with an accepted host name and a valid token or cookie.

    Args:
        app: the WSGI application of optuna-dashboard.
        policy: the accepted host names and the token.
    """

    def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if _host_name(environ.get("HTTP_HOST", "")) not in policy.names:
            return _respond(start_response, HTTPStatus.FORBIDDEN, f"open the dashboard as http://{policy.host}")
        if _is_reading(environ) and any(map(policy.matches, _tokens(environ))):
            return _respond(start_response, HTTPStatus.SEE_OTHER, "signed in", _sign_in_headers(environ, policy))
        if not any(map(policy.matches, _cookies(environ, policy.cookie))):
            reason = "open the URL that its command printed, token included, in the address bar"
            return _respond(start_response, HTTPStatus.FORBIDDEN, reason)
        if not _is_reading(environ):
            reason = "the dashboard is read-only"
            return _respond(start_response, HTTPStatus.METHOD_NOT_ALLOWED, reason, [("Allow", "GET, HEAD")])
        is_page, is_table = _is_page(environ["PATH_INFO"]), False

        def start(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
            nonlocal is_table
            is_table = any(name.lower() == "content-type" and kind.startswith("text/csv") for name, kind in headers)
            return start_response(status, _guarded_headers(headers, is_page=is_page, is_table=is_table), exc_info)

        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")  # the dashboard fails without this header
        body = app(environ, start)
        return [without_formulas(b"".join(body).decode()).encode()] if is_table else body

    return guarded


def _sign_in_headers(environ: "WSGIEnvironment", policy: AccessPolicy) -> Headers:
    """Redirect to the same page without the token, and set the token as a cookie."""
    path = "/" + quote(environ["PATH_INFO"].encode("latin-1")).lstrip("/")  # two slashes would redirect to another host
    query = urlencode([pair for pair in _query(environ) if pair[0] != "token"])
    return [
        ("Location", f"{path}?{query}" if query else path),
        ("Set-Cookie", f"{policy.cookie}={policy.token}; HttpOnly; SameSite=Strict; Path=/"),
        ("Cache-Control", "no-store"),
    ]


def _tokens(environ: "WSGIEnvironment") -> list[str]:
    return [value for key, value in _query(environ) if key == "token"]


def _query(environ: "WSGIEnvironment") -> list[tuple[str, str]]:
    return parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, errors="replace")


def _cookies(environ: "WSGIEnvironment", name: str) -> list[str]:
    """Return the values of all cookies called `name`. `http.cookies` stops at the first malformed cookie of any app."""
    pairs = [text.strip().partition("=") for text in environ.get("HTTP_COOKIE", "").split(";")]
    return [value for key, _, value in pairs if key == name]


def _is_reading(environ: "WSGIEnvironment") -> bool:
    return environ["REQUEST_METHOD"] in {"GET", "HEAD"}


def _is_page(path: str) -> bool:
    """Whether a path is a page of the dashboard. An allowlist, as Bottle routes /art%FFifacts to /artifacts too."""
    return path == "/" or path.startswith(OWN_PAGES)


def _guarded_headers(headers: Headers, *, is_page: bool, is_table: bool) -> Headers:
    added = _GUARD_HEADERS if is_page else [*_GUARD_HEADERS, *_DOWNLOAD_HEADERS, _disposition(headers)]
    dropped = {"access-control-allow-origin", *(name.lower() for name, _ in added)}
    if is_table:
        dropped.add("content-length")  # escaped formulas make the body longer
    return [*(header for header in headers if header[0].lower() not in dropped), *added]


def _disposition(headers: Headers) -> tuple[str, str]:
    """Return the header of an attachment, with the file name of the dashboard if it is safe."""
    safe = (
        value for name, value in headers if name.lower() == "content-disposition" and _SAFE_DISPOSITION.fullmatch(value)
    )
    return "Content-Disposition", next(safe, "attachment")


def _respond(
    start_response: "StartResponse", status: HTTPStatus, reason: str, more: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    body = json.dumps({"reason": reason}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *_GUARD_HEADERS, *more]
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]


def _host_name(host_header: str) -> str:
    """Return the host name of a Host header in lower case, without the port."""
    return host_header.lower().rsplit(":", 1)[0] if not host_header.endswith("]") else host_header.lower()
