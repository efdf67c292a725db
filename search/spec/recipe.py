"""The recipe: values of the parameters that suit the images and the time, without a search.

Rules in place of a search, as in nnU-Net (Isensee et al. 2021, https://arxiv.org/abs/1904.08128) and AutoCLINT, which
won AutoCV (Baek et al. 2019, https://github.com/kakaobrain/autoclint). A recipe is a pure function of statistics of the
training images and of the speed of this machine. A search begins at it, and a study keeps it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from data.statistics import FROZEN, ImageStatistics, MirrorTest
from models.config import ModelConfig, OptimizerName
from models.plan import plan
from search.spec.domains import Value
from search.spec.parameters import DEFAULTS

#: Largest side that images are scaled to, unless the study names another one: AutoCLINT has 64, too.
MAX_SIDE: Final = 64
MIN_SIDE: Final = 16
#: Sides between which the recipe chooses, if the files are larger; AutoCLINT takes multiples of 16.
SIDES: Final = (64, 48, 32, 24)
#: Side in pixels of the last feature map; nnU-Net stops pooling at 4. A map of 6 x 6 costs a set of signs three times
#: the errors of one of 4 x 4 (studies/LOG.md, 2026-11-30).
LAST_SIDE: Final = 4.75
#: Convolutions between two poolings: VGG (Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556), nnU-Net.
CONVS_PER_STAGE: Final = 2
#: Most convolutions of a network; see `ModelConfig.conv_layers`.
MAX_CONV_LAYERS: Final = 8
#: Channels of the first convolution: steps that compute fast, and limits.
WIDTH_STEP: Final = 8
MIN_WIDTH: Final = 16
MAX_WIDTH: Final = 96
#: Width without a time limit.
USUAL_WIDTH: Final = 32
#: Least width for which the recipe takes larger images: a choice, because size against passes is flat.
GOOD_WIDTH: Final = 24
#: Largest width for few images, which many channels overfit (Brigato and Iocchi 2020,
#: https://arxiv.org/abs/2003.12843).
MAX_WIDTH_OF_FEW: Final = 64
FEW_IMAGES: Final = 5_000
#: Passes over the images that a last training is planned for: 12 for ten thousand images, 38 for a thousand. Airbench
#: has 10 to 37 for 50,000 (Jordan 2024, https://arxiv.org/abs/2404.00498); nnU-Net the same updates for any number.
#: Half or twice as many passes, by a wider or narrower network, change little (studies/LOG.md, 2026-11-30).
EPOCHS_AT: Final = (10_000, 12.0)
EPOCHS_POWER: Final = 0.5
EPOCH_LIMITS: Final = (10.0, 200.0)
#: Passes of a full trial over its images: with one, a search chooses networks that overfit in the last training
#: (studies/LOG.md, 2026-11-25). The ten-minute study on CIFAR-10, made by hand, has six of 12,000 images.
MIN_TRIAL_EPOCHS: Final = 6
MIN_SEARCH_IMAGES_PER_CLASS: Final = 20
#: A batch has at most this share of the images (nnU-Net), and leaves this number of updates.
BATCH_SHARE: Final = 0.05
MIN_UPDATES: Final = 1_000
BATCH_LIMITS: Final = (16, 256)
BATCH_STEP: Final = 8
#: Least number of batches in the images, of which a search sets some aside to validate.
FEWEST_BATCHES: Final = 4
#: Learning rates at batches of 256, which grow with a power of the batch size. That of muon is between those that were
#: best for batches of 16 to 256 (studies/LOG.md, 2026-11-30); the others are usual values.
LEARNING_RATES: Final[Mapping[OptimizerName, float]] = {
    "muon": 0.1,
    "sgd": 0.1,
    "adam": 2e-3,
    "adamw": 4e-3,
    "rmsprop": 5e-4,
}
RATE_BATCH: Final = 256
RATE_POWERS: Final[Mapping[OptimizerName, float]] = {"muon": 0.25}
USUAL_RATE_POWER: Final = 0.5
#: With muon, narrower networks learn best at higher rates: 1.5 to 2 times as high with 16 channels as with 48
#: (studies/LOG.md, 2026-11-30). The root of the widths' ratio is a choice.
RATE_WIDTH: Final = 48
#: Usual momenta. Muon's other parameters (head, norms) have SGD, whose steps are rate / (1 - momentum) long: with 0.6
#: they learn too slowly in small batches, with 0.85 too fast in large ones (studies/LOG.md, 2026-11-30).
MOMENTA: Final[Mapping[OptimizerName, float]] = {"muon": 0.75}
USUAL_MOMENTUM: Final = 0.9
#: Usual weight decays; that of muon applies to the last layer alone.
WEIGHT_DECAYS: Final[Mapping[OptimizerName, float]] = {"adam": 1e-4, "adamw": 2e-2, "rmsprop": 1e-5}
#: Pixels of a random crop, as a part of the side: 2 of 32, as in airbench. Twice as many are worse in short trainings
#: on clothes and traffic signs (studies/LOG.md, 2026-11-30).
CROP: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A value of a recipe and its reason."""

    value: Value
    reason: str


