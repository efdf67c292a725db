"""The tables [budget] and [search] of a study file: how much may be spent, and how."""

from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from search.errors import SpecError
from search.spec.toml_table import expect_table, read_model, to_toml

Metric = Literal["accuracy", "balanced_accuracy"]
SamplerName = Literal["tpe", "nsga2", "evolution", "random", "grid"]
PrunerName = Literal["asha", "promote", "hyperband", "median", "none"]
Cost = Literal["parameters", "macs", "latency_ms", "epoch_seconds"]
"""What a network costs: trained numbers, multiply-accumulates for one image, milliseconds for one image by itself,
seconds for an epoch of the study's images.
"""

Objectives = Annotated[
    Metric | tuple[Metric | Cost, ...],
    BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given),
]

#: Trials of a search that says nothing of them: without hours, and with hours, which end it long before.
DEFAULT_TRIALS, MAX_TRIALS = 100, 1000
#: Evaluations of a trial where [budget] epochs are left out; rungs are at 1/9, 1/3 and the end of it.
DEFAULT_EVALUATIONS = 9
#: A few dozen: a first rung after a few updates is noise (studies/LOG.md, 2026-11-25).
DEFAULT_RUNG_UPDATES = 24
#: Trials that are judged before a search gives up: where a [[try]] point is known to be good, and where trial 0 is the
#: defaults. From these the ten-minute study saw its first lead after 12 to 17 trials (studies/LOG.md, 2026-11-29).
DEFAULT_PATIENCE, DEFAULT_PATIENCE_WITHOUT_POINT = 12, 48

#: Configurations of a verdict, and seeds of each: more than ten are a mistyped number.
MAX_FINAL_TRAININGS = 10


