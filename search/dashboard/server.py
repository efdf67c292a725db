"""A web server for optuna-dashboard, read-only and behind access control (`dashboard.access`).

The database connection refuses writes. The address is a loopback address unless `expose` is set.
"""

import errno
import ipaddress
import secrets
import socket
import socketserver
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import psutil
import sqlalchemy as sa

from search.artifacts import study_dir
from search.console import echo
from search.dashboard.access import HOST, LOCAL_NAMES, AccessPolicy, guard
from search.errors import DatabaseError, UsageError
from search.storage.read_only import open_reader, server_options, sqlite_connection, sqlite_path

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from search.dashboard.history import HistoryStorage

PORT = 8080
EVERYWHERE = "0.0.0.0"


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
                echo(_warning(server.policy))
            echo(f"{server.policy.url}  (Ctrl-C ends it)")
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
            echo(_warning(server.policy))
        echo(server.policy.url)
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
    server.policy = _access_policy(server, token=token, host=host)
    server.set_app(guard(app, server.policy))
    return server


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A server with one daemon thread per request."""

    daemon_threads = True
    policy: AccessPolicy

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
            f"--host {host} exposes the dashboard: everyone with the URL and access to the port can read all "
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
        f"warning: everyone with the URL and access to port {policy.port} of {policy.host} can read all studies; "
        "the traffic is not encrypted, and anyone who can listen on the network can read the URL; "
        f"safer, on the other machine: `{_tunnel(policy.port)}`"
    )


def _tunnel(port: int) -> str:
    return f"ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"


def _dashboard(storage_url: str) -> "WSGIApplication":
    from search.dashboard.overlay import OverlayCache
    from search.dashboard.pages import Pages

    warnings.filterwarnings("ignore", category=UserWarning, module=r"optuna\.importance")  # too few trials
    overlays = OverlayCache(open_reader(storage_url), study_dir.of(storage_url))
    return Pages(_history(storage_url), overlays)


def _history(storage_url: str) -> "HistoryStorage":
    """Return a read-only Optuna storage with fast reads of trials. Every write fails."""
    from sqlalchemy.pool import NullPool

    from search.dashboard.history import HistoryStorage

    open_reader(storage_url).dispose()  # raises if the database is missing or invalid, with the remedy
    file = sqlite_path(storage_url)
    if file is None:
        connect_args = server_options(sa.make_url(storage_url), "default_transaction_read_only=on")
        options: dict[str, Any] = {"pool_pre_ping": True, "hide_parameters": True, "connect_args": connect_args}
    else:
        options = {"creator": lambda: sqlite_connection(file), "poolclass": NullPool}
    try:
        return HistoryStorage(storage_url, engine_kwargs=options, skip_table_creation=True)
    except Exception as error:
        raise DatabaseError(f"{file or 'the database'} cannot be shown: {str(error).splitlines()[0]}") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
