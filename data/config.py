"""Configuration of the images and of their augmentation."""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_SIDE = 32  # side of a CIFAR-10 image, the usual size for comparing small networks

#: Default of [data] validation: a share of the images, within two limits. The standard error of an accuracy of 0.7 is
#: 5 points with 72 images, 3 with 200, and 1 with 2,000; evaluating more images costs time.
VALIDATION_SHARE, LEAST_VALIDATION, MOST_VALIDATION = 0.2, 200, 2_000
#: Maximum share of a small set, which leaves enough images for training.
MOST_VALIDATION_SHARE = 1 / 3


class DataConfig(BaseModel):
    """The table [data] of a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    source: Literal["shapes", "cifar10", "folder"] = "shapes"
    """Source of the images: generated, downloaded, or your own."""

    path: str | None = None
    """A directory, .zip or .tar[.gz|.xz] of train/CLASS/* and optionally test/CLASS/*; only with source = "folder"."""

    image_size: Annotated[int, Field(ge=8, le=512)] | None = None
    """Side in pixels to which every image is scaled; default: 32."""

    fit: Literal["auto", "crop", "pad", "squash"] = "auto"
    """How an image becomes square: "crop" cuts out the middle, "pad" adds black bars, "squash" changes the proportions.
    "auto": "crop" if it keeps 9/16 of the median image; otherwise "squash" for images of one shape, and "pad"."""

    depth: Literal["auto"] | int | tuple[float, float] = "auto"
    """The values of 16-bit and float images that become black and white: [low, high], or a number of bits (12: 0 to
    4095). "auto": the 0.1 and 99.9 percentiles over the training images."""

    validation: int | float | Literal["folder", "split"] | None = None
    """Training images held out to evaluate trials: a number of images (5000), or a share of them (0.1), or "folder",
    the images in val/, or "split", a fifth of them, at least 200, at most 2,000, and never more than a third. Default:
    "folder" if there is a val/, otherwise "split". The final training uses all images."""

    groups: str | None = None
    """Images that stay together in every split, such as those of one patient: "folder" (train/CLASS/GROUP/*), "none",
    or a regular expression that finds the group in the name of a file ("^(\\d+)_"). Default: folders below the classes,
    if there are any."""

    duplicates: Literal["refuse", "allow"] = "refuse"
    """Whether the same picture may be in train/ (or val/) and in test/."""

    on_error: Literal["refuse", "skip"] = "refuse"
    """Whether images that cannot be read are left out, up to max_errors of them."""

    max_errors: Annotated[int, Field(ge=0)] = 0
    """The most images that on_error = "skip" leaves out."""

    name_encoding: str | None = None
    """Encoding of the names in a .zip that does not tell it, such as "cp932"; default: guessed, and said."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every split, and of the generated shapes."""

    train_images: Annotated[int, Field(ge=1)] | None = None
    """Shapes: number of images to generate (default: 10000). Other sources: number of training images to use, drawn
    class by class. The validation images are taken from these."""

    search_images: Annotated[int, Field(ge=1)] | None = None
    """Number of the remaining training images that a search uses, drawn class by class; default: all. The final
    training uses all. With fewer images a short training repeats each as often as a long one, and overfits alike."""

    search_size: Annotated[int, Field(ge=4, le=512)] | None = None
    """Side in pixels at which a search trains and evaluates; default: image_size, which the final training uses. Half
    the side is a quarter of the work, and shows most differences between networks, too."""

    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the images set aside as test images if a folder has no test/."""

    @field_validator("validation")
    @classmethod
    def _is_a_number_or_a_share(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be at least 1 image, but got {value}")
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError(f"must be a whole number of images, or a share between 0 and 1, but got {value}")
        return value

    @model_validator(mode="after")
    def _path_belongs_to_a_folder(self) -> Self:
        if self.source == "folder" and not self.path:
            raise ValueError('source = "folder" needs path, a directory or archive of train/CLASS/*')
        if self.source != "folder" and self.path is not None:
            raise ValueError(f'path has a meaning only with source = "folder", but source is "{self.source}"')
        return self

    @field_validator("depth", mode="before")
    @classmethod
    def _is_bits_or_a_range(cls, value: object) -> object:
        match value:
            case "auto":
                return value
            case bool():
                pass
            case int() if 1 <= value <= 32:
                return value
            case [int() | float() as low, int() | float() as high] if -math.inf < low < high < math.inf:
                return float(low), float(high)
        raise ValueError(
            f'must be "auto", a number of bits from 1 to 32, or [low, high] with low < high, but got {value}'
        )

    @field_validator("groups")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(
                f'must be "folder", "none" or a regular expression, but {value!r} is none: {error}'
            ) from error
        return value

    @field_validator("name_encoding")
    @classmethod
    def _is_an_encoding(cls, value: str | None) -> str | None:
        try:
            "".encode(value or "utf-8")  # refuses codecs of bytes, such as hex
        except LookupError as error:
            raise ValueError(f'must be an encoding of Python, such as "cp932", but got {value!r}') from error
        return value

    @model_validator(mode="after")
    def _errors_are_bounded(self) -> Self:
        if (self.on_error == "skip") != (self.max_errors > 0):
            raise ValueError(
                'on_error = "skip" and max_errors belong together: max_errors is the most images that may be left out, '
                f"but got on_error = {self.on_error!r} and max_errors = {self.max_errors}"
            )
        return self

    @model_validator(mode="after")
    def _a_search_sees_smaller_images(self) -> Self:
        if self.search_size is not None and self.search_size >= self.side:
            raise ValueError(
                f"search_size must be less than image_size ({self.side}), but got {self.search_size}; leave it out"
            )
        return self

    def held_out(self, images: int, *, classes: int) -> int | float:
        """Validation images among `images` training images of `classes` classes: a number (int), or a share (float)."""
        if isinstance(self.validation, int | float):
            return self.validation
        wanted = min(max(VALIDATION_SHARE * images, LEAST_VALIDATION), MOST_VALIDATION, MOST_VALIDATION_SHARE * images)
        return min(max(round(wanted), classes), max(1, images - classes))

    @property
    def side(self) -> int:
        """Side of every image in pixels."""
        return self.image_size or DEFAULT_SIDE


class AugmentConfig(BaseModel):
    """Augmentation of training images; each field is a key of the search space."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    flip: bool | Literal["alternating"] = False
    """Mirror half of the images left to right: at random, or in each epoch those that the last epoch did not mirror."""

    crop: Annotated[int, Field(ge=0, le=16)] = 0
    """Pixels of reflection padding on each side before a random crop of the original size; 0 is off."""

    cutout: Annotated[int, Field(ge=0, le=32)] = 0
    """Side in pixels of a square that is blanked at a random position (https://arxiv.org/abs/1708.04552); 0 is off."""

    def scaled(self, share: float) -> Self:
        """Scale the pixel counts to resized images.

        Args:
            share: side of the resized images, as a share of the original side.

        Returns:
            The scaled augmentation. Disabled fields stay 0; enabled fields are at least 1 pixel.
        """
        pixels = {key: max(1, round(getattr(self, key) * share)) for key in ("crop", "cutout") if getattr(self, key)}
        return self.model_copy(update=pixels)