class Compute(BaseModel):
    """The computing power and the time that a recipe may use."""

    model_config = FROZEN

    macs_per_second: float
    """Multiply-accumulates of forward passes in the training of a trial: images per second times those of an image."""

    workers: int

    final_macs_per_second: float | None = None
    """The same of the last training, which has all threads; None: as many as all workers together."""

    final_s: float | None
    """Wall-clock seconds of the last training, or without one of the search; None for no limit."""

    trial_s: float | None
    """Seconds of a full trial on one worker; None for no limit."""

    @property
    def final_macs(self) -> float:
        """Multiply-accumulates of the last training."""
        speed = self.final_macs_per_second or self.macs_per_second * self.workers
        return math.inf if self.final_s is None else speed * self.final_s


class RecipeInputs(BaseModel):
    """The inputs of a recipe: the same ones give the same recipe on every machine."""

    model_config = FROZEN

    images: ImageStatistics
    compute: Compute


#: Inputs that stand for those of a study until its images are known.
USUAL: Final = RecipeInputs(
    images=ImageStatistics(
        classes=tuple(f"class {number}" for number in range(10)),
        counts=(1_000,) * 10,
        side=64,
        fit="crop",
        is_grey=False,
        mirror=MirrorTest(recognised=100, mirrored=100, lost=0),
    ),
    compute=Compute(macs_per_second=2e10, workers=2, final_s=300.0, trial_s=75.0),
)

IMAGE_SIZE: Final = "image_size"
"""Key of [data] that a recipe has."""

Recipe = Mapping[str, Setting]
"""Settings by key: those of [space], and `image_size`."""


def make_recipe(inputs: RecipeInputs, given: Mapping[str, Value]) -> dict[str, Setting]:
    """Make the recipe of a study.

    Args:
        inputs: The images, the computing power and the time.
        given: Values that the study fixes; the others go with them.
    """
    recipe = _Recipe(images=inputs.images, compute=inputs.compute, given=given)
    recipe.add_shape()
    recipe.add_trial()
    recipe.add_layers()
    recipe.add_optimization()
    recipe.add_augmentation()
    recipe.add_classes()
    return recipe.settings


def planned_epochs(images: int) -> float:
    """Passes over the images that a last training is planned for."""
    count, epochs = EPOCHS_AT
    low, high = EPOCH_LIMITS
    wanted: float = epochs * (count / images) ** EPOCHS_POWER
    return min(max(wanted, low), high)


def conv_layers_for(side: int) -> int:
    """Convolutions of a network whose last feature map has a side of about 4 pixels."""
    poolings = max(1, math.ceil(math.log2(side / LAST_SIDE)))
    return min(CONVS_PER_STAGE * poolings, MAX_CONV_LAYERS)


