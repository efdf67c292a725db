"""Unusual surroundings of a command."""

import pytest

from tests.harness import Harness

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
