"""A private PostgreSQL server in a temporary folder that can be crashed and frozen, and a proxy that loses answers.

Its role has a password, which commands read from the environment only.
"""

import os
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from tests.harness import CACHED, Harness

#: PostgreSQL refuses to run as root; as root, the tests run it as this user, which its packages create.
USER = "postgres"
#: The name of the role that tests connect as.
ROLE = "tester"
#: The server must survive its own crash, not one of the machine, and should leave the machine to the workers.
SETTINGS = """
fsync = off
full_page_writes = off
shared_buffers = 16MB
max_connections = 40
autovacuum = off
"""


def binaries() -> Path | None:
    """The folder of the newest installed server; distributions do not put it on the PATH."""
    initdb = shutil.which("initdb")
    if initdb is not None:
        return Path(initdb).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), default=None)


def missing() -> str:
    """Names what is not installed on this machine; empty if nothing is missing."""
    if binaries() is None:
        return "no PostgreSQL server is installed here"
    return "" if find_spec("psycopg") is not None else "psycopg is not installed here"


def version() -> str:
    """The version of the server, such as `15.14`."""
    folder = binaries()
    assert folder is not None, missing()
    words = subprocess.run([str(folder / "postgres"), "--version"], check=True, capture_output=True, text=True).stdout
    return words.split()[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running server."""

    folder: Path
    port: int
    password: str
    hosts: tuple[str, ...] = ("127.0.0.1",)
    """The addresses of this machine at which it listens."""

    def restart(self) -> None:
        """Kill all its processes at once, as a crash does, and start it again; it recovers from its write-ahead log."""
        self._control("restart", "-m", "immediate")

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        self._control("start")

    def postmaster(self) -> psutil.Process:
        """The server's first process, the parent of all others."""
        return psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0]))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend all its processes inside the block; clients get neither an answer nor a refusal."""
        postmaster = self.postmaster()
        postmaster.suspend()  # first, because it would start more children
        processes = [postmaster, *postmaster.children(recursive=True)]
        try:
            for process in processes[1:]:
                with suppress(psutil.NoSuchProcess):  # its client has just disconnected
                    process.suspend()
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def url(self, database: str, *, port: int | None = None, host: str = "127.0.0.1") -> sa.URL:
        return sa.URL.create(
            "postgresql+psycopg",
            username=ROLE,
            password=self.password,
            host=host,
            port=port or self.port,
            database=database,
        )

    def make_database(self, like: str = "template1") -> str:
        """Create an empty database, or a copy of the database `like`; returns its name."""
        name = f"studies_{uuid.uuid4().hex}"
        self._do(f"CREATE DATABASE {name} TEMPLATE {like}")
        return name

    def set(self, database: str, setting: str, value: str) -> None:
        """Change a setting for all future sessions in a database, as an administrator can."""
        self._do(f"ALTER DATABASE {database} SET {setting} = '{value}'")

    def sessions(self, database: str) -> list[int]:
        """The process ids of the sessions in a database."""
        return [int(pid) for (pid,) in self._do(f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'")]

    def end_sessions(self, pids: Sequence[int]) -> None:
        self._do(f"SELECT pg_terminate_backend(pid) FROM unnest(ARRAY{list(pids)}::integer[]) AS pid")

    def _do(self, statement: str) -> Sequence[sa.Row[Any]]:
        """Execute one statement as administrator; returns its rows."""
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            answer = connection.exec_driver_sql(statement)
            return answer.all() if answer.returns_rows else []

    def _control(self, *words: str) -> None:
        folder = self.folder
        run("pg_ctl", *words, "--wait", "--silent", "--pgdata", str(folder / "data"), "--log", str(folder / "log.txt"))


@contextmanager
def serving(*more_hosts: str, settings: str = SETTINGS) -> Iterator[Server]:
    """A new server that also listens at `more_hosts`; it is removed with its files after the block."""
    folder = Path(tempfile.mkdtemp(prefix="convsearch-postgres-"))
    hosts = ("127.0.0.1", *more_hosts)
    server = Server(folder=folder, port=free_port(), password=secrets.token_hex(12), hosts=hosts)
    try:
        make_cluster(server, settings)
        server.start()
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):  # it was never started
            server.stop()
        shutil.rmtree(folder)


def make_cluster(server: Server, settings: str) -> None:
    """Create the files of a server that requires the password."""
    data, secret = server.folder / "data", server.folder / "password"
    secret.write_text(server.password)
    if os.geteuid() == 0:
        for path in (server.folder, secret):
            shutil.chown(path, USER)
    run("initdb", "--no-sync", "--auth=scram-sha-256", f"--username={ROLE}", f"--pwfile={secret}", f"--pgdata={data}")
    with (data / "postgresql.conf").open("a") as stream:
        stream.write(f"{settings}port = {server.port}\nunix_socket_directories = '{server.folder}'\n")
        stream.write(f"listen_addresses = '{','.join(server.hosts)}'\n")
    with (data / "pg_hba.conf").open("a") as stream:
        stream.write("host all all samenet scram-sha-256\n")


def run(program: str, *words: str) -> None:
    """Run a program of PostgreSQL, as USER if we are root."""
    folder = binaries()
    assert folder is not None, missing()
    user = USER if os.geteuid() == 0 else None
    subprocess.run(
        [str(folder / program), *words],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def dump(url: str, file: Path) -> None:
    """Write a database into a file as SQL, if its server answers."""
    folder = binaries()
    assert folder is not None, missing()
    address = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run([str(folder / "pg_dump"), "--dbname", address, "--file", str(file)])


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(kw_only=True, slots=True)
class LossyProxy:
    """A TCP proxy of a server that forwards statements, and closes the connection instead of returning some answers."""

    target: int
    losses: Iterator[bool]
    """For each packet with `words` in turn: whether its answer is lost."""
    words: bytes = b"COMMIT"
    lost: int = 0
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _is_over: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @contextmanager
    def running(self) -> Iterator["LossyProxy"]:
        """Forward connections inside the block."""
        thread = threading.Thread(target=self._accept)
        thread.start()
        try:
            yield self
        finally:
            self._is_over.set()
            thread.join()

    def _accept(self) -> None:
        forwarders = []
        with self._listener:
            while not self._is_over.is_set():
                if not select.select([self._listener], [], [], 0.05)[0]:
                    continue
                forwarders.append(threading.Thread(target=self._forward, args=(self._listener.accept()[0],)))
                forwarders[-1].start()
        for forwarder in forwarders:
            forwarder.join()

    def _forward(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as server:
            while not self._is_over.is_set():
                for source in select.select([client, server], [], [], 0.05)[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    (server if source is client else client).sendall(data)
                    if source is client and self.words in data and next(self.losses):
                        server.recv(1 << 16)  # the server has executed the statement
                        self.lost += 1
                        return


@dataclass(frozen=True, slots=True)
class PostgresHarness(Harness):
    """A harness with a database on a server; commands read its URL from the environment."""

    address: str

    @property
    def url(self) -> str:
        return self.address

    def complete(self, words: Sequence[str]) -> list[str]:
        return [*words, *(["--cache", str(self.cache)] if words[0] in CACHED else [])]
