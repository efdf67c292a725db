"""optuna-dashboard behind a guard: it shows, and changes nothing.

The dashboard has no password, accepts every Host header, and deletes studies when asked to. So it is served on a
loopback address only, to browsers that name one (a foreign page that rebinds its own name to 127.0.0.1 is refused), for
reading only; and its database connection refuses writes as well.
"""

import errno
import ipaddress
import json
import socketserver
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from search.errors import DatabaseError, UsageError
from search.reader import open_reader, sqlite_connection, sqlite_path

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from optuna.storages import BaseStorage

HOST = "127.0.0.1"
PORT = 8080
#: What a browser on this machine, or at the other end of an ssh tunnel, may call the server; the port does not matter.
ALLOWED_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_GUARD_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
]


def serve(storage_url: str, *, host: str = HOST, port: int = PORT) -> int:
    """Serve the dashboard of an existing database until Ctrl-C; returns the exit code, 130.

    Raises:
        UsageError: `host` is no loopback address, or the port cannot be used.
        DatabaseError: there is no such database; none is made.
    """
    try:
        with bind(storage_url, host=host, port=port) as server:
            print(f"http://{host}:{server.server_port}/  (Ctrl-C ends it)", file=sys.stderr, flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        print(file=sys.stderr)
    return 130


def bind(storage_url: str, *, host: str = HOST, port: int = PORT) -> WSGIServer:
    """The server, bound and ready for `serve_forever`; port 0 takes a free one. Raises as `serve` does."""
    if not _is_loopback(host):
        raise UsageError(
            f"the dashboard has no password, so it listens on 127.0.0.1 only, not on {host}; from another machine use "
            f"`ssh -L {port}:127.0.0.1:{port} THIS_MACHINE`"
        )
    app = guard(_dashboard(storage_url))
    try:
        return make_server(host, port, app, server_class=_Server, handler_class=_QuietHandler)
    except OverflowError as error:
        raise UsageError(f"port must be 0 to 65535, but got {port}") from error
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise UsageError(f"port {port} of {host} {why}; take another: `convsearch dashboard --port 8081`") from error


def guard(app: "WSGIApplication") -> "WSGIApplication":
    """`app`, but only for reading, and only for a browser that knows us by a local name."""

    def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if _name(environ.get("HTTP_HOST", "")) not in ALLOWED_NAMES:
            return _refuse(
                start_response, "403 Forbidden", "open the dashboard as http://127.0.0.1 or http://localhost"
            )
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _refuse(start_response, "405 Method Not Allowed", "this dashboard shows; it changes nothing")

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            return start_response(status, [*headers, *_GUARD_HEADERS], exc_info)

        return app(environ, start)

    return guarded


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """One thread for each request, none of which keeps the process alive."""

    daemon_threads = True

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # the HTTP server's asks a name server for our name, which can hang
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _QuietHandler(WSGIRequestHandler):
    """Does not log each request: the dashboard asks every few seconds."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _dashboard(storage_url: str) -> "WSGIApplication":
    import optuna_dashboard

    app: WSGIApplication = optuna_dashboard.wsgi(_storage(storage_url))
    return app


def _storage(storage_url: str) -> "BaseStorage":
    """Optuna's storage with its cache of finished trials; on SQLite every write fails."""
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.pool import NullPool

    open_reader(storage_url).dispose()  # refuses what is missing or no database, with the way out
    file = sqlite_path(storage_url)
    options: dict[str, Any] = (
        {} if file is None else {"creator": lambda: sqlite_connection(file), "poolclass": NullPool}
    )
    try:
        return get_storage(RDBStorage(storage_url, engine_kwargs=options, skip_table_creation=True))
    except Exception as error:
        raise DatabaseError(f"{file or 'the database'} cannot be shown: {str(error).splitlines()[0]}") from error


def _refuse(start_response: "StartResponse", status: str, reason: str) -> list[bytes]:
    body = json.dumps({"reason": reason}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *_GUARD_HEADERS]
    start_response(status, [*headers, ("Allow", "GET, HEAD")] if status.startswith("405") else headers)
    return [body]


def _name(host_header: str) -> str:
    """The name in a Host header, without its port."""
    return host_header.lower().rsplit(":", 1)[0] if not host_header.endswith("]") else host_header.lower()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
