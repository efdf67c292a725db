"""optuna-dashboard behind access control, read-only.

optuna-dashboard has no password, accepts every Host header, deletes studies on request, and serves stored files as
pages of its origin. This server therefore requires the printed URL, whose token becomes a cookie. The Host header must
name this machine, which stops a foreign page that rebinds its name to 127.0.0.1. Requests must be for reading, and the
database connection refuses writes as well. Stored files are served as downloads. The address is a loopback address
unless `expose` is set.
"""

import errno
import hmac
import ipaddress
import json
import re
import secrets
import socket
import socketserver
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import psutil
import sqlalchemy as sa

from search.artifacts import study_dir
from search.console import echo
from search.errors import ConvsearchError, DatabaseError, UsageError
from search.storage.read_only import open_reader, server_options, sqlite_connection, sqlite_path
from search.tables import without_formulas

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from search.dashboard.overlay import OverlayCache
    from search.optuna_internals import OverlayStorage
    from search.storage.rdb_reads import FastReadStorage


HOST = "127.0.0.1"
PORT = 8080
EVERYWHERE = "0.0.0.0"
#: Host names that a browser on this machine, or at the other end of an ssh tunnel, may use; the port does not matter.
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: Paths of the dashboard itself. Everything else is stored content, which is served as a download and never as a page.
OWN_PAGES = ("/dashboard", "/api/", "/static/", "/favicon.ico")

#: Paths of requests for one study or one of its files.
_ONE_STUDY = re.compile(r"/(?:api/studies|artifacts)/(\d{1,18})(?:/|$)")

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


def serve(storage_url: str, *, host: str = HOST, port: int = PORT, expose: bool = False) -> int:
    """Serve the dashboard of an existing database until Ctrl-C.

    Args:
        storage_url: URL of the database.
        host: IPv4 address or host name to listen on.
        port: TCP port; 0 selects a free one.
        expose: allow a `host` that other machines can reach.

    Returns:
        The exit code, 130.

    Raises:
        UsageError: other machines can reach `host` and `expose` is not set, or host or port cannot be used.
        DatabaseError: there is no such database; none is created.
    """
    try:
        with bind(storage_url, token=secrets.token_urlsafe(), host=host, port=port, expose=expose) as server:
            if not _is_loopback(host):
                echo(_warning(server.door))
            echo(f"{server.door.url}  (Ctrl-C ends it)")
            server.serve_forever()
    except KeyboardInterrupt:
        echo("")
    return 130


@contextmanager
def serve_in_background(
    storage_url: str, *, host: str = HOST, port: int = PORT, expose: bool = False
) -> Iterator[None]:
    """Serve the dashboard in a separate thread while the block runs. Arguments and errors are those of `serve`."""
    with bind(storage_url, token=secrets.token_urlsafe(), host=host, port=port, expose=expose) as server:
        if not _is_loopback(host):
            echo(_warning(server.door))
        echo(server.door.url)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()


