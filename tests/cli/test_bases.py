"""The command line with study files that have a base."""

from pathlib import Path

from tests.harness import Harness


def write(harness: Harness, text: str) -> str:
    """Write a study file in another folder than its base, s.toml; returns its path."""
    harness.write(budget={"trials": 2, "epochs": 1}, space={"optimizer": ["sgd", "adam"]})
    folder = Path(harness.folder) / "mine"
    folder.mkdir(exist_ok=True)
    (folder / "own.toml").write_text('base = "../s.toml"\n' + text)
    return str(folder / "own.toml")


def test_validate_shows_the_merged_study_and_names_its_bases(harness: Harness) -> None:
    when = "[space.when.optimizer.adamw]\nlearning_rate = 0.1\n"
    file = write(harness, f"[budget]\nepochs = 3\n{when}")

    table = harness.run("validate", file)
    answer = harness.run("validate", file, "--json")

    assert (table.code, answer.code) == (0, 0)
    base = str(Path(file).parent / "../s.toml")
    assert f"base {base}" in " ".join(table.out.split())
    assert answer.json["bases"] == [base]
    assert (answer.json["spec"]["budget"]["trials"], answer.json["spec"]["budget"]["epochs"]) == (2, 3.0)
    note = "[space.when.optimizer] 'adamw': without effect, because [space] optimizer offers no such value"
    assert note in table.err
    assert note in answer.json["notes"]


def test_a_stored_study_goes_on_without_the_base_of_its_file(harness: Harness) -> None:
    file = write(harness, 'question = "Mine?"\n[budget]\ntrials = 1\n')

    first = harness.run("run", file, "--workers", "1")
    (harness.folder / "s.toml").unlink()
    again = harness.run("run", file)
    resumed = harness.run("resume", "own", "--trials", "2", "--workers", "1")

    assert (first.code, again.code, resumed.code) == (0, 78, 0)
    assert "own.toml: base = '../s.toml': there is no study" in again.err
    assert "own: 2 of 2 trials finished" in resumed.out
    assert resumed.out.startswith("Mine?")
