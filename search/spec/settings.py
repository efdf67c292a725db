"""The tables [budget], [search] and [final] of a study file."""

from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from models.config import TestTimeAugmentation
from search.errors import SpecError
from search.spec.toml_table import expect_table, read_model, to_toml

Metric = Literal["accuracy", "balanced_accuracy"]
SamplerName = Literal["tpe", "nsga2", "evolution", "random", "grid"]
PrunerName = Literal["asha", "promote", "hyperband", "median", "none"]
Cost = Literal["parameters", "macs", "latency_ms", "epoch_seconds"]
"""Costs of a network: parameters, multiply-accumulates per image, latency of a single image in milliseconds,
and seconds per epoch of the study's images.
"""

Objectives = Annotated[
    Metric | tuple[Metric | Cost, ...],
    BeforeValidator(lambda raw: tuple(raw) if isinstance(raw, list) else raw),
]

#: Default trials of a search: without hours, and with hours, which end it long before.
DEFAULT_TRIALS, DEFAULT_TRIALS_WITH_HOURS = 100, 1000
#: Evaluations of a trial without [budget] epochs. The rungs are at 1/9, 1/3 and the end.
DEFAULT_EVALUATIONS = 9
#: Updates before a rung. A first rung after only a few updates is noise (studies/LOG.md, 2026-11-25).
DEFAULT_RUNG_UPDATES = 24
#: Judged trials after which a search gives up: with a [[try]] point that is known to be good, and with the defaults as
#: trial 0. The ten-minute study needed 10 to 17 trials for the first that led at its end (studies/LOG.md, 2026-11-29).
DEFAULT_PATIENCE, DEFAULT_PATIENCE_WITHOUT_POINT = 12, 48

#: Maximum configurations of a verdict, and seeds per configuration. A larger number is a typing error.
MAX_FINAL_TRAININGS = 10


