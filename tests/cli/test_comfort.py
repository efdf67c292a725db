"""Convenience of the command line: dry runs, --watch, --on-end and shell completion."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from search import hardware
from search.cli import main
from search.cli.completion import study_files
from search.service.dry_run import concurrent_workers, expected_share
from search.spec import study_spec
from search.trial import speed
from tests.harness import CONVSEARCH, PATIENCE_S, Harness, wait_until

BUDGET: dict[str, Any] = {"trials": 2, "epochs": 1}


def test_a_dry_run_estimates_and_writes_nothing(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MOMENT_S", 0.2)  # a rough speed is enough
    file = harness.write(budget={"trials": 8, "epochs": 3}, space={"width": {"low": 4, "high": 16}})

    answer = harness.run("run", file, "--workers", "2", "--dry-run", "--json")
    table = harness.run("run", file, "--workers", "2", "--dry-run")

    assert (answer.code, table.code) == (0, 0)
    estimate = answer.json
    assert (estimate["trials"], estimate["workers"], estimate["images"], estimate["share"]) == (8, 2, 320, 1.0)
    assert estimate["macs"] == sorted(estimate["macs"])
    assert all(speed > 0 for speed in estimate["images_per_second"])
    assert estimate["seconds"] > 0
    assert "An estimate, from some seconds of training here" in table.out
    assert not harness.dirs.root.exists()


def test_a_plan_of_a_small_space_counts_the_configurations_that_can_be_trained(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "MOMENT_S", 0.2)  # a rough speed is enough
    space = {"conv_layers": {"low": 1, "high": 6}, "learning_rate": [0.05, 0.1]}
    file = harness.write(budget={"trials": 5000, "epochs": 3}, space=space)

    checked = harness.run("validate", file)
    planned = harness.run("run", file, "--dry-run", "--json", "--workers", "1")

    assert "12; each is tried once, so at most 12 of 5,000 trials run" in checked.out
    assert (planned.json["trials"], planned.json["configurations"]) == (6, 6)


def test_a_dry_run_excludes_again_and_json_requires_a_dry_run(harness: Harness) -> None:
    again = harness.run("run", "s", "--again", "0", "--dry-run")
    without = harness.run("run", harness.write(), "--json")

    assert (again.code, without.code) == (2, 2)
    assert "leave out --dry-run" in again.err
    assert "--json is for --dry-run" in without.err


def test_a_dry_run_refuses_a_space_without_a_trainable_configuration(harness: Harness) -> None:
    answer = harness.run("run", harness.write(budget={"max_parameters": 1}), "--dry-run")

    assert answer.code == 76
    assert "none of 200 random configurations of [space] can be trained: " in answer.err
    assert "[budget] max_parameters = 1" in answer.err


def test_a_dry_run_estimates_what_a_run_changes_to_fit_and_networks_that_diverge(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "MOMENT_S", 0.1)  # a rough speed is enough
    rates = {"low": 9.0, "high": 10.0}
    wild = {"learning_rate": rates, "norm": "none", "weight_decay": 1.0, "scheduler": "none", "batch_size": 512}

    answer = harness.run("run", harness.write(space=wild), "--workers", "1", "--dry-run", "--json")

    assert answer.code == 0, answer.err
    assert answer.json["impossible"] == 1.0
    assert answer.json["notes"][-1] == "each trial has the nearest values that can: batch_size 512 -> 320"


def test_a_file_is_validated_against_its_images_if_they_are_here(harness: Harness, tmp_path: Path) -> None:
    space = {"batch_size": [32, 512], "learning_rate": 0.1}
    flawed = harness.write(space=space, search={"sampler": "grid"}, budget={"trials": 1})

    partly = harness.run("validate", flawed, "--json")
    never = harness.run("validate", flawed, "--set", "space.batch_size=512")
    elsewhere = harness.run("validate", flawed, "--data", str(tmp_path / "nowhere"))

    assert (partly.code, never.code, elsewhere.code) == (0, 76, 0)
    (note,) = partly.json["notes"]
    assert note.startswith("1 of 2 cells cannot be trained: a batch of 512 is more than the 320 images of a step")
    assert note in partly.err
    assert "the study cannot be trained: a batch of 512 is more than the 320 images" in never.err
    assert elsewhere.err.startswith("not checked against its images: ")


@pytest.mark.parametrize(("pruner", "share"), [("none", 1.0), ("asha", (1 + 2 / 3 + 6 / 9) / 9)], ids=["none", "asha"])
def test_pruning_makes_the_average_trial_shorter(pruner: str, share: float) -> None:
    spec = study_spec.build(
        {
            "search": {"pruner": pruner, "audit": 0.0},
            "budget": {"trials": 9, "epochs": 9},
            "space": {"width": [8, 16]},
        }
    )

    assert expected_share(spec) == pytest.approx(share)


def test_watch_repeats_the_answer_until_ctrl_c(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    out = harness.folder / "watched.txt"
    with out.open("w") as stream:
        process = subprocess.Popen(
            [str(CONVSEARCH), "studies", "--watch", "--storage", harness.url],
            stdout=stream,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_until(lambda: out.read_text().count("2 of 2") >= 2)
            process.send_signal(signal.SIGINT)

            assert process.wait(PATIENCE_S) == 130
        finally:
            process.kill()
            process.wait()
    assert "\x1b" not in out.read_text()


@pytest.mark.parametrize(("space", "code"), [({}, 0), ({"width": 1}, 78)], ids=["fine", "refused"])
def test_on_end_runs_its_command_after_success_and_after_failure(
    harness: Harness, space: dict[str, Any], code: int
) -> None:
    hook_output = harness.folder / "hook.txt"
    file = harness.write(budget=BUDGET, space=space)

    answer = harness.run(
        "run", file, "--workers", "1", "--on-end", f'echo "$CONVSEARCH_STUDY $CONVSEARCH_EXIT" > {hook_output}'
    )

    assert answer.code == code
    assert hook_output.read_text() == f"s {code}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("resume", "v1.2"), "v1.2"),
        (("resume", "x.final"), "x.final"),
        (("run", "here/v1.toml"), "v1"),
        (("run", "v1", "--name", "v1.2"), "v1.2"),
        (("run", "x", "--again", "3"), "x.again-3"),
    ],
    ids=" ".join,
)
def test_on_end_receives_the_study_of_the_command(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    hook = f"echo $CONVSEARCH_STUDY $CONVSEARCH_EXIT > {tmp_path / 'hook.txt'}"

    code = main.main([*words, "--on-end", hook, "--storage", f"sqlite:///{tmp_path / 'none.db'}"])

    assert code != 0  # neither the database nor the file exists
    assert (tmp_path / "hook.txt").read_text() == f"{expected} {code}\n"


@pytest.mark.parametrize("name", ["../evil", "my study!", "s.final", "", "n" * 300])
def test_a_dry_run_refuses_the_names_that_a_run_refuses(harness: Harness, name: str) -> None:
    answer = harness.run("run", harness.write(budget=BUDGET), "--dry-run", "--name", name)

    assert answer.code == 2
    assert not harness.dirs.root.exists()


def test_a_dry_run_counts_only_workers_that_can_run_at_once() -> None:
    assert concurrent_workers(("cpu",) * 1000, trials=4) == min(4, hardware.cores())
    assert concurrent_workers(("cpu",), trials=4) == 1
    assert concurrent_workers(("cuda:0", "cuda:0", "cuda:1"), trials=9) == 3


def test_completion_lists_study_files_in_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "t.toml", tmp_path / "sub" / "u.toml"):
        path.touch()
    monkeypatch.chdir(tmp_path)

    ctx = click.Context(main.VERBS["run"])
    completions = [set(study_files(ctx, main.VERBS["run"].params[0], prefix)) for prefix in ("su", "sub/", "./t")]

    assert completions == [{"sub/"}, {"sub/u.toml"}, {"./t.toml"}]


def test_a_failing_on_end_command_changes_no_exit_code(harness: Harness) -> None:
    answer = harness.run("run", harness.write(budget=BUDGET), "--workers", "1", "--on-end", "exit 3")

    assert answer.code == 0
    assert "--on-end: 'exit 3' ended with 3" in answer.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("convsearch be", {"best"}),
        ("convsearch best ", {"s", "spare"}),
        ("convsearch best sp", {"spare"}),
        ("convsearch show s 1", {"1"}),
        ("convsearch compare s ", {"0", "1", "s", "spare"}),
        ("convsearch run quick", {"quickstart"}),
        ("convsearch best s --to", {"--top"}),
    ],
)
def test_a_shell_completes_verbs_flags_studies_and_trials(harness: Harness, line: str, expected: set[str]) -> None:
    assert harness.train(budget=BUDGET).code == 0
    harness.create("spare")

    assert {word.strip() for word in completed(harness, line)} == expected


def completed(harness: Harness, line: str) -> list[str]:
    """The completions that bash offers at the end of a line."""
    env = os.environ | {
        "_CONVSEARCH_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "CONVSEARCH_STORAGE": harness.url,
    }
    result = subprocess.run([str(CONVSEARCH)], env=env, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.stderr == ""
    return [completion.partition(",")[2] for completion in result.stdout.split()]


def test_completion_works_without_a_database(harness: Harness) -> None:
    assert completed(harness, "convsearch best ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    result = subprocess.run([str(CONVSEARCH), "completion", shell], capture_output=True, text=True, check=True)

    assert "convsearch" in result.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("why", "s", "--json", "1"),
        ("why", "--json", "s", "1"),
        ("compare", "s", "--json", "0", "1"),
        ("compare", "s", "0", "--json", "1"),
    ],
    ids=" ".join,
)
def test_flags_may_stand_between_names(harness: Harness, words: tuple[str, ...]) -> None:
    assert harness.train(budget=BUDGET).code == 0

    assert harness.run(*words).json is not None


def test_version_loads_neither_completion_nor_heavy_libraries() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(CONVSEARCH), "--version"], capture_output=True, text=True, check=True
    )

    assert not {"click.shell_completion", "sqlalchemy", "optuna", "torch"} & set(
        re.findall(r"[\w.]+$", result.stderr, re.M)
    )
