"""optuna-dashboard behind a guard: it shows, and changes nothing.

The dashboard has no password, accepts every Host header, deletes studies when asked to, and serves stored files as
pages of its own. So it is served only to browsers with the URL that was printed (its token becomes a cookie); to
browsers that name this machine (a foreign page that rebinds its own name to 127.0.0.1 is refused); for reading only;
stored files as downloads; on a loopback address, unless told otherwise. Its database connection refuses writes as well.
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
#: What a browser on this machine, or at the other end of an ssh tunnel, may call the server; the port does not matter.
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: The paths of the dashboard itself. What lies elsewhere was stored by somebody: a download, never a page.
OWN_PAGES = ("/dashboard", "/api/", "/static/", "/favicon.ico")

#: One study is asked for, or a file of it.
_ONE_STUDY = re.compile(r"/(?:api/studies|artifacts)/(\d{1,18})(?:/|$)")

Headers = list[tuple[str, str]]

_GUARD_HEADERS: Headers = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
#: A study may be called `x.bat; a=`, and the browser would take the first half for the name of the file.
_NAMED = re.compile(r'attachment; filename=([\w.-]+|"[\w. -]+")')
_DOWNLOAD_HEADERS: Headers = [("Content-Security-Policy", "sandbox; default-src 'none'")]


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessPolicy:
    """Which requests are allowed, and the URL with its token."""

    token: str = field(repr=False)
    """What the URL must carry the first time."""
    port: int
    """Part of the cookie's name, because browsers do not tell the ports of a host apart."""
    host: str = HOST
    """What the server is called in the URL."""
    names: frozenset[str] = LOCAL_NAMES
    """What a browser may call the server, in small letters."""

    @property
    def url(self) -> str:
        """The URL that opens the door."""
        return f"http://{self.host}:{self.port}/?{urlencode({'token': self.token})}"

    @property
    def cookie(self) -> str:
        """The cookie's name."""
        return f"convsearch_{self.port}"

    def matches(self, candidate: str) -> bool:
        """Whether it is the token; how long the answer takes does not say how much of it is right."""
        return hmac.compare_digest(candidate.encode(), self.token.encode())