class Budget(BaseModel):
    """The table [budget]: the limits of a study."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    trials: Annotated[int, Field(ge=1)]
    """Trials of the study, over all workers and runs. Default: all cells of a grid or comparison; for a search 100, or
    with hours as many as they allow."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training images of a trial that is not pruned; may be fractional. Default: eight full trials fit
    into the hours of the search on one machine, and the known point gets at least 216 updates of its weights."""
    steps_per_epoch: Annotated[int, Field(ge=1)] = 1
    """Evaluations per epoch, at equal intervals. Curves, rungs and checkpoints count these steps."""
    evaluations: Annotated[int, Field(ge=1)] | None = None
    """Evaluations per full trial, at equal intervals; replaces steps_per_epoch. Default without epochs: 9."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Maximum wall-clock hours of the study, summed over its runs."""
    trial_macs: Annotated[float, Field(ge=1)] | None = None
    """Maximum multiply-accumulates of a trial's training, forward only. A network that needs more for all its epochs
    trains on fewer images in the same number of steps. Trials then cost about the same, and each rung compares equal
    efforts."""
    max_parameters: Annotated[int, Field(ge=1)] | None = None
    """Maximum parameters of a network, frozen ones included. Larger networks are not trained."""
    max_macs: Annotated[int, Field(ge=1)] | None = None
    """Maximum multiply-accumulates of a network per image. Larger networks are not trained."""
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Maximum milliseconds in which a worker classifies one image. Slower networks are not trained."""

    @model_validator(mode="after")
    def _steps_are_set_once(self) -> Self:
        if self.steps_per_epoch > 1 and (self.epochs is None or self.evaluations is not None):
            raise ValueError(
                f"steps_per_epoch = {self.steps_per_epoch} divides epochs that are given, and not evaluations; "
                "give epochs without evaluations, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _steps_are_whole(self) -> Self:
        if self.epochs is None or self.evaluations is not None:
            return self
        exact = Decimal(str(self.epochs)) * self.steps_per_epoch
        if exact < 1 or exact % 1:
            raise ValueError(
                f"epochs x steps_per_epoch must be a whole number of steps, at least 1, but got {self.epochs:g} x "
                f"{self.steps_per_epoch} = {exact.normalize():f}; half an epoch needs steps_per_epoch = 2"
            )
        return self

    @property
    def steps(self) -> int:
        """Steps of a trial that is not pruned."""
        if self.evaluations is not None:
            return self.evaluations
        return DEFAULT_EVALUATIONS if self.epochs is None else int(Decimal(str(self.epochs)) * self.steps_per_epoch)

    def step_epochs(self, *, images: int, macs: int) -> Fraction:
        """Epochs per step.

        Args:
            images: Training images of the trial.
            macs: Multiply-accumulates per image, forward only.

        Raises:
            ValueError: The study file leaves out epochs, and they are not settled yet.
        """
        if self.epochs is None:
            raise ValueError("epochs are left out, and not settled yet")
        share = Fraction(1, self.steps_per_epoch)
        if self.evaluations is not None:
            share = Fraction(str(self.epochs)) / self.evaluations
        if self.trial_macs is None:
            return share
        return min(share, Fraction(int(self.trial_macs), macs * images * self.steps))


class SearchSettings(BaseModel):
    """The table [search]: how trials are sampled and pruned."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    objective: Objectives = "accuracy"
    """The metric to maximise on the validation images; balanced: the mean over the classes. Or a list of the metric and
    the costs to minimise; the result is then a Pareto front instead of a best trial."""
    sampler: SamplerName = "tpe"
    """Nsga2 breeds generations, for several objectives. Evolution starts at the first point of [[try]], or without one
    at the defaults, and mutates the best trials; for many parameters and few trials. Grid runs every cell."""
    pruner: PrunerName = "asha"
    """Stops trials that fall behind. With promote they pause, and the best of them continue later."""
    first_rung: Annotated[int, Field(ge=1)] = 1
    """Steps before a trial can be stopped."""
    rung_updates: Annotated[int, Field(ge=0)] = DEFAULT_RUNG_UPDATES
    """Minimum weight updates before a rung judges a network or compares others with it."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """Reduction factor: one of this number of trials at a rung continues."""
    anneal: bool = False
    """Whether the learning-rate schedule ends at each rung and is stretched to the next rung for trials that continue.
    Otherwise a rung measures the beginning of a long schedule, and underrates a schedule that falls late or rises
    first."""
    audit: Annotated[float, Field(ge=0.0, le=0.5)] = 0.05
    """Share of the trials that the pruner neither stops nor counts. They show how often it stops good trials."""
    baseline: bool = True
    """Whether trial 0 is the known point: the first row of [[try]], completed with the defaults. It is never stopped.
    The final training takes another trial only if that trial beats it by more than chance."""
    patience: Annotated[int, Field(ge=1)] = DEFAULT_PATIENCE
    """With hours, the search ends when this number of trials was judged and none beats the baseline by more than
    chance. The remaining time goes to the final training. Default without a [[try]] point: 48."""
    startup_trials: Annotated[int, Field(ge=1)] = 10
    """Random trials before tpe starts to learn; for nsga2, trials per generation."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Seeds per cell of a grid or row of a comparison."""
    seed: int = 0
    """Seed of everything random: points, weights, order of the images."""
    trial_seed: int | None = None
    """Seed of the weights and the image order in every trial; None: one seed per trial. For `run --again`."""

    @property
    def metric(self) -> Metric:
        """The maximised metric; it decides which trials are pruned."""
        return cast("Metric", self.objectives[0])  # `_objectives_fit` refuses anything else

    @property
    def objectives(self) -> tuple[str, ...]:
        """All objectives. The first is maximised and decides which trials are pruned; the others are minimised."""
        return (self.objective,) if isinstance(self.objective, str) else self.objective

    @model_validator(mode="after")
    def _objectives_fit(self) -> Self:
        first, *others = self.objectives or ("",)
        if first not in get_args(Metric) or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objective must begin with {' or '.join(map(to_toml, get_args(Metric)))}, and name each once, but got "
                f"{to_toml(list(self.objectives))}"
            )
        if any(other in get_args(Metric) for other in others):
            raise ValueError(f"objective may maximise one thing, its first, but got {to_toml(list(self.objectives))}")
        if others and (self.sampler == "evolution" or self.pruner in ("hyperband", "median")):
            raise ValueError(
                "several objectives go with sampler = 'tpe', 'nsga2', 'random' or 'grid', and with pruner = 'asha', "
                f"'promote' or 'none', but got {to_toml(self.sampler)} and {to_toml(self.pruner)}"
            )
        return self


