"""A real headless browser, if the machine has one."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.harness import PATIENCE_S

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
NEEDS_BROWSER = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is installed")
ALWAYS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
#: Time that passes on a page before it is read, in milliseconds; the browser skips the parts in which nothing happens.
BUDGET_MS = 15_000
#: The file descriptors of `--remote-debugging-pipe`: the browser reads commands from one and answers on the other.
COMMANDS, ANSWERS = 3, 4
#: Descriptors of this process that are copied there have higher numbers.
FREE = 10


@contextmanager
def opened(url: str, profile: Path, *flags: str, errors: int = subprocess.DEVNULL) -> "Iterator[subprocess.Popen[str]]":
    """Open a URL in a browser; at the end, the browser and all its processes are killed."""
    process = subprocess.Popen(
        [str(BROWSER), *ALWAYS, f"--user-data-dir={profile}", *flags, url],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # no process is left
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@dataclass(slots=True)
class Browser:
    """A running browser, which executes commands of https://chromedevtools.github.io/devtools-protocol."""

    commands: int
    answers: int
    _count: int = 0
    _read: bytearray = field(default_factory=bytearray)
    _messages: list[dict[str, Any]] = field(default_factory=list)
    """Messages for which no call has waited yet."""

    @contextmanager
    def visiting(self, url: str) -> Iterator["Page"]:
        """Open a URL in a new tab; before that, the browser forgets all cookies and all cached files."""
        self._messages.clear()
        self.call("Storage.clearCookies")
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        try:
            session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.call("Network.clearBrowserCache", session)
            self.call("Page.navigate", session, url=url)
            yield Page(self, session)
        finally:
            self.call("Target.closeTarget", targetId=target)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command to the browser, or to a page; return its result."""
        self._count += 1
        command = {"id": self._count, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        answer = self.wait_for(id=self._count)
        assert "result" in answer, answer
        return dict(answer["result"])

    def wait_for(self, **values: Any) -> dict[str, Any]:
        """The first message with these values."""
        while not (found := [message for message in self._messages if values.items() <= message.items()]):
            assert select.select([self.answers], [], [], PATIENCE_S)[0], "waited in vain"
            text = os.read(self.answers, 1 << 16)
            assert text, "the browser has ended"
            self._read += text
            *complete, self._read = self._read.split(b"\0")
            self._messages += map(json.loads, complete)
        self._messages.remove(found[0])
        return found[0]


@dataclass(frozen=True, slots=True)
class Page:
    """An open page."""

    browser: Browser
    session: str

    def content(self) -> str:
        """The page after `BUDGET_MS`, with all scripts run."""
        self.browser.call(
            "Emulation.setVirtualTimePolicy",
            self.session,
            policy="pauseIfNetworkFetchesPending",
            budget=BUDGET_MS,
            maxVirtualTimeTaskStarvationCount=10_000,
        )
        self.browser.wait_for(method="Emulation.virtualTimeBudgetExpired", sessionId=self.session)
        return str(self.value("document.documentElement.outerHTML"))

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; None if it is undefined."""
        return self.browser.call("Runtime.evaluate", self.session, expression=expression)["result"].get("value")


@contextmanager
def running_browser(profile: Path, *flags: str) -> Iterator[Browser]:
    """Run a browser that waits for commands; at the end, the browser and all its processes are killed."""
    with ExitStack() as stack:
        theirs, commands = pipe(stack)
        answers, ours = pipe(stack)
        process = os.posix_spawn(
            str(BROWSER),
            [str(BROWSER), *ALWAYS, "--remote-debugging-pipe", f"--user-data-dir={profile}", *flags, "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs, COMMANDS),
                (os.POSIX_SPAWN_DUP2, ours, ANSWERS),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,
        )
        try:
            yield Browser(commands, answers)
        finally:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)


def pipe(stack: ExitStack) -> tuple[int, int]:
    """The ends of a pipe, to read and to write, which no other process inherits; closed with the stack."""
    ends = os.pipe()
    copies = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, FREE) for end in ends]
    for end in ends:
        os.close(end)
    for copy in copies:
        stack.callback(os.close, copy)
    return copies[0], copies[1]
