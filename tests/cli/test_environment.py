"""Unusual surroundings: no home folder, narrow, full or closed streams, other locales, no working directory."""

import io
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data import home
from data.errors import DataError
from search import tables
from search.cli import cache_folder, reading
from search.cli.main import main
from search.cli.results import print_results
from search.errors import DiskError
from search.storage import queries
from search.storage.rdb import Storage
from search.study import stored_study
from search.tables import Table
from tests.harness import CONVSEARCH, Harness, reader, without_root

TO_SHELL = f"'{CONVSEARCH}'"


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, while HOME names a folder that does not exist."""
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "CONVSEARCH_CACHE"):
        monkeypatch.setenv(name, "")  # restores it, even if the command sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    folder = tmp_path / "work"
    folder.mkdir(mode=0o755)
    monkeypatch.chdir(folder)
    return folder


# -- the home folder ----------------------------------------------------------------------------------------------


def test_without_a_home_folder_images_and_weights_are_kept_beside_the_studies(
    harness: Harness, homeless: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = harness.write(budget={"trials": 1, "epochs": 1})

    code = main(["run", file, "--detach", "--workers", "1"])

    assert code == 0
    cache = homeless / "runs" / ".cache"
    assert f"decoded images go to {cache}; --cache or CONVSEARCH_CACHE names another" in capsys.readouterr().err
    assert len(list(cache.glob("sets/*/meta.json"))) == 1
    assert os.environ["TORCH_HOME"] == str(cache / "torch")
    assert not Path("~").exists()
    assert main(["clean", "--data"]) == 0  # and it is no study


def test_where_others_may_write_the_images_go_to_a_private_temporary_folder(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homeless.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    folder = cache_folder.default_cache()

    assert folder == tmp_path / f"convsearch-{os.geteuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (homeless / "runs").mkdir(mode=0o700)  # as the first run makes it
    assert cache_folder.default_cache() == folder


@pytest.mark.parametrize(
    "occupy",
    [
        pytest.param(lambda folder: folder.symlink_to(folder.parent), id="a link"),
        pytest.param(lambda folder: folder.symlink_to("nowhere"), id="a dangling link"),
        pytest.param(lambda folder: (folder.mkdir(), folder.chmod(0o777)), id="open to all"),
        pytest.param(lambda folder: folder.write_text(""), id="a file"),
    ],
)
def test_a_temporary_folder_that_another_user_may_have_made_is_refused(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, occupy: Callable[[Path], object]
) -> None:
    homeless.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    occupy(tmp_path / f"convsearch-{os.geteuid()}")

    with pytest.raises(DiskError, match="is not a private folder of this user"):
        cache_folder.default_cache()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_temporary_folder_of_another_user_is_refused(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homeless.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    theirs = tmp_path / f"convsearch-{os.geteuid()}"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 54321, 54321)

    with pytest.raises(DiskError, match="is not a private folder of this user"):
        cache_folder.default_cache()


@pytest.mark.parametrize("text", ["", "relative"])
def test_an_unusable_home_is_replaced_by_that_in_passwd(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv("HOME")
    named = home.find()

    monkeypatch.setenv("HOME", text)

    assert home.find() == named


def test_a_home_folder_that_cannot_be_written_is_not_used(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as parent:  # other users cannot enter pytest's folders
        Path(parent).chmod(0o777)
        (Path(parent) / "home").mkdir(mode=0o555)
        monkeypatch.setenv("HOME", f"{parent}/home")
        monkeypatch.setattr("tempfile.tempdir", parent)
        with without_root():
            folder = cache_folder.default_cache()

    assert folder.parent == Path(parent)
    said = f"{parent}/home/.cache/convsearch cannot be written: decoded images go to {folder}"
    assert said in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_home_and_passwd_entry_has_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # the user of a process cannot be changed back
        try:
            os.setuid(54321)
            try:
                found = str(home.expand("~/x"))
            except DataError as error:
                found = f"{home.find()}; {error}"
            os.write(writer, found.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        found = stream.read()
    os.waitpid(child, 0)

    assert found == ("None; ~/x: this user has no home folder (no HOME, no entry in passwd); write the path without ~")


@pytest.mark.parametrize(
    ("words", "code", "place"),
    [
        ("best s --storage sqlite:///~/x/y.db", 69, "/x/y.db yet"),
        ("best s --storage sqlite+pysqlite:///~/x.db?timeout=3", 69, "/x.db yet"),
        ("validate ~/x.toml", 2, "there is no study '~/x.toml'"),
        ("validate FILE --data ~/x.zip", 0, ""),
        ("run FILE --data ~/x.zip --storage sqlite:///s.db", 65, "/x.zip"),
        ("run FILE --set data.source=folder --set data.path=~/x.zip --storage sqlite:///s.db", 65, "/x.zip"),
        ("run FILE --set data.source=folder --set data.path=~/x.zip --dry-run", 65, "/x.zip"),
        ("predict ~/m ~/x.jpg", 65, "/m is not a model folder"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_tilde_is_the_home_folder_in_every_path(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, words: str, code: int, place: str
) -> None:
    home_folder = harness.folder / "my 100 % home?"
    home_folder.mkdir()
    monkeypatch.setenv("HOME", str(home_folder))
    monkeypatch.chdir(harness.folder)
    file = harness.write()

    answer = harness.run(*words.replace("FILE", file).split())

    assert answer.code == code
    assert (str(home_folder) + place if place.startswith("/") else place) in answer.err
    assert not (harness.folder / "~").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("best s --storage sqlite:///~nobodyhere/x.db", 2),
        ("copy-study s --to sqlite:///~nobodyhere/x.db", 2),
        ("validate ~nobodyhere/x.toml", 2),
        ("run FILE --data ~nobodyhere/x", 2),
        ("run FILE --set data.path=~nobodyhere/x", 65),
        ("run FILE --set data.path=~nobodyhere/x --dry-run", 65),
        ("doctor --cache ~nobodyhere/x", 2),
        ("export s --to ~nobodyhere/x", 2),
        ("report s --to ~nobodyhere/x", 2),
        ("predict ~nobodyhere/m a.jpg", 2),
        ("predict m ~nobodyhere/a.jpg", 2),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_the_home_folder_of_an_unknown_user_is_an_error_that_names_the_user(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], words: str, code: int
) -> None:
    harness = Harness(tmp_path, images, tmp_path / "cache")
    arguments = words.replace("FILE", harness.write()).split()
    if "--storage" not in words and arguments[0] in ("run", "export", "report"):
        arguments += ["--storage", harness.url]

    assert main(arguments) == code
    assert "there is no user 'nobodyhere'; write the path without ~" in capsys.readouterr().err


def test_a_file_whose_name_begins_with_a_tilde_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~photo.jpg").touch()

    assert home.expand("~photo.jpg") == Path("~photo.jpg")


# -- names of studies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my study", "größe", "it's", "n" * 65, "studies.db"])
def test_a_file_whose_name_no_study_may_have_is_refused_with_the_way_out(harness: Harness, name: str) -> None:
    answer = harness.run("run", harness.write(name))

    assert answer.code == 2
    assert answer.err.endswith("; choose another one with --name\n")
    assert not harness.dirs.root.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("study.toml.txt", "is a file, but the name of a study file ends in .toml; rename it"),
        ("n" * 300, "there is no study"),
    ],
)
def test_a_file_that_is_no_study_file_is_refused(harness: Harness, name: str, message: str) -> None:
    (harness.folder / "study.toml.txt").touch()

    answer = harness.run("validate", str(harness.folder / name))

    assert answer.code == 2
    assert message in answer.err


# -- streams and locales ------------------------------------------------------------------------------------------


def test_a_table_escapes_what_the_encoding_lacks_and_stays_aligned() -> None:
    table = Table(columns=("image", "class"), rows=(("a.jpg", "红花"), ("b\udcff.jpg", "grün")), after=("Größe?",))
    shown = {}
    for encoding in ("ascii", "cp1252", "utf-8"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        tables.write_table(table, stream, {})
        stream.seek(0)
        shown[encoding] = stream.read()

    assert shown["ascii"] == (
        "image        class\na.jpg        \\u7ea2\\u82b1\nb\\udcff.jpg  gr\\xfcn\nGr\\xf6\\xdfe?\n"
    )
    assert "\\u7ea2\\u82b1\nb\\udcff.jpg  grün\nGröße?" in shown["cp1252"]
    assert "红花" in shown["utf-8"]


@pytest.mark.parametrize(
    ("environ", "escaped"),
    [
        pytest.param({"PYTHONIOENCODING": "ascii"}, r"Gr\xf6\xdfe \u7ea2\u82b1?", id="ascii"),
        pytest.param({"PYTHONIOENCODING": "cp1252"}, r"Größe \u7ea2\u82b1?", id="cp1252"),
        pytest.param({"LC_ALL": "C"}, "Größe 红花?", id="C"),
        pytest.param(
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, r"Gr\xf6\xdfe \u7ea2\u82b1?", id="C, strict"
        ),
    ],
)
def test_an_output_that_cannot_hold_a_text_gets_it_escaped(
    harness: Harness, environ: dict[str, str], escaped: str
) -> None:
    folder = harness.folder / "größe"
    folder.mkdir()
    file = folder / "s.toml"
    file.write_text('question = "Größe 红花?"\n' + Path(harness.write()).read_text(), encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}

    answer = subprocess.run([CONVSEARCH, "validate", file], env=inherited | environ, capture_output=True, check=False)

    assert (answer.returncode, answer.stderr) == (0, b"")
    assert escaped in answer.stdout.decode("cp1252" if "cp1252" in environ.values() else "utf-8")


def test_names_are_utf_8_in_any_locale() -> None:
    environ = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [str(CONVSEARCH), "best", "s", "--storage", "sqlite:////nowhere/größe.db"]

    answer = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert answer.returncode == 69
    assert r"there is no database at /nowhere/gr\xf6\xdfe.db yet" in answer.stderr


@pytest.mark.parametrize(("term", "codes"), [("xterm", "\x1b[H\x1b[J"), ("dumb", "")])
def test_a_dumb_terminal_gets_no_escape_codes(monkeypatch: pytest.MonkeyPatch, term: str, codes: str) -> None:
    screen, terminal = os.openpty()
    monkeypatch.setenv("TERM", term)

    def answer() -> int:
        print("the answer")
        sys.stdout.flush()
        raise KeyboardInterrupt

    with os.fdopen(terminal, "w") as stream, os.fdopen(screen, "rb", buffering=0) as shown:
        monkeypatch.setattr("sys.stdout", stream)
        with pytest.raises(KeyboardInterrupt):
            reading._watched(answer, watch=True)

        assert shown.read(100) == f"{codes}the answer\r\n".encode()


def test_json_is_exact_in_any_encoding(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)

    tables.print_answer({"class": "红花 \udcff"}, Table(columns=(), rows=()), as_json=True)

    stream.seek(0)
    assert json.load(stream) == {"schema": 1, "class": "红花 \udcff"}


@pytest.mark.parametrize(
    ("line", "code", "output"),
    [
        pytest.param("completion bash >/dev/full", 74, "the output cannot be written: No space left", id="full"),
        pytest.param("--help >/dev/full", 74, "the output cannot be written: No space left", id="full, help"),
        pytest.param(
            "completion bash 1</dev/null", 74, "cannot be written: Bad file descriptor", id="for reading only"
        ),
        pytest.param("best s --storage sqlite:////nowhere/x.db 2>/dev/full", 69, "", id="full stderr"),
        pytest.param("completion bash >&-", 0, "", id="closed"),
        pytest.param("best s --storage sqlite:////nowhere/x.db 2>&-", 69, "", id="closed stderr"),
        pytest.param("validate quickstart <&- >&- 2>&-", 0, "", id="all closed"),
    ],
)
def test_a_full_or_closed_stream_changes_no_exit_code_but_that_of_lost_output(
    line: str, code: int, output: str
) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    answer = subprocess.run(f"{TO_SHELL} {line}", shell=True, env=environ, capture_output=True, text=True, check=False)

    assert answer.returncode == code
    assert answer.stdout == ""
    assert output in answer.stderr
    assert len(answer.stderr.splitlines()) == (1 if output else 0)


def test_a_message_that_a_full_disk_refused_breaks_no_later_write() -> None:
    program = (
        "import sys; from search.cli import streams; from search.console import echo\n"
        "streams.prepare(); echo('lost'); sys.stderr.flush()"
    )
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    with open("/dev/full", "w") as full:
        answer = subprocess.run([sys.executable, "-c", program], stderr=full, env=environ, check=False)

    assert answer.returncode == 0


def test_no_file_takes_the_place_of_a_closed_stream() -> None:
    program = (
        "import os, sys; from search.cli import streams\n"
        "streams.prepare()\n"
        "are_inherited = all(os.get_inheritable(number) for number in range(3))\n"
        "sys.exit(0 if are_inherited and os.open(os.devnull, os.O_RDONLY) > 2 else 1)"
    )

    answer = subprocess.run(f"'{sys.executable}' -c \"$PROGRAM\" <&- >&- 2>&-", shell=True, env={"PROGRAM": program})

    assert answer.returncode == 0


def test_results_that_a_full_disk_refuses_change_no_exit_code_of_a_run(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.create()
    row = queries.study(reader(harness.url), "s")

    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        print_results(row, [Table(columns=(), rows=(), before=("the best",))])

    assert "No space left on device; `convsearch best s` prints the results" in capsys.readouterr().err


def test_a_closed_stdin_is_no_answer(harness: Harness) -> None:
    harness.create()

    answer = subprocess.run(
        f"{TO_SHELL} delete s --storage '{harness.url}' <&-", shell=True, capture_output=True, text=True, check=False
    )

    assert answer.returncode == 2
    assert "nothing was deleted; --yes answers the question" in answer.stderr


@pytest.mark.parametrize("option", ["--storage", "--to"])
def test_a_database_url_that_is_not_utf_8_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy-study", "s", "--to", "sqlite:///x.db", option, "sqlite:///\udcff.db"]) == 2
    assert r"must be UTF-8, but got 'sqlite:///\udcff.db'" in capsys.readouterr().err


def test_images_in_a_folder_whose_name_is_not_utf_8_are_read(harness: Harness) -> None:
    folder = os.fsdecode(os.fsencode(harness.folder) + b"/\xff")
    Path(folder).symlink_to(harness.images)

    answer = harness.run("run", harness.write(), "--data", folder, "--detach")

    assert answer.code == 0
    assert stored_study.load(Storage(harness.url), "s").spec.data.path == folder


# -- folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["run quickstart", "doctor", "export s", "predict m a.jpg", "clean", "serve --unit"])
def test_a_deleted_working_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert main(words.split()) == 2
    assert "the working directory cannot be used (No such file or directory); change to another" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(("words", "code"), [("best s", 2), ("studies --storage sqlite:////nowhere/x.db", 69)])
def test_a_closed_working_directory_is_named_if_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, code: int
) -> None:
    (tmp_path / "closed").mkdir()
    monkeypatch.chdir(tmp_path / "closed")
    (tmp_path / "closed").chmod(0)

    with without_root():
        assert main(words.split()) == code

    assert ("the working directory cannot be used (Permission denied)" in capsys.readouterr().err) == (code == 2)


def test_a_long_path_of_temporary_files_is_not_used_for_sockets(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    program = (
        "from multiprocessing import util; import tempfile; from search.workers import local\n"
        "local.start_server(); print(util.get_temp_dir(), tempfile.gettempdir(), sep='\\n')"
    )

    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )

    sockets, temporary = answer.stdout.splitlines()
    assert Path(sockets).parent == Path("/tmp")
    assert temporary == str(folder)