class FinalSettings(BaseModel):
    """The table [final]: after a search, the best are trained again on train and validation images, and tested once."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the images; None: as many as the time allows."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of [budget] hours reserved for the final training, which also gets the time that the search leaves."""
    top: Annotated[int, Field(ge=1, le=MAX_FINAL_TRAININGS)] = 1
    """Number of configurations to train: the result of the search, then the next best."""
    seeds: Annotated[int, Field(ge=1, le=MAX_FINAL_TRAININGS)] = 1
    """Trainings per configuration."""
    baseline: bool = False
    """Whether the first point of [[try]], or without one the defaults of convsearch, is trained as well."""
    test_time_augmentation: TestTimeAugmentation = "none"
    """Whether the test images are also classified by averages over copies of each: "flip" mirrors it, "flip_shift" also
    moves it by a pixel. That result stands beside the plain one."""


def read_final(raw: object, *, budget: Budget, compares: bool) -> FinalSettings | None:
    """Read the table [final]; None if it is missing.

    Raises:
        SpecError: The training has neither epochs nor hours, or the study is a comparison.
    """
    if raw is None:
        return None
    final = read_model("[final]", FinalSettings, expect_table("[final]", raw))
    if final.epochs is None and budget.hours is None:
        raise SpecError("[final] needs epochs, or [budget] hours to fit into; give one of them")
    if compares:
        raise SpecError("[final] trains the best of a search, and [[compare]] is none; leave it out")
    return final


def read_budget(raw: object, *, cells: int | None, search: SearchSettings, timed: bool = False) -> Budget:
    """Read the table [budget].

    Args:
        raw: The table.
        cells: Cells of the grid or comparison, its default and maximum number of trials; None for a search.
        search: The table [search].
        timed: Whether the hours are given elsewhere.

    Raises:
        SpecError: The table breaks a rule, or a trial is too short for the pruner.
    """
    table = expect_table("[budget]", raw)
    default = DEFAULT_TRIALS_WITH_HOURS if timed or table.get("hours") is not None else DEFAULT_TRIALS
    budget = read_model("[budget]", Budget, {"trials": default if cells is None else cells, **table})
    if cells is not None and budget.epochs is None:
        raise SpecError("[budget] epochs is missing; a grid or comparison trains all its cells equally long")
    if cells is not None and budget.trials > cells:
        raise SpecError(
            f"[budget] trials must be at most {cells}, the cells there are, but got {budget.trials}; "
            f"leave it out to run them all, or raise [search] repeats"
        )
    if search.pruner != "none" and search.first_rung > budget.steps:
        raise SpecError(
            f"[search] first_rung must be at most {budget.steps}, the steps of a trial, but got {search.first_rung}; "
            f"lower it, or set pruner = 'none'"
        )
    return budget


def read_search(raw: object, *, compares: bool, has_point: bool) -> SearchSettings:
    """Read the table [search]. A comparison allows only the grid sampler, and no pruner."""
    required = {"sampler": "grid", "pruner": "none"} if compares else {}
    patience = DEFAULT_PATIENCE if has_point else DEFAULT_PATIENCE_WITHOUT_POINT
    search = read_model("[search]", SearchSettings, {"patience": patience, **required, **expect_table("[search]", raw)})
    for key, value in required.items():
        if getattr(search, key) != value:
            raise SpecError(
                f"[search] {key} must be {to_toml(value)} beside [[compare]], but got {to_toml(getattr(search, key))}; "
                f"leave it out"
            )
    if search.repeats > 1 and search.sampler != "grid":
        raise SpecError(
            f"[search] repeats must be 1 with sampler = {to_toml(search.sampler)}, but got {search.repeats}; "
            f"only a grid or a comparison repeats"
        )
    return search