@dataclass(kw_only=True)
class _Recipe:
    """A recipe in the making; the rules stand in the order in which they need each other."""

    images: ImageStatistics
    compute: Compute
    given: Mapping[str, Value]
    settings: dict[str, Setting] = field(default_factory=dict)

    def add_shape(self) -> None:
        """The input, and the largest network that leaves enough passes over the images."""
        self._add("input_channels", 1 if self.images.is_grey else 3, "grey" if self.images.is_grey else "colour")
        count = self.images.images
        epochs = planned_epochs(count)
        macs = self.compute.final_macs / (epochs * count)
        side = next((side for side in self._sides() if self._widest(side, macs) >= GOOD_WIDTH), min(self._sides()))
        self._add("image_size", side, self._why_side(side, epochs))
        side = self._value("image_size")
        self._add("conv_layers", conv_layers_for(side), f"two a pooling, from {side} pixels to about 4")
        width = self._widest(side, macs)
        if math.isinf(macs):
            why = "usual without a time limit"
        elif self._macs(side, width) > macs:
            why = f"the least; {epochs:.0f} passes do not fit"
        else:
            why = f"{epochs:.0f} passes over {count:,} images fit"
        self._add("width", width, why)

    def add_trial(self) -> None:
        """The length of a trial, and fewer images for a search whose trials would see each of them too seldom."""
        count, seconds = self.images.images, self.compute.trial_s
        macs = self._macs(self._value("image_size"), self._value("width"))
        if seconds is None:
            epochs = planned_epochs(count)
            self._add("trial_macs", float(f"{epochs * count * macs:.4g}"), f"{epochs:.0f} passes of the recipe")
            return
        trial_macs = float(f"{self.compute.macs_per_second * seconds:.4g}")
        self._add("trial_macs", max(1.0, trial_macs), f"{seconds:.3g} s for any network")
        images = round(self._value("trial_macs") / macs / MIN_TRIAL_EPOCHS)
        images = max(images, MIN_SEARCH_IMAGES_PER_CLASS * len(self.images.classes))
        if images < count / 2:
            self._add("search_images", images, f"{MIN_TRIAL_EPOCHS} passes over them fit into a trial")

    def add_layers(self) -> None:
        """Layers that suited all image sets."""
        self._add("stem", "whiten", "Jordan 2024")
        self._add("growth", 2.0, "VGG, nnU-Net")
        self._add("kernel_size", 3, "VGG, nnU-Net")
        self._add("pool", "max", "VGG")
        self._add("pool_every", CONVS_PER_STAGE, "VGG, nnU-Net")
        self._add("pool_first", True, "a third less time")
        self._add("norm", "batch", "usual")
        self._add("activation", "gelu", "Jordan 2024")
        self._add("residual", False, "few layers")
        self._add("dropout_conv", 0.0, "augmentation regularises")
        self._add("dense_layers", 0, "usual above a mean over the pixels")
        self._add("dense_units", DEFAULTS["dense_units"], "usual")
        self._add("dropout_dense", 0.0, "augmentation regularises")
        self._add("head", "gap", "usual")
        self._add("init", "kaiming", "usual")

    def add_optimization(self) -> None:
        """Batches and updates."""
        count = self.images.images
        lowest, highest = BATCH_LIMITS
        share, updates = BATCH_SHARE * count, count * planned_epochs(count) / MIN_UPDATES
        size = min(max(_rounded(min(share, updates), BATCH_STEP), lowest), highest, max(1, count // FEWEST_BATCHES))
        if size in BATCH_LIMITS:
            why = f"the {'least' if size == lowest else 'most'} for {count:,} images"
        elif size < lowest:
            why = f"at least {FEWEST_BATCHES} batches of {count:,} images"
        else:
            why = f"{BATCH_SHARE:.0%} of {count:,} images" if share < updates else f"{MIN_UPDATES:,} updates"
        self._add("batch_size", size, why)
        size = self._value("batch_size")
        self._add("optimizer", "muon", "fewest passes over the images")
        optimizer: OptimizerName = self._value("optimizer")
        power = RATE_POWERS.get(optimizer, USUAL_RATE_POWER)
        rate, why = LEARNING_RATES[optimizer] * (size / RATE_BATCH) ** power, "batch size"
        if optimizer == "muon":
            rate, why = rate * math.sqrt(max(1.0, RATE_WIDTH / self._value("width"))), "batch size and width"
        self._add("learning_rate", float(f"{rate:.2g}"), f"{optimizer}, by {why}")
        self._add("momentum", MOMENTA.get(optimizer, USUAL_MOMENTUM), f"usual with {optimizer}")
        self._add("weight_decay", WEIGHT_DECAYS.get(optimizer, 5e-4), f"usual with {optimizer}")
        self._add("bias_rate", 1.0, "usual")
        self._add("decay_norms", False, "Jia et al. 2018")
        self._add("scheduler", "linear", "ends at 0, whenever the time is over")
        self._add("warmup", 0.1, "usual")
        self._add("ema", 0.0, "no gain at the end of a schedule")
        self._add("clip", 0.0, "usual")
        self._add("precision", "auto", "what computes fastest here")

    def add_augmentation(self) -> None:
        """Augmentation that keeps the class."""
        test, side = self.images.mirror, self._value("image_size")
        share = f"{test.recognised} images recognised, {test.mirrored} when mirrored"
        self._add("flip", "alternating" if test.keeps_class else False, share)
        self._add("test_time_augmentation", "flip" if test.keeps_class else "none", share)
        self._add("crop", min(max(1, round(side / CROP)), 16), f"a sixteenth of {side} pixels")
        self._add("cutout", 0, "helps in longer trainings")

    def add_classes(self) -> None:
        """What the number and the balance of the classes ask for."""
        self._add("label_smoothing", 0.1, "Szegedy et al. 2016")
        times = f"{self.images.imbalance:.1f}"
        why = "classes of equal size" if times == "1.0" else f"largest class: {times} times the smallest"
        self._add("class_weights", 0.0, why)

    def _add(self, key: str, value: Value, reason: str) -> None:
        is_given = key in self.given
        self.settings[key] = (
            Setting(value=self.given[key], reason="given") if is_given else Setting(value=value, reason=reason)
        )

    def _why_side(self, side: int, epochs: float) -> str:
        files = self.images.side
        if side == files:
            return "that of the files"
        if side in (MIN_SIDE, MAX_SIDE) and side == self._sides()[0]:
            return f"the {'least' if files < side else 'most'}; the files have {files:,} pixels"
        return f"{epochs:.0f} passes fit; files of {files:,} pixels"

    def _value(self, key: str) -> Any:
        return self.settings[key].value

    def _sides(self) -> tuple[int, ...]:
        """Sides to choose from, the largest first."""
        own = min(max(self.images.side, MIN_SIDE), MAX_SIDE)
        return (own, *(side for side in SIDES if side < own))

    def _widest(self, side: int, macs: float) -> int:
        """Channels of the largest network with at most `macs` multiply-accumulates."""
        highest = MAX_WIDTH_OF_FEW if self.images.images < FEW_IMAGES else MAX_WIDTH
        if math.isinf(macs):
            return USUAL_WIDTH
        widths = range(MIN_WIDTH, highest + 1, WIDTH_STEP)
        return max((width for width in widths if self._macs(side, width) <= macs), default=MIN_WIDTH)

    def _macs(self, side: int, width: int) -> int:
        config = ModelConfig(
            stem="whiten",
            input_channels=self._value("input_channels"),
            conv_layers=conv_layers_for(side),
            width=width,
            pool_every=CONVS_PER_STAGE,
            pool_first=True,
            dense_layers=0,
        )
        return plan(config, image_size=side, classes=len(self.images.classes)).macs


def _rounded(value: float, step: int) -> int:
    return round(value / step) * step
