"""The password in a database address never appears in errors, tracebacks, files or `ps`."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from search import database_url
from search.cli import main
from search.errors import UsageError
from tests.harness import CONVSEARCH, PATIENCE_S, Answer, Harness

pytestmark = pytest.mark.slow

SECRET = "s3cr3t"
#: No server listens on port 1.
UNREACHABLE = f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/db"
ADDRESSES = {
    "before-the-host": UNREACHABLE,
    "as-an-option": f"postgresql+psycopg://user@127.0.0.1:1/db?sslmode=disable&password={SECRET}",
    "without-a-user": f"postgresql+psycopg:///db?host=127.0.0.1&port=1&password={SECRET}",
    "quoted": f"postgresql+psycopg://user:{SECRET}%40@127.0.0.1:1/db",
    "two-@": f"postgresql+psycopg://user:x@{SECRET}@127.0.0.1:1/db",
    "no-port": f"postgresql+psycopg://user:{SECRET}@127.0.0.1:port/db",
    "no-driver": f"postgresql+nothing://user:{SECRET}@127.0.0.1:1/db",
    "no-scheme": f"user:{SECRET}@127.0.0.1/db",
    "space": f" postgresql://user:{SECRET}@127.0.0.1:1/db",
    "key": f"postgresql+psycopg://user@127.0.0.1:1/db?sslkey=k&sslpassword={SECRET}",
    "oauth": f"postgresql+psycopg://user@127.0.0.1:1/db?oauth_client_secret={SECRET}",
    "scram": f"postgresql+psycopg://user@127.0.0.1:1/db?scram_client_key={SECRET}",
    "user@server": f"postgresql+psycopg://admin@server:{SECRET}@127.0.0.1:1/db",
    "with-a-quote": f"postgresql+psycopg://user:a'{SECRET}@127.0.0.1:1/db",
    "with-a-space": f"postgresql+psycopg://user:a {SECRET}@127.0.0.1:1/db",
    "written-in-codes": f"postgresql+psycopg://user@127.0.0.1:1/db?pass%77ord={SECRET}",
    "option-with-a-quote": f"postgresql+psycopg://user@127.0.0.1:1/db?password=a'b {SECRET}",
}
VERBS = {
    "studies": [],
    "best": ["s"],
    "show": ["s", "0"],
    "compare": ["s"],
    "doctor": [],
    "stop": ["s"],
    "delete": ["s", "--yes"],
    "clean": [],
    "resume": ["s"],
}


@pytest.mark.parametrize("word", ["--storage {}", "--storage={}", "--stor {}"])
@pytest.mark.parametrize("url", [url for name, url in ADDRESSES.items() if name != "no-scheme"])
def test_a_password_on_the_command_line_is_refused_without_repeating_it(harness: Harness, word: str, url: str) -> None:
    answer = harness.run("best", "s", *(part.format(url) for part in word.split()))

    assert (answer.code, answer.out) == (2, "")
    assert "--storage" in answer.err
    assert SECRET not in answer.err


@pytest.mark.parametrize("words", ["--storage {} best s", "validate s --storage {}", "best {}", "{}", "show s {}"])
@pytest.mark.parametrize("name", ["before-the-host", "user@server", "with-a-quote", "written-in-codes"])
def test_a_password_in_any_other_argument_is_not_repeated(shell: "Shell", words: str, name: str) -> None:
    answer = shell.ask(None, *(part.format(ADDRESSES[name]) for part in words.split()))

    assert answer.code in (2, 69)
    assert SECRET not in answer.out + answer.err


def test_the_refusal_names_the_alternatives(harness: Harness) -> None:
    answer = harness.run("best", "s", "--storage", UNREACHABLE)

    assert "'--storage': must not hold a password, because everybody on this machine can read a command" in answer.err
    assert all(way in answer.err for way in ("CONVSEARCH_STORAGE", "~/.pgpass", "PGPASSFILE"))


def test_an_address_without_a_password_is_accepted_on_the_command_line(harness: Harness) -> None:
    answer = harness.run("best", "s", "--storage", "postgresql+psycopg://user@127.0.0.1:1/db")

    assert answer.code == 69


@pytest.mark.parametrize("url", ADDRESSES.values(), ids=ADDRESSES)
def test_no_error_and_no_traceback_shows_the_password(shell: "Shell", url: str) -> None:
    answer = shell.ask(url, "--debug", "best", "s")

    assert answer.code in (2, 69)
    assert SECRET not in answer.out + answer.err
    assert "bug of convsearch" not in answer.err


def test_a_new_process_shows_the_password_in_no_traceback(tmp_path: Path) -> None:
    command, env = [str(CONVSEARCH), "--debug", "best", "s"], os.environ | {"CONVSEARCH_STORAGE": UNREACHABLE}
    answer = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert answer.returncode == 69
    assert "Traceback" in answer.stderr
    assert SECRET not in answer.stdout + answer.stderr


@pytest.mark.parametrize(("verb", "words"), VERBS.items(), ids=VERBS)
def test_no_command_shows_the_password(shell: "Shell", verb: str, words: list[str]) -> None:
    answer = shell.ask(ADDRESSES["as-an-option"], "--debug", verb, *words)

    assert answer.code == (1 if verb == "doctor" else 69)
    assert SECRET not in answer.out + answer.err
    assert files_with_password(shell.folder) == []


@pytest.mark.parametrize("verb", [*VERBS, "run", "dashboard"])
def test_no_help_shows_the_password(shell: "Shell", verb: str) -> None:
    answer = shell.ask(UNREACHABLE, verb, "--help")

    assert answer.code == 0
    assert SECRET not in answer.out + answer.err


def test_a_run_shows_the_password_neither_in_its_files_nor_in_ps(harness: Harness) -> None:
    command = [str(CONVSEARCH), "--debug", "run", harness.write(), "--workers", "1", "--cache", str(harness.cache)]
    env = os.environ | {"CONVSEARCH_STORAGE": ADDRESSES["as-an-option"]}
    lines: set[str] = set()
    with (harness.folder / "said.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=harness.folder, env=env, stdout=output, stderr=output)
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            lines |= command_lines(process.pid)
            time.sleep(0.05)
        process.kill()

    assert process.wait() == 69
    assert any("convsearch" in line for line in lines)
    assert not any(SECRET in line for line in lines)
    assert files_with_password(harness.folder) == []


def test_workers_are_started_without_the_address_on_their_command_lines(harness: Harness) -> None:
    file = harness.write(budget={"trials": 1, "epochs": 20})
    with harness.start_from_shell("run", file, "--workers", "1") as launcher:
        launcher.until(lambda: len(launcher.family()) > 2)  # the pool, the server that workers are forked from, ...
        lines = {line for process in launcher.family() for line in command_lines(process.pid)}

    assert len(lines) > 1
    assert not any("studies.db" in line for line in lines if "bin/convsearch" not in line)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (UNREACHABLE, "postgresql+psycopg://user:***@127.0.0.1:1/db"),
        (ADDRESSES["two-@"], "postgresql+psycopg://user:***@127.0.0.1:1/db"),
        ("postgresql://u@h/db?password=x&a=b", "postgresql://u@h/db?password=***&a=b"),
        ("postgresql://u@h/db?a=b&sslpassword=x", "postgresql://u@h/db?a=b&sslpassword=***"),
        ("postgresql://u@h/db?pass%77ord=x&a=b", "postgresql://u@h/db?pass%77ord=***&a=b"),
        ("postgresql://a@b:x'y z@h/db", "postgresql://a@b:***@h/db"),
        ("cannot open 'postgresql://u:x@h/db' now", "cannot open 'postgresql://u:***@h/db' now"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
        ("postgresql://u@h:5432/db", "postgresql://u@h:5432/db"),
    ],
)
def test_passwords_are_hidden_in_any_text(url: str, shown: str) -> None:
    assert database_url.redact(url) == shown
    assert database_url.has_password(url) == (url != shown)


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        (UNREACHABLE, UNREACHABLE),
        ("postgresql://u@h/db?password=a%40b&a=b", "postgresql://u:a%40b@h/db?a=b"),
        ("postgresql:///db?password=x", "postgresql://:x@/db"),
        ("postgresql://u:old@h/db?password=new", "postgresql://u:new@h/db"),
        ("sqlite:///runs/studies.db", "sqlite:///runs/studies.db"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_password_option_is_moved_to_where_sqlalchemy_hides_it(url: str, usable: str) -> None:
    assert database_url.move_password(url) == usable


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("two-@", "write %40 for the one in the password"),
        ("no-port", "must be a number"),
        ("key", "PGSERVICEFILE"),
        ("oauth", "oauth_client_secret must not stand in an address"),
        ("scram", "scram_client_key must not stand in an address"),
    ],
)
def test_an_address_that_would_be_only_partly_hidden_is_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        database_url.move_password(ADDRESSES[name])

    assert SECRET not in str(caught.value)


@dataclass(frozen=True, slots=True)
class Shell:
    """Commands in this process, in a folder of its own, with all that they write to stdout and stderr."""

    folder: Path
    environment: pytest.MonkeyPatch
    output: pytest.CaptureFixture[str]

    def ask(self, url: str | None, *words: str) -> Answer:
        """Run a command with an address in its environment."""
        if url is not None:
            self.environment.setenv("CONVSEARCH_STORAGE", url)
        self.output.readouterr()
        code = main.main(words)
        return Answer(code, *self.output.readouterr())


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    """A shell in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capfd)


def command_lines(pid: int) -> set[str]:
    """Command lines of a process and its descendants, as `ps` shows them."""
    try:
        process = psutil.Process(pid)
        return {" ".join(member.cmdline()) for member in (process, *process.children(recursive=True))}
    except psutil.Error:
        return set()


def files_with_password(folder: Path) -> list[Path]:
    """The files below `folder` that contain the password."""
    return [file for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