def serve(storage_url: str, *, host: str = HOST, port: int = PORT, expose: bool = False) -> int:
    """Serve the dashboard of an existing database until Ctrl-C; returns the exit code, 130.

    Raises:
        UsageError: others can reach `host` and `expose` was not asked for, or host or port cannot be used.
        DatabaseError: there is no such database; none is made.
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
    """Serve the dashboard in a thread of its own while the block runs. Raises as `serve` does."""
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
    """The server, bound and ready for `serve_forever`; port 0 takes a free one. Raises as `serve` does."""
    _check_host(host, port=port, expose=expose)
    app = _dashboard(storage_url)
    server = _listen(app, host=host, port=port)
    server.door = _door(server, token=token, host=host)
    server.set_app(guard(app, server.door))
    return server


def guard(app: "WSGIApplication", door: AccessPolicy) -> "WSGIApplication":
    """`app`, but only for reading, and only for a browser that knows us by name and came in by the door."""

    def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if _name(environ.get("HTTP_HOST", "")) not in door.names:
            return _answer(start_response, HTTPStatus.FORBIDDEN, f"open the dashboard as http://{door.host}")
        if _is_reading(environ) and any(map(door.matches, _tokens(environ))):
            return _answer(start_response, HTTPStatus.SEE_OTHER, "come in", _welcome(environ, door))
        if not any(map(door.matches, _cookies(environ, door.cookie))):
            reason = "open the URL that its command printed, token included, in the address bar"
            return _answer(start_response, HTTPStatus.FORBIDDEN, reason)
        if not _is_reading(environ):
            reason = "the dashboard is read-only"
            return _answer(start_response, HTTPStatus.METHOD_NOT_ALLOWED, reason, [("Allow", "GET, HEAD")])
        is_own, is_table = _is_own(environ["PATH_INFO"]), False

        def start(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
            nonlocal is_table
            is_table = any(name.lower() == "content-type" and kind.startswith("text/csv") for name, kind in headers)
            return start_response(status, _guarded_headers(headers, is_own=is_own, is_table=is_table), exc_info)

        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")  # the dashboard fails without this header
        body = app(environ, start)
        return [without_formulas(b"".join(body).decode()).encode()] if is_table else body

    return guarded


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """One thread for each request, none of which keeps the process alive."""

    daemon_threads = True
    door: AccessPolicy

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # the HTTP server's asks a name server for our name, which can hang
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # a browser that hangs up is no news
            super().handle_error(request, client_address)


class _QuietHandler(WSGIRequestHandler):
    """Does not log each request: the dashboard asks every few seconds."""

    timeout = 60.0  # seconds of silence

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _check_host(host: str, *, port: int, expose: bool) -> None:
    if not host or ":" in host:
        raise UsageError(f"--host must be an IPv4 address or a name of this machine, but got {host!r}")
    if not expose and not _is_loopback(host):
        raise UsageError(
            f"--host {host} exposes the dashboard: everybody who can reach the port and has the URL can read all "
            f"studies, and the traffic is not encrypted; better, on the other machine: `{_tunnel(port)}`; "
            "if you mean it, add --expose"
        )


def _listen(app: "WSGIApplication", *, host: str, port: int) -> Server:
    try:
        return make_server(host, port, app, server_class=Server, handler_class=_QuietHandler)
    except OverflowError as error:
        raise UsageError(f"port must be 0 to 65535, but got {port}") from error
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise UsageError(f"port {port} of {host} {why}; take another: `convsearch dashboard --port 8081`") from error


def _door(server: Server, *, token: str, host: str) -> AccessPolicy:
    address = server.server_name
    shown = (socket.gethostname() if address == EVERYWHERE else host).lower()
    here = _addresses() if address == EVERYWHERE else {address}
    return AccessPolicy(token=token, port=server.server_port, host=shown, names=LOCAL_NAMES | here | {shown})


def _addresses() -> set[str]:
    """The IPv4 addresses that this machine has now."""
    cards = psutil.net_if_addrs().values()
    return {address.address for card in cards for address in card if address.family == socket.AF_INET}


def _warning(door: AccessPolicy) -> str:
    return (
        f"warning: everybody who can reach port {door.port} of {door.host} and has the URL can read all studies; the "
        "traffic is not encrypted, so whoever listens on the network gets the URL too; "
        f"better, on the other machine: `{_tunnel(door.port)}`"
    )


def _tunnel(port: int) -> str:
    return f"ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"


def _welcome(environ: "WSGIEnvironment", door: AccessPolicy) -> Headers:
    """To the same page without the token, which the browser keeps as a cookie from now on."""
    path = "/" + quote(environ["PATH_INFO"].encode("latin-1")).lstrip("/")  # two slashes would lead to another host
    query = urlencode([pair for pair in _query(environ) if pair[0] != "token"])
    return [
        ("Location", f"{path}?{query}" if query else path),
        ("Set-Cookie", f"{door.cookie}={door.token}; HttpOnly; SameSite=Strict; Path=/"),
        ("Cache-Control", "no-store"),
    ]


def _tokens(environ: "WSGIEnvironment") -> list[str]:
    return [value for key, value in _query(environ) if key == "token"]


def _query(environ: "WSGIEnvironment") -> list[tuple[str, str]]:
    return parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, errors="replace")


def _cookies(environ: "WSGIEnvironment", name: str) -> list[str]:
    """The values of all cookies of the name. `http.cookies` gives up at the first malformed one, whoever set it."""
    pairs = [text.strip().partition("=") for text in environ.get("HTTP_COOKIE", "").split(";")]
    return [value for key, _, value in pairs if key == name]


def _is_reading(environ: "WSGIEnvironment") -> bool:
    return environ["REQUEST_METHOD"] in {"GET", "HEAD"}


def _is_own(path: str) -> bool:
    """Whether it is a page of the dashboard. Bottle finds /artifacts in /art%FFifacts too, so all else is not ours."""
    return path == "/" or path.startswith(OWN_PAGES)


def _guarded_headers(headers: Headers, *, is_own: bool, is_table: bool) -> Headers:
    ours = _GUARD_HEADERS if is_own else [*_GUARD_HEADERS, *_DOWNLOAD_HEADERS, _disposition(headers)]
    dropped = {"access-control-allow-origin", *(name.lower() for name, _ in ours)}
    if is_table:
        dropped.add("content-length")  # a cell that looked like a formula is longer now
    return [*(header for header in headers if header[0].lower() not in dropped), *ours]


def _disposition(headers: Headers) -> tuple[str, str]:
    """An attachment, under the file name that the dashboard gives it, if that is a plain one."""
    named = (value for name, value in headers if name.lower() == "content-disposition" and _NAMED.fullmatch(value))
    return "Content-Disposition", next(named, "attachment")


def _answer(
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

    warnings.filterwarnings("ignore", category=UserWarning, module=r"optuna\.importance")  # of few trials; to nobody
    exhibits = OverlayCache(open_reader(storage_url), study_dir.of(storage_url))
    storage = OverlayStorage(_history(storage_url), exhibits.beside)
    return _refreshing(optuna_dashboard.wsgi(storage, artifact_store=exhibits), storage, exhibits)


def _refreshing(app: "WSGIApplication", storage: "OverlayStorage", exhibits: "OverlayCache") -> "WSGIApplication":
    """`app`, with the overlay of a study refreshed, if need be, before a request for it."""

    def refreshed(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        found = _ONE_STUDY.match(environ["PATH_INFO"])
        if found is not None:
            with suppress(KeyError, ConvsearchError):  # there is no such study, or none of ours; the dashboard will say
                exhibits.refresh(int(found[1]), storage.get_study_name_from_id(int(found[1])))
        return app(environ, start_response)

    return refreshed


def _history(storage_url: str) -> "FastReadStorage":
    """Optuna's storage, with our loader of trials; every write fails."""
    from sqlalchemy.pool import NullPool

    from search.storage.rdb_reads import FastReadStorage

    open_reader(storage_url).dispose()  # refuses what is missing or no database, with the way out
    file = sqlite_path(storage_url)
    if file is None:
        read_only = server_options(sa.make_url(storage_url), "default_transaction_read_only=on")
        options: dict[str, Any] = {"pool_pre_ping": True, "hide_parameters": True, "connect_args": read_only}
    else:
        options = {"creator": lambda: sqlite_connection(file), "poolclass": NullPool}
    try:
        return FastReadStorage(storage_url, engine_kwargs=options, skip_table_creation=True)
    except Exception as error:
        raise DatabaseError(f"{file or 'the database'} cannot be shown: {str(error).splitlines()[0]}") from error


def _name(host_header: str) -> str:
    """The name in a Host header, without its port."""
    return host_header.lower().rsplit(":", 1)[0] if not host_header.endswith("]") else host_header.lower()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