class Budget(BaseModel):
    """The table [budget]: how much may be spent."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    trials: Annotated[int, Field(ge=1)]
    """Of the whole study, over all workers and all runs. Left out, it is all cells of a grid or comparison; of a search
    100, or with hours as many as they allow."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training images of a trial that is not pruned; may be fractional. Left out, as many as let eight
    whole trials fit into the hours of the search on one machine, and at least 216 updates of the known point's
    weights."""
    steps_per_epoch: Annotated[int, Field(ge=1)] = 1
    """Equal shares of an epoch after which a trial is judged; curves, rungs and checkpoints count these steps."""
    evaluations: Annotated[int, Field(ge=1)] | None = None
    """Equal parts of a whole trial after which it is judged, in place of steps_per_epoch. Left out with epochs: 9."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock in which the study may run, added up over its runs."""
    trial_macs: Annotated[float, Field(ge=1)] | None = None
    """Multiply-accumulates, forward, that a trial may train with. A network that needs more for all its epochs sees
    fewer images, in as many steps: trials then cost about the same, and at each rung equal efforts are compared."""
    max_parameters: Annotated[int, Field(ge=1)] | None = None
    """Numbers that a network may have, frozen ones among them; larger ones are not trained."""
    max_macs: Annotated[int, Field(ge=1)] | None = None
    """Multiply-accumulates for one image that a network may need; larger ones are not trained."""
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Milliseconds in which a worker must be able to classify one image; slower networks are not trained."""

    @model_validator(mode="after")
    def _steps_are_said_once(self) -> Self:
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
        """Epochs in a step of a trial of `images` training images, each of which takes `macs` multiply-accumulates.

        Raises ValueError as long as the epochs of a study that leaves them out are not settled.
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
    """The table [search]: how the next trial is chosen, and which trials are stopped early."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    objective: Objectives = "accuracy"
    """What is maximised, on the validation images; balanced: the mean over the classes. Or a list that begins with it,
    and goes on with what is minimised beside it; then there is no best trial, but a Pareto front."""
    sampler: SamplerName = "tpe"
    """Nsga2 breeds generations, for several objectives. Evolution begins at the first point of [[try]], else at the
    defaults, and changes the best; for many parameters and few trials. Grid runs every cell of the space."""
    pruner: PrunerName = "asha"
    """Stops trials that fall behind; with promote they pause, and the best of them go on later."""
    first_rung: Annotated[int, Field(ge=1)] = 1
    """Steps before a trial can be stopped."""
    rung_updates: Annotated[int, Field(ge=0)] = DEFAULT_RUNG_UPDATES
    """Updates of its weights that a network has had before a rung judges it, or compares others with it."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """One of this number of trials at a rung goes on."""
    anneal: bool = False
    """Whether the learning rate's schedule ends at each rung, and is stretched to the next one for trials that go on.
    Else a rung sees the beginning of a long schedule: one that falls late, or rises first, looks worse than it is."""
    audit: Annotated[float, Field(ge=0.0, le=0.5)] = 0.05
    """Share of the trials that the pruner may not stop, nor count: how they end tells how often it stops good ones."""
    baseline: bool = True
    """Whether trial 0 is the known point: the first row of [[try]], and what it leaves open at the defaults. It is
    never stopped, and the last training takes another trial only if that beats it by more than chance."""
    patience: Annotated[int, Field(ge=1)] = DEFAULT_PATIENCE
    """Where hours are given, the search ends when this number of trials was judged, and none beats the baseline by more
    than chance; the time that is left is for the last training. Without a [[try]] point it is 48."""
    startup_trials: Annotated[int, Field(ge=1)] = 10
    """Random trials before tpe begins to learn; of nsga2: trials of a generation."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Seeds for each cell of a grid or row of a comparison."""
    seed: int = 0
    """Of everything that is drawn: points, weights, order of the images."""
    trial_seed: int | None = None
    """Of the weights and the order of the images in every trial; None: each trial has its own. For `run --again`."""

    @property
    def metric(self) -> Metric:
        """What is maximised; it decides which trials are pruned."""
        return cast("Metric", self.objectives[0])  # `_objectives_fit` refuses anything else

    @property
    def objectives(self) -> tuple[str, ...]:
        """All of them; the first is maximised and decides which trials are pruned, all others are minimised."""
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
    """The table [final]: after a search the best once more, on train and validation images, then one look at the test
    images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the images; None: as many as fit into the time."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of [budget] hours that is kept for it; it gets what the search leaves over, too."""
    top: Annotated[int, Field(ge=1, le=MAX_FINAL_TRAININGS)] = 1
    """Configurations that are trained: what the search delivers, then the best others."""
    seeds: Annotated[int, Field(ge=1, le=MAX_FINAL_TRAININGS)] = 1
    """Trainings of each of them."""
    baseline: bool = False
    """Whether the first point of [[try]], or where there is none the defaults of convsearch, is trained beside them."""


def read_final(raw: object, *, budget: Budget, compares: bool) -> FinalSettings | None:
    """The table [final]; None if there is none.

    Raises SpecError if nothing says how long the training is, or there is nothing to choose.
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
    """The table [budget]. `cells` of a grid or comparison are its trials, unless it says fewer; None for a search.
    `timed`: hours are given elsewhere.

    Raises SpecError, also if no trial is long enough for its pruner.
    """
    given = expect_table("[budget]", raw)
    usual = MAX_TRIALS if timed or given.get("hours") is not None else DEFAULT_TRIALS
    budget = read_model("[budget]", Budget, {"trials": usual if cells is None else cells, **given})
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
    """The table [search]. A comparison runs its rows as a grid, each to its end, and can be told nothing else."""
    needed = {"sampler": "grid", "pruner": "none"} if compares else {}
    patience = DEFAULT_PATIENCE if has_point else DEFAULT_PATIENCE_WITHOUT_POINT
    search = read_model("[search]", SearchSettings, {"patience": patience, **needed, **expect_table("[search]", raw)})
    for key, value in needed.items():
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
