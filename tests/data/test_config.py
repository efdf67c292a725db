"""data/config.py: valid values of [data] and of the augmentation keys."""

from typing import Any

import pytest
from pydantic import ValidationError

from data.config import AugmentConfig, DataConfig
from data.sources.shapes import DEFAULT_IMAGES


def test_an_empty_table_means_ten_thousand_shapes_of_32_pixels() -> None:
    config = DataConfig()

    assert (config.source, config.side, config.validation, config.train_images) == ("shapes", 32, None, None)
    assert DEFAULT_IMAGES == 10_000


@pytest.mark.parametrize("value", [1, 5000, 0.001, 0.5])
def test_validation_is_a_number_of_images_or_a_share_and_keeps_its_type(value: float) -> None:
    config = DataConfig.model_validate_json(DataConfig(validation=value).model_dump_json())

    assert config.validation == value
    assert type(config.validation) is type(value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        pytest.param({"validation": 0}, "at least 1 image, but got 0", id="no-validation"),
        pytest.param({"validation": 1.0}, "share between 0 and 1, but got 1.0", id="all-validation"),
        pytest.param({"validation": True}, "valid integer", id="validation-is-no-switch"),
        pytest.param({"validation": "10 %"}, "valid integer", id="validation-is-no-text"),
        pytest.param({"source": "folder"}, 'source = "folder" needs path', id="folder-without-path"),
        pytest.param(
            {"path": "x.zip"}, 'only with source = "folder", but source is "shapes"', id="path-without-folder"
        ),
        pytest.param({"image_size": 4}, "greater than or equal to 8", id="too-small"),
        pytest.param({"image_size": "32"}, "valid integer", id="text-is-no-number"),
        pytest.param({"source": "mnist"}, "'shapes', 'cifar10' or 'folder'", id="unknown-source"),
        pytest.param({"test_share": 1.0}, "less than 1", id="all-test"),
        pytest.param({"vaildation": 5}, "vaildation", id="misspelt"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused_with_the_rule(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DataConfig.model_validate(table)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        pytest.param({"crop": 17}, "less than or equal to 16", id="crop-too-large"),
        pytest.param({"crop": -1}, "greater than or equal to 0", id="crop-below-zero"),
        pytest.param({"cutout": 33}, "less than or equal to 32", id="cutout-too-large"),
        pytest.param({"flip": 1}, "(?s)valid boolean.*'alternating'", id="flip-is-no-number"),
        pytest.param({"mixup": True}, "mixup\n  Extra inputs are not permitted", id="unknown"),
    ],
)
def test_an_invalid_augmentation_is_refused_with_the_rule(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AugmentConfig.model_validate(table)


def test_a_config_cannot_be_changed() -> None:
    config = AugmentConfig(crop=4)

    with pytest.raises(ValidationError, match="frozen"):
        config.crop = 5
