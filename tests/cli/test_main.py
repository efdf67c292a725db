"""Every verb: its exit codes, its JSON and its error messages."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from models.config import TestTimeAugmentation
from search.cli import options, training
from search.cli.main import VERBS, main
from search.spec import settings
from tests.harness import CONVSEARCH, Harness, paint


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> Harness:
    """A harness in which the study "s" has run; no test changes it."""
    harness = Harness(tmp_path_factory.mktemp("done"), images, cache)
    assert harness.train(budget={"trials": 2, "epochs": 2}).code == 0
    return harness


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("studies", ["schema", "studies"]),
        ("best s --top 9", ["schema", "study", "directions", "counts", "trials"]),
        ("show s 1", ["schema", "study", "number", "state", "values", "params", "curve", "attempts", "reason"]),
        ("doctor", ["schema", "ok", "checks"]),
    ],
    ids=lambda case: case.split()[0] if isinstance(case, str) else "",
)
def test_queries_answer_in_json(finished: Harness, words: str, keys: list[str]) -> None:
    answer = finished.run(*words.split(), "--json")

    assert (answer.code, answer.err) == (0, "")
    assert answer.json["schema"] == 1
    assert set(keys) <= answer.json.keys()


def test_best_ranks_the_trials_and_show_prints_one_of_them(finished: Harness) -> None:
    best = finished.run("best", "s", "--json").json
    show = finished.run("show", "s", str(best["trials"][0]["number"]), "--json").json

    values = [trial["values"][0] for trial in best["trials"]]
    assert values == sorted(values, reverse=True)
    assert best["counts"] == {
        "budget": 2,
        "complete": 2,
        **dict.fromkeys(("pruned", "failed", "running", "waiting", "paused", "remaining"), 0),
    }
    assert show["values"] == best["trials"][0]["values"]
    assert [step for step, _ in show["curve"]] == [1, 2]
    assert show["command"] == f"convsearch run s --again {show['number']}"


def test_queries_print_plain_lines_into_a_pipe(finished: Harness) -> None:
    for words in (("studies",), ("best", "s"), ("show", "s", "0"), ("doctor",)):
        answer = finished.run(*words)

        assert (answer.code, answer.err) == (0, "")
        assert answer.out.count("\n") > 2
        assert "\x1b" not in answer.out


def test_validate_prints_the_spec_and_writes_nothing(harness: Harness) -> None:
    file = harness.write()

    answer = harness.run("validate", file, "--set", "budget.epochs=7", "--json")
    table = harness.run("validate", file)

    assert (answer.code, table.code) == (0, 0)
    assert (answer.json["schema"], answer.json["spec"]["budget"]["epochs"]) == (1, 7.0)
    assert "[budget] epochs" in table.out
    assert [path.name for path in harness.folder.iterdir()] == ["s.toml"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        pytest.param("best nobody", 2, "there is no study 'nobody' in ", id="unknown study"),
        pytest.param("show s 7", 2, "study 's' has no trial 7; it has trials 0 to 1", id="unknown trial"),
        pytest.param("best ss", 2, "did you mean", id="nearly a study"),
        pytest.param("resume nobody", 2, "there is no study 'nobody' ", id="resume unknown"),
        pytest.param("stop nobody", 2, "there is no study 'nobody' in ", id="stop unknown"),
        pytest.param("delete nobody --yes", 2, "there is no study 'nobody' in ", id="delete unknown"),
        pytest.param("run nobody", 2, "there is no study 'nobody'; there are ", id="unknown file"),
        pytest.param("run nobody --again 0", 2, "there is no study 'nobody' in ", id="again unknown"),
        pytest.param("compare s", 2, "it has no [[compare]] rows", id="no comparison"),
        pytest.param("run FILE --name a/b", 2, "a study's name must be up to 64 letters", id="bad name"),
        pytest.param("run FILE --set epochs", 2, "--set takes a key and a value", id="bad set"),
        pytest.param("run FILE --set budget.epoch=1", 78, "did you mean 'epochs'?", id="unknown key set"),
        pytest.param("run FILE --set budget.epochs=0", 78, "[budget] epochs must be greater than 0", id="bad value"),
        pytest.param("run FILE --set budget.epochs=3", 78, "[budget] epochs: 2.0 -> 3.0", id="another spec"),
        pytest.param("run FILE --data /nowhere.zip", 65, "there is no /nowhere.zip", id="missing archive"),
        pytest.param(
            "best s --storage sqlite:////nowhere/x.db",
            69,
            "there is no database at /nowhere/x.db yet",
            id="missing database",
        ),
        pytest.param("best s --storage sqlite:///FILE", 69, "cannot be read as a SQLite database", id="no database"),
        pytest.param("run FILE --storage sqlite:///FILE", 69, "file is not a database", id="run on no database"),
        pytest.param("run FILE --storage sqlite:///FILE/x.db", 74, "name another --storage", id="unwritable home"),
        pytest.param("best s --storage nonsense", 69, "the storage is not a database URL", id="no URL"),
    ],
)
def test_an_impossible_request_is_explained_with_its_exit_code(
    finished: Harness, words: str, code: int, text: str
) -> None:
    answer = finished.run(*words.replace("FILE", str(finished.folder / "s.toml")).split())

    assert answer.code == code
    assert text in answer.err
    assert answer.err.startswith("convsearch: ")
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert len(finished.trials()) == 2


@pytest.mark.parametrize("words", ["", "fly", "best", "run s --trials 0", "run s --hours inf", "run s --workers -1"])
def test_an_invalid_command_is_refused_with_its_usage(words: str) -> None:
    process = subprocess.run([str(CONVSEARCH), *words.split()], capture_output=True, text=True, check=False)

    assert process.returncode == 2
    assert process.stderr.startswith("Usage: convsearch")


def test_the_command_line_knows_final_trainings_as_study_files_do() -> None:
    assert training.MAX_FINAL_TRAININGS == settings.MAX_FINAL_TRAININGS
    assert get_args(TestTimeAugmentation) == options.TEST_TIME_AUGMENTATIONS


def test_a_refused_spec_names_the_difference_and_the_remedy(finished: Harness) -> None:
    answer = finished.run("run", str(finished.folder / "s.toml"), "--set", "space.width=12")

    assert answer.code == 78
    assert "[space] width: 8 -> 12" in answer.err
    assert "--name OTHER" in answer.err


def test_other_images_under_the_same_path_are_refused(harness: Harness, tmp_path: Path) -> None:
    paint(tmp_path / "photos")
    file = harness.write(data={"path": str(tmp_path / "photos")}, budget={"trials": 1, "epochs": 1})
    harness.run("run", file, "--workers", "1")
    image = tmp_path / "photos" / "train" / "red" / "000.png"
    image.write_bytes((tmp_path / "photos" / "train" / "blue" / "000.png").read_bytes())

    answer = harness.run("run", file, "--trials", "2", "--workers", "1")

    assert answer.code == 78
    assert "[data] the images themselves are not the same" in answer.err
    assert harness.counts().finished == 1


def test_a_cache_that_cannot_be_written_is_a_disk_error(harness: Harness) -> None:
    harness.folder.joinpath("file").write_text("")
    blocked = Harness(harness.folder, harness.images, harness.folder / "file")

    answer = blocked.run("run", harness.write())

    assert answer.code == 74
    assert f"cannot write to {harness.folder / 'file'}: Not a directory; name another --cache" in answer.err


def test_debug_shows_the_traceback(finished: Harness) -> None:
    command = [str(CONVSEARCH), "--debug", "best", "nobody", "--storage", finished.url]

    answer = subprocess.run(command, capture_output=True, text=True, check=False)

    assert answer.returncode == 2
    assert answer.stderr.startswith("Traceback (most recent call last)")


def test_a_closed_output_pipe_is_no_error(finished: Harness) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    with os.fdopen(writer, "w") as stream:
        answer = subprocess.run(
            [str(CONVSEARCH), "studies", "--json", "--storage", finished.url],
            stdout=stream,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert (answer.returncode, answer.stderr) == (0, b"")


def test_the_database_and_the_cache_are_taken_from_the_environment(finished: Harness, tmp_path: Path) -> None:
    env = {**os.environ, "CONVSEARCH_STORAGE": finished.url, "CONVSEARCH_CACHE": str(tmp_path / "cache")}

    studies = subprocess.run([str(CONVSEARCH), "studies"], env=env, capture_output=True, text=True, check=True)
    doctor = subprocess.run([str(CONVSEARCH), "doctor"], env=env, capture_output=True, text=True, check=True)

    assert "2 of 2" in studies.stdout
    assert str(tmp_path / "cache") in doctor.stdout


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"Example: convsearch {verb}" in capsys.readouterr().out


def test_delete_asks_first_and_then_removes_rows_and_files(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness.train(budget={"trials": 1, "epochs": 1}).code == 0
    answers = []

    for word in ("no\n", "", "y\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(word))
        answers.append(harness.run("delete", "s"))

    assert [answer.code for answer in answers] == [2, 2, 0]
    assert "delete 's' with 1 finished trials and its files in " in answers[0].err
    assert "nothing was deleted; --yes answers the question" in answers[1].err
    assert "deleted 's'" in answers[2].err
    assert harness.run("studies", "--json").json["studies"] == []
    assert not harness.dirs.study("s").exists()


def test_a_deleted_study_can_be_started_again_from_nothing(harness: Harness) -> None:
    file = harness.write(budget={"trials": 1, "epochs": 1})
    assert harness.train(budget={"trials": 1, "epochs": 1}).code == 0
    (before,) = harness.trials()

    harness.run("delete", "s", "--yes")
    answer = harness.run("run", file, "--workers", "1")

    assert answer.code == 0
    assert "going on" not in answer.err
    assert harness.trials()[0].curve == before.curve


def test_clean_removes_the_files_that_a_deleted_study_left(harness: Harness) -> None:
    harness.create("kept")
    with harness.dirs.running("gone"):
        harness.dirs.trial("gone", 0).mkdir()
    harness.dirs.trial("gone", 0).joinpath("step.ckpt").write_bytes(b"0" * 200_000)

    first, second = harness.run("clean"), harness.run("clean")

    assert (first.code, second.code) == (0, 0)
    assert "there is no such study" in first.err
    assert "0.2 MB are free again" in first.err
    assert second.err == "nothing to remove: every file belongs to a study\n"
    assert [path.name for path in harness.dirs.root.iterdir()] == ["studies.db"]
