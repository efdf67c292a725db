"""What a study cannot train on its images is known before its first trial."""

from dataclasses import replace
from typing import Any

import pytest

from search.errors import AllTrialsImpossibleError
from search.spec import study_spec
from search.spec.feasibility import check_feasible, examine
from search.spec.fit import ImageLimits
from search.spec.study_spec import StudySpec

LIMITS = ImageLimits(side=16, classes=3, images=27)
RATES = {"low": 0.001, "high": 0.1}


def study(space: dict[str, Any], **tables: Any) -> StudySpec:
    return study_spec.build({"budget": {"epochs": 1}, "space": space, **tables})


def grid(space: dict[str, Any], **tables: Any) -> StudySpec:
    return study(space, search={"sampler": "grid", "repeats": 2}, **tables)


def test_a_search_that_can_train_something_has_nothing_to_tell() -> None:
    assert check_feasible(study({"batch_size": [16, 128], "learning_rate": RATES}), LIMITS).lines() == ()


def test_a_search_whose_every_value_is_changed_names_the_reason_and_the_changes() -> None:
    spec = study({"batch_size": [128, 512], "learning_rate": RATES})

    assert check_feasible(spec, LIMITS).lines() == (
        "none of 200 random configurations of [space] can be trained as it is: a batch of 128 to 512 is more than the "
        "27 images of a step; lower [space] batch_size, or lower [data] validation, which leaves more images",
        "each trial has the nearest values that can: batch_size 128 to 512 -> 27",
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param(
            study({"learning_rate": RATES, "backbone": "resnet18", "head": "flatten"}),
            "none of 200 random configurations of [space] can be trained: backbone 'resnet18' ends in one vector",
            id="no neighbour",
        ),
        pytest.param(
            study({"learning_rate": RATES, "cutout": 32}, data={"image_size": 16}),
            "a cutout of 32 pixels leaves nothing of an image of 16 x 16 pixels; lower [space] cutout",
            id="cutout",
        ),
        pytest.param(
            study({"learning_rate": RATES}, budget={"epochs": 1, "steps_per_epoch": 30}),
            "a step has less than one of the 27 training images; lower [budget] steps_per_epoch",
            id="steps without an image",
        ),
        pytest.param(
            grid({"batch_size": [64, 128], "learning_rate": [0.1, 0.2]}),
            "none of 4 cells can be trained: a batch of 64 to 128 is more than the 27 images of a step",
            id="grid",
        ),
        pytest.param(
            study({"conv_layers": 8}, compare=[{"name": "a"}, {"name": "b", "batch_size": 64}]),
            "none of 2 rows of [[compare]] can be trained: each pooling halves the side",
            id="comparison",
        ),
    ],
)
def test_a_study_that_can_train_nothing_is_refused_with_the_reason(spec: StudySpec, words: str) -> None:
    with pytest.raises(AllTrialsImpossibleError) as refusal:
        check_feasible(spec, LIMITS)

    assert words in str(refusal.value)


def test_the_cells_of_a_grid_that_cannot_be_trained_are_counted_once_for_all_repeats() -> None:
    found = examine(grid({"batch_size": [8, 16, 64], "conv_layers": [1, 6]}), LIMITS)

    assert (found.checked, found.impossible) == (6, 4)
    assert found.lines()[0] == "4 of 6 cells cannot be trained:"
    assert [line.split(":")[0] for line in found.lines()[1:]] == ["  3", "  1"]


def test_the_rows_of_a_comparison_that_cannot_be_trained_are_named_and_the_base_is_marked() -> None:
    rows = [{"name": "deep", "conv_layers": 8}, {"name": "flat"}, {"name": "deeper", "conv_layers": 7}]

    lines = check_feasible(study({"batch_size": 8}, compare=rows), LIMITS).lines()
    others = check_feasible(study({"batch_size": 8}, compare=[rows[1], rows[0]]), LIMITS).lines()

    assert lines[0].startswith("2 of 3 rows of [[compare]] cannot be trained (deep, deeper): each pooling halves")
    assert "conv_layers 7 to 8" in lines[0]
    assert lines[1] == "the first row is among them: the others will have nothing to be compared with"
    assert len(others) == 1


def test_a_study_whose_epochs_are_not_known_yet_is_only_limited_by_its_images() -> None:
    spec = study_spec.build({"budget": {"hours": 1.0}, "space": {"batch_size": [16, 27, 28]}})

    assert check_feasible(spec, LIMITS).lines() == ()
    assert check_feasible(spec, replace(LIMITS, images=15)).changes == ("batch_size 16 to 28 -> 15",)
