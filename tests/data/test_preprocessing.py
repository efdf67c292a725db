"""data/preprocessing.py: the choice of the steps."""

import pytest
from pydantic import ValidationError

from data.preprocessing import Fit, Preprocessing, depth_of, fit_for, kept_by_crop


@pytest.mark.parametrize(
    ("sizes", "fit"),
    [
        pytest.param([(32, 32)], "crop", id="square"),
        pytest.param([(4032, 3024), (3024, 4032)] * 5, "crop", id="photos-of-a-telephone"),
        pytest.param([(1920, 1080)] * 5, "crop", id="16:9"),
        pytest.param([(1921, 1080)] * 5, "squash", id="just-wider-than-16:9"),
        pytest.param([(96, 24)] * 5, "squash", id="panoramas"),
        pytest.param([(24, 96)] * 5, "squash", id="columns"),
        pytest.param([(96, 24), (24, 96)] * 5, "pad", id="wide-and-high"),
        pytest.param([(96, 24)] * 5 + [(140, 24)] * 5, "squash", id="nearly-alike"),
        pytest.param([(96, 24)] * 5 + [(144, 24)] * 5, "pad", id="different"),
        pytest.param([(96, 24)] * 99 + [(24, 96)], "squash", id="one-of-a-hundred-is-different"),
        pytest.param([(96, 24)] * 3 + [(32, 32)] * 4, "crop", id="most-are-square"),
    ],
)
def test_a_fit_is_chosen_by_the_shapes_of_the_images(sizes: list[tuple[int, int]], fit: Fit) -> None:
    assert fit_for(sizes) == fit


@pytest.mark.parametrize(
    ("sizes", "share"),
    [
        ([(10, 10)], 1.0),
        ([(40, 30)], 0.75),
        ([(30, 40)], 0.75),
        ([(96, 24), (10, 10), (40, 20)], 0.5),
    ],
)
def test_a_crop_keeps_the_middle_square_of_the_median_image(sizes: list[tuple[int, int]], share: float) -> None:
    assert kept_by_crop(sizes) == share


@pytest.mark.parametrize(
    ("bits", "depth"),
    [
        (1, (0.0, 1.0)),
        (8, (0.0, 255.0)),
        (10, (0.0, 1023.0)),
        (12, (0.0, 4095.0)),
        (16, None),
        (32, (0.0, 2.0**32 - 1)),
    ],
)
def test_a_number_of_bits_is_the_range_of_its_values(bits: int, depth: tuple[float, float] | None) -> None:
    assert depth_of(bits) == depth


def test_the_default_is_how_older_versions_decoded() -> None:
    assert Preprocessing(side=8).model_dump() == {"side": 8, "fit": "crop", "depth": None}


def test_steps_survive_a_file() -> None:
    steps = Preprocessing(side=8, fit="pad", depth=(0.1, 0.7))

    assert Preprocessing.model_validate_json(steps.model_dump_json()) == steps


def test_unknown_steps_are_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        Preprocessing.model_validate({"side": 8, "colour": "grey"})
