"""Texts from a foreign database cannot control a terminal, a page or a spreadsheet."""

import csv
import io
import os
import pty
import re
import subprocess
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from search.analysis.eta import ProgressTracker
from search.console import escape
from search.storage import queries
from search.storage.rdb import Storage
from search.storage.read_only import open_reader
from search.workers.live_view import PlainView, Screen, finished_line, summary
from tests.harness import CONVSEARCH, Harness

TITLE = "\x1b]0;owned\x07"
CLEAR = "\x1b[2J\x1b[1;1H"
EVIL = f"<script>alert(1)</script>{TITLE}{CLEAR}\r\n\x9b31m\u202egnp\x00 [bold red]x[/] =cmd|'/c calc'!A1"
NAME = f"n{TITLE}\n\u202e{CLEAR}"
#: The sequences that rich writes on a terminal: colours of text and box. None moves the cursor or sets a title.
COLOURS = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    """A database that plain Optuna filled with hostile texts."""
    url = f"sqlite:///{tmp_path / 'foreign.db'}"
    storage = optuna.storages.RDBStorage(Storage(url, create=True).url)
    study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize")
    study.set_user_attr("question", EVIL)
    for value, reason in ((0.5, EVIL), (0.25, EVIL * 2000)):
        trial = study.ask({EVIL: optuna.distributions.CategoricalDistribution([EVIL, -1, "=1+1"])})
        trial.set_user_attr("reason", reason)
        study.tell(trial, value)
    failed = study.ask()
    failed.set_user_attr("reason", EVIL)
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    study.ask()
    return url


@pytest.mark.parametrize("words", [["studies"], ["best", NAME], ["best", NAME, "--csv"], ["best", NAME, "--json"]])
def test_no_command_prints_a_control_character(harness: Harness, foreign: str, words: list[str]) -> None:
    answer = harness.run(*words, "--storage", foreign)

    assert (answer.code, answer.err) == (0, "")
    assert all(line.isprintable() for line in answer.out.split("\n"))
    assert "alert(1)" in answer.out
    assert r"\x1b]0;owned\x07" in answer.out or r"\u001b]0;owned\u0007" in answer.out


def test_a_terminal_gets_no_control_character_but_colours(foreign: str) -> None:
    ours, theirs = pty.openpty()
    command = [str(CONVSEARCH), "best", NAME, "--top", "1", "--storage", foreign]

    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"})
        os.close(theirs)
        shown = read_to_end(screen)
        process.wait()

    assert process.returncode == 0
    assert "alert(1)" in shown
    assert all(line.isprintable() for line in COLOURS.sub("", shown).replace("\r\n", "\n").split("\n"))


def read_to_end(screen: io.FileIO) -> str:
    """Everything written to a terminal; Linux raises OSError when the last writer has closed it."""
    parts = []
    try:
        while part := screen.read(65536):
            parts.append(part)
    except OSError:
        pass
    return b"".join(parts).decode()


def test_the_summary_has_no_control_character(foreign: str) -> None:
    progress = queries.progress(open_reader(foreign), NAME)
    snapshot = ProgressTracker(clock=lambda: 0.0).snapshot(progress)
    stream = io.StringIO()

    PlainView(stream, lambda: 0.0).say(summary(snapshot))
    lines = [finished_line(trial) for trial in progress.finished]

    assert len(lines) == 3
    assert stream.getvalue().removesuffix("\n").isprintable()
    assert "owned" in stream.getvalue()
    assert all(line.isprintable() for line in lines)


def test_the_live_view_has_no_control_character(foreign: str) -> None:
    snapshot = ProgressTracker(clock=lambda: 0.0).snapshot(queries.progress(open_reader(foreign), NAME))
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=False, _environ={})

    with console.capture() as capture:
        console.print(Screen(snapshot))

    lines = capture.get().removesuffix("\n").split("\n")
    assert "owned" in capture.get()
    assert len(lines) < 24
    assert all(len(line) <= 80 and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\r\tc\0", r"a\nb\r\tc\x00"),
        ("\x9b\x7f", r"\x9b\x7f"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("grün 猫 [bold] <b>", "grün 猫 [bold] <b>"),
        (r"\x1b", r"\x1b"),
    ],
    ids=ascii,
)
def test_unprintable_characters_are_escaped(raw: str, shown: str) -> None:
    assert escape(raw) == shown


def test_csv_output_has_no_formula(harness: Harness, foreign: str) -> None:
    answer = harness.run("best", NAME, "--csv", "--storage", foreign)

    cells = [cell for row in csv.reader(io.StringIO(answer.out)) for cell in row]
    assert answer.code == 0
    words = [cell for cell in cells if cell != "-1"]  # a number may begin with a minus
    assert not [word for word in words if word.startswith(("=", "+", "-", "@", "\t", "\r"))]