def bind(storage_url: str, *, token: str, host: str = HOST, port: int = PORT, expose: bool = False) -> "Server":
    """Create a server that is bound and ready for `serve_forever`.

    Args:
        storage_url: URL of the database.
        token: secret that the first URL must contain.
        host: IPv4 address or host name to listen on.
        port: TCP port; 0 selects a free one.
        expose: allow a `host` that other machines can reach.

    Raises:
        UsageError: other machines can reach `host` and `expose` is not set, or host or port cannot be used.
        DatabaseError: there is no such database; none is created.
    """
    _check_host(host, port=port, expose=expose)
    app = _dashboard(storage_url)
    server = _listen(app, host=host, port=port)
    server.door = _access_policy(server, token=token, host=host)
    server.set_app(guard(app, server.door))
    return server


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


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A server with one daemon thread per request."""

    daemon_threads = True
    door: AccessPolicy

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer.server_bind resolves the host name, which can hang
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # browsers close connections at any time
            super().handle_error(request, client_address)


class _QuietHandler(WSGIRequestHandler):
    """A handler that does not log requests, because the dashboard polls every few seconds."""

    timeout = 60.0  # seconds without data

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _check_host(host: str, *, port: int, expose: bool) -> None:
    if not host or ":" in host:
        raise UsageError(f"--host must be an IPv4 address or a name of this machine, but got {host!r}")
    if not expose and not _is_loopback(host):
        raise UsageError(
            f"--host {host} exposes the dashboard: everybody who can reach the port and has the URL can read all "
            f"studies, and the traffic is not encrypted; safer, on the other machine: `{_tunnel(port)}`; "
            "to expose it anyway, add --expose"
        )


def _listen(app: "WSGIApplication", *, host: str, port: int) -> Server:
    try:
        return make_server(host, port, app, server_class=Server, handler_class=_QuietHandler)
    except OverflowError as error:
        raise UsageError(f"port must be 0 to 65535, but got {port}") from error
    except OSError as error:
        problem = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise UsageError(
            f"port {port} of {host} {problem}; take another: `convsearch dashboard --port 8081`"
        ) from error


def _access_policy(server: Server, *, token: str, host: str) -> AccessPolicy:
    address = server.server_name
    url_host = (socket.gethostname() if address == EVERYWHERE else host).lower()
    addresses = _addresses() if address == EVERYWHERE else {address}
    return AccessPolicy(token=token, port=server.server_port, host=url_host, names=LOCAL_NAMES | addresses | {url_host})


def _addresses() -> set[str]:
    """Return the current IPv4 addresses of this machine."""
    interfaces = psutil.net_if_addrs().values()
    return {address.address for interface in interfaces for address in interface if address.family == socket.AF_INET}


def _warning(policy: AccessPolicy) -> str:
    return (
        f"warning: everybody who can reach port {policy.port} of {policy.host} and has the URL can read all studies; "
        "the traffic is not encrypted, and anyone who can listen on the network can read the URL; "
        f"safer, on the other machine: `{_tunnel(policy.port)}`"
    )


def _tunnel(port: int) -> str:
    return f"ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"


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


def _dashboard(storage_url: str) -> "WSGIApplication":
    import optuna_dashboard

    from search.dashboard.overlay import OverlayCache
    from search.optuna_internals import OverlayStorage

    warnings.filterwarnings("ignore", category=UserWarning, module=r"optuna\.importance")  # too few trials
    overlays = OverlayCache(open_reader(storage_url), study_dir.of(storage_url))
    storage = OverlayStorage(_history(storage_url), overlays.beside)
    return _refreshing(optuna_dashboard.wsgi(storage, artifact_store=overlays), storage, overlays)


def _refreshing(app: "WSGIApplication", storage: "OverlayStorage", overlays: "OverlayCache") -> "WSGIApplication":
    """Wrap `app` to refresh the overlay of a study before each request for the study."""

    def refreshed(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        match = _ONE_STUDY.match(environ["PATH_INFO"])
        if match is not None:
            with suppress(KeyError, ConvsearchError):  # missing or foreign study: the dashboard reports the error
                overlays.refresh(int(match[1]), storage.get_study_name_from_id(int(match[1])))
        return app(environ, start_response)

    return refreshed


def _history(storage_url: str) -> "FastReadStorage":
    """Return a read-only Optuna storage with fast reads of trials. Every write fails."""
    from sqlalchemy.pool import NullPool

    from search.storage.rdb_reads import FastReadStorage

    open_reader(storage_url).dispose()  # raises if the database is missing or invalid, with the remedy
    file = sqlite_path(storage_url)
    if file is None:
        connect_args = server_options(sa.make_url(storage_url), "default_transaction_read_only=on")
        options: dict[str, Any] = {"pool_pre_ping": True, "hide_parameters": True, "connect_args": connect_args}
    else:
        options = {"creator": lambda: sqlite_connection(file), "poolclass": NullPool}
    try:
        return FastReadStorage(storage_url, engine_kwargs=options, skip_table_creation=True)
    except Exception as error:
        raise DatabaseError(f"{file or 'the database'} cannot be shown: {str(error).splitlines()[0]}") from error


def _host_name(host_header: str) -> str:
    """Return the host name of a Host header in lower case, without the port."""
    return host_header.lower().rsplit(":", 1)[0] if not host_header.endswith("]") else host_header.lower()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
