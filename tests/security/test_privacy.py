"""No verb sends anything to another machine, and none leaves a file outside the folders that it names."""

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests.harness import CONVSEARCH, PATIENCE_S, Harness

CAN_TRACE = shutil.which("strace") is not None and not subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode
pytestmark = [
    pytest.mark.skipif(not CAN_TRACE, reason="strace is not installed, or this user may not trace processes"),
    pytest.mark.slow,
]

#: Traces every connection and every message of a process and its children. The filter in the kernel saves most of the
#: time (strace(1), --seccomp-bpf).
STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-e", "signal=none")
#: The destination of a traced call: an address, or the path of a socket.
ADDRESS = re.compile(r'htons\((\d+)\).*?(?:inet_addr\("|AF_INET6, ")([^"]+)"')
SOCKET = re.compile(r'sun_path=@?"([^"]+)"')
#: The socket of glibc's name service cache, which every look-up of a user tries first (nscd(8)).
NAME_CACHE = "/var/run/nscd/socket"
#: The port of name servers; one may listen on this machine and ask others.
DNS = 53


@dataclass(frozen=True, slots=True)
class Home:
    """A new user with an empty home and an empty folder of temporary files."""

    root: Path
    sockets: set[str] = field(default_factory=set)
    """Paths of the sockets that commands of this user connected to."""

    def __post_init__(self) -> None:
        for folder in (self.user, self.temporary, self.work):
            folder.mkdir()

    @property
    def user(self) -> Path:
        return self.root / "user"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command under strace, with nothing of this process's environment."""
        return subprocess.Popen(
            [*STRACE, "-o", str(self.root / "trace"), str(CONVSEARCH), *words],
            cwd=self.work,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.user), "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[str, ...]:
        """Run a command to its end; returns what it sent to others, and what it left."""
        process = self.start(*words)
        output, _ = process.communicate(timeout=2 * PATIENCE_S)
        assert process.returncode == 0, output
        return self.traces_of(words[0])

    def traces_of(self, verb: str) -> tuple[str, ...]:
        """What a command sent to others, and the files that it left outside its folders."""
        sent = []
        for line in (self.root / "trace").read_text(errors="replace").splitlines():
            self.sockets.update(SOCKET.findall(line))
            sent += [f"{verb}: {line}" for port, address in ADDRESS.findall(line) if is_foreign(int(port), address)]
        return (*sent, *(f"{verb}: {path}" for path in self.stray_files()))

    def stray_files(self) -> list[Path]:
        cache = self.user / ".cache"
        folders = {cache: {"convsearch"}, self.user: {".cache"}, self.temporary: set(), self.work: {"runs", "exports"}}
        return [
            path
            for folder, known in folders.items()
            if folder.exists()
            for path in folder.iterdir()
            if path.name not in known
        ]

    def foreign_sockets(self) -> set[str]:
        """The sockets that are not in the folders of this user; those of workers are in /tmp if TMPDIR is too long."""
        own = (str(self.root), "/tmp/pymp-")
        return {path for path in self.sockets if not path.startswith(own) and path != NAME_CACHE}


def is_foreign(port: int, address: str) -> bool:
    parsed = ip_address(address)
    return port == DNS or not (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "new-user").mkdir()
    return Home(tmp_path / "new-user")


def look(home: Home) -> tuple[str, ...]:
    """Open pages of a dashboard; returns what it sent to others, and what it left."""
    process = home.start("dashboard", "--port", "0")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        browser = build_opener(HTTPCookieProcessor())
        for path in ("/", "/api/studies", "/api/studies/1", "/static/bundle.js"):
            assert browser.open(url.replace("/?", f"{path}?"), timeout=PATIENCE_S).read()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    return home.traces_of("dashboard")


def test_no_verb_reaches_another_machine_or_leaves_a_stray_file(harness: Harness, home: Home) -> None:
    file, image = harness.write(budget={"trials": 2, "epochs": 1}), harness.images / "train" / "red" / "000.png"

    traces = (
        *home.run("validate", file),
        *home.run("run", file, "--workers", "1"),
        *home.run("studies"),
        *home.run("best", "s"),
        *home.run("show", "s", "0"),
        *look(home),
        *home.run("final", "s", "--top", "1", "--seeds", "1", "--no-baseline", "--workers", "1"),
        *home.run("report", "s"),
        *home.run("export", "s"),
        *home.run("predict", "exports/s", str(image)),
        *home.run("doctor"),
        *home.run("copy-study", "s", "--to", "sqlite:///runs/copy/studies.db"),
        *home.run("delete", "s", "--yes"),
        *home.run("clean", "--data"),
    )

    assert traces == ()
    assert home.foreign_sockets() == set()


@pytest.mark.ray
def test_a_run_on_a_private_ray_reaches_no_other_machine(harness: Harness, home: Home) -> None:
    file = harness.write(budget={"trials": 2, "epochs": 1})

    traces = home.run("run", file, "--workers", "1", "--engine", "ray")

    folders = {Path(*Path(path).parts[:3]) for path in home.foreign_sockets()}
    assert traces == ()
    assert folders
    assert all(folder.name.startswith("convsearch-ray-") and not folder.exists() for folder in folders)
