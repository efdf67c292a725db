"""The keys that say which images are used, and how they are varied while training."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_SIDE = 32  # the side of a CIFAR-10 image, the size that small networks are compared at

#: Validation images where [data] validation is left out: a share of the images, between two numbers. With 72 images the
#: standard error of an accuracy of 0.7 is 5 points, with 200 it is 3, with 2,000 it is 1; judging more costs time.
VALIDATION_SHARE, LEAST_VALIDATION, MOST_VALIDATION = 0.2, 200, 2_000
#: Of a small set at most this share, because the rest must still be enough to train on.
MOST_VALIDATION_SHARE = 1 / 3


class DataConfig(BaseModel):
    """The table [data] of a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    source: Literal["shapes", "cifar10", "folder"] = "shapes"
    """Where the images come from: drawn, downloaded, or your own."""

    path: str | None = None
    """A directory, .zip or .tar[.gz|.xz] of train/CLASS/* and optionally test/CLASS/*; only with source = "folder"."""

    image_size: Annotated[int, Field(ge=8, le=512)] | None = None
    """Side in pixels to which every image is brought; nothing means 32."""

    validation: int | float | None = None
    """Training images held out to judge trials by: a number of images (5000), or a share of them (0.1). Nothing means
    a fifth of them, at least 200 and at most 2,000, but never more than a third. The last training has them all."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every split, and of the drawn shapes."""

    train_images: Annotated[int, Field(ge=1)] | None = None
    """Shapes: how many to draw (nothing means 10000). Else: the number of training images to use, drawn class by class.
    The validation images are taken from these."""

    search_images: Annotated[int, Field(ge=1)] | None = None
    """The number of the remaining training images that a search uses, class by class; nothing means all. The last
    training has all. On fewer images a short training sees each as often as a long one would, and overfits as it."""

    search_size: Annotated[int, Field(ge=4, le=512)] | None = None
    """Side in pixels at which a search trains and judges; nothing means image_size, which the last training has. Half
    the side is a quarter of the work, and most of what makes a network good shows there, too."""

    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the images set aside as test images, where a folder has no test/ of its own."""

    @field_validator("validation")
    @classmethod
    def _is_a_number_or_a_share(cls, value: float | None) -> float | None:
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

    @model_validator(mode="after")
    def _a_search_sees_smaller_images(self) -> Self:
        if self.search_size is not None and self.search_size >= self.side:
            raise ValueError(
                f"search_size must be less than image_size ({self.side}), but got {self.search_size}; leave it out"
            )
        return self

    def held_out(self, images: int, *, classes: int) -> int | float:
        """Validation images among `images` training images of `classes` classes: a number, or a share of them."""
        if self.validation is not None:
            return self.validation
        wanted = min(max(VALIDATION_SHARE * images, LEAST_VALIDATION), MOST_VALIDATION, MOST_VALIDATION_SHARE * images)
        return min(max(round(wanted), classes), max(1, images - classes))

    @property
    def side(self) -> int:
        """Side of every image in pixels."""
        return self.image_size or DEFAULT_SIDE


class AugmentConfig(BaseModel):
    """How training images are varied; each is a key of the search space."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    flip: bool | Literal["alternating"] = False
    """Mirror every other image left to right: at random each time, or those of one epoch that the last one did not."""

    crop: Annotated[int, Field(ge=0, le=16)] = 0
    """Pixels that are reflected outwards at every side before the old size is cut out at random; 0 is off."""

    cutout: Annotated[int, Field(ge=0, le=32)] = 0
    """Side in pixels of a square at a random place that is blanked (https://arxiv.org/abs/1708.04552); 0 is off."""

    def scaled(self, share: float) -> Self:
        """The same augmentation of images whose side is that share of what the pixels here are counted at.

        What is off stays off, and what is on stays on, with a pixel at least.
        """
        pixels = {key: max(1, round(getattr(self, key) * share)) for key in ("crop", "cutout") if getattr(self, key)}
        return self.model_copy(update=pixels)
