"""The configurations of a search: those that its space has, and those that trials have. Each is tried once.

Every trial counts, whatever its state: a failed one runs again under its number (`--retry-failed`), and one that cannot
be trained never could. Points of [[try]] run as they are written, even if two are equal.
"""

import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Final

import sqlalchemy as sa
from optuna.trial import FixedTrial

from search.seeds import derive
from search.spec import study_spec
from search.spec.domains import Value
from search.spec.fit import ImageLimits, nearest, settled
from search.spec.search_space import Identity, configurations, identity, is_repeatable
from search.spec.study_spec import StudySpec
from search.storage.claims import SpaceSize
from search.storage.trial_loader import configs_of_trials
from search.study.stored_study import StoredStudy
from search.study.strategy import known_point, limits_of

#: Samplers that copy values of earlier trials: with them even a value of a range without steps appears twice.
COPYING: Final = ("evolution", "nsga2")


class ConfigurationSpace:
    """The configurations that a search can try, as far as they are known without training.

    Those that cannot be trained are left out, unless each draw of them is changed to the nearest one that can.
    """

    def __init__(self, spec: StudySpec, limits: ImageLimits | None) -> None:
        """`limits`: of the images; None if they are not known yet, and each configuration counts as trainable."""
        self.spec, self._limits = spec, limits
        self.is_grid = spec.search.sampler == "grid"
        self.is_finite = study_spec.count_configurations(spec) is not None
        self._drawable: set[Identity] = set()
        self._walk = self.walk()

    def walk(self, rng: random.Random | None = None) -> Iterator[dict[str, Value]]:
        """The configurations that can be drawn, some of them several times.

        Args:
            rng: Shuffles the values of each parameter.
        """
        for values in configurations(self.spec.space, rng):
            drawn = study_spec.with_defaults(self.spec, values)
            config = drawn if self._limits is None else settled(self.spec, drawn, self._limits)
            if config is not None:
                yield config

    @cached_property
    def given(self) -> Mapping[int, Identity]:
        """The completely given configurations, the baseline and points of [[try]], by the number of their trial."""
        configs: dict[int, dict[str, Value]] = {}
        if self.is_grid:
            return {}  # its cells are given, and repeat as often as the study file asks for
        for number, params in enumerate(study_spec.fixed_trials(self.spec)):
            with suppress(ValueError):  # a value is left open
                configs[number] = study_spec.sample_config(self.spec, FixedTrial(params))
        baseline = study_spec.baseline(self.spec)
        if baseline is not None:
            configs[baseline] = known_point(self.spec)
        if self._limits is not None:
            configs = {number: nearest(self.spec, config, self._limits) for number, config in configs.items()}
        return {number: self.identity(config) for number, config in configs.items()}

    def has_more_than(self, count: int) -> bool:
        """Whether more than `count` configurations can be drawn. The space must be finite."""
        while len(self._drawable) <= count and (config := next(self._walk, None)) is not None:
            self._drawable.add(self.identity(config))
        return len(self._drawable) > count

    def size(
        self,
        *,
        beyond: int,
        tried: Collection[Identity] = frozenset(),
        trials: int = 0,
        undrawn: int = 0,
        given: Collection[Identity] | None = None,
    ) -> SpaceSize | None:
        """Count the configurations, and the trials after which each has been tried.

        Args:
            beyond: Number of trials that are surely possible.
            tried: The configurations of trials.
            trials: Number of all trials.
            undrawn: Number of trials that will draw their configuration.
            given: The given configurations of trials that have not drawn theirs; by default all given ones.

        Returns:
            None if more than `beyond` trials are possible, or no configuration can be trained.
        """
        if not self.is_finite or self.has_more_than(beyond) or not self._drawable:
            return None
        given = self.given.values() if given is None else given
        free = (self._drawable | set(given)) - set(tried)
        repeats = len(given) - len(free.intersection(given))
        possible = trials - undrawn + len(free) + repeats
        if possible > beyond:
            return None
        return SpaceSize(trials=possible, configurations=len(free.union(tried)), undrawn=undrawn)

    def can_repeat(self, config: Mapping[str, Value]) -> bool:
        """Whether another draw can give the same configuration."""
        if self.is_grid:
            return False
        return self.spec.search.sampler in COPYING or is_repeatable(self.spec.space, config)

    def identity(self, config: Mapping[str, Value]) -> Identity:
        """The values that tell a configuration from others; one of an older version may lack keys."""
        return identity(self.spec.space, study_spec.with_defaults(self.spec, config))


class TriedConfigurations:
    """The configurations of the trials of a study, which a process reads as trials draw them."""

    def __init__(self, study: StoredStudy) -> None:
        limits = None if study.spec.budget.epochs is None else limits_of(study)
        self.space = ConfigurationSpace(study.spec, limits)
        self.is_read = False
        """Whether the trials were read once."""
        self._study_id = study.id
        self._numbers: dict[Identity, int] = {}
        """The number of the first trial with a configuration."""
        self._given = dict(self.space.given)
        """The given configurations of the trials that have not drawn theirs, by number."""
        self._undrawn: set[int] = set()
        """Ids of the trials that will draw their configuration."""
        self._trials = 0
        self._last_id = -1
        self._is_exhausted = False

    def read(self, connection: sa.Connection) -> None:
        """Read the trials that are new, or have drawn their configuration, since the last read."""
        self.is_read = True
        rows = configs_of_trials(connection, self._study_id, after=self._last_id, among=self._undrawn)
        for row in rows:
            self._last_id, self._trials = max(self._last_id, row.id), max(self._trials, row.number + 1)
            if row.config is None and row.state in ("RUNNING", "WAITING"):
                self._undrawn.add(row.id)
                continue
            self._undrawn.discard(row.id)
            self._given.pop(row.number, None)
            if row.config is not None:
                self._numbers.setdefault(self.space.identity(row.config), row.number)

    def size(self, connection: sa.Connection, *, beyond: int) -> SpaceSize | None:
        """Count the configurations; see `ConfigurationSpace.size`.

        Args:
            connection: Connection in a transaction.
            beyond: Number of trials that are surely possible.
        """
        if not self.space.is_finite or self.space.has_more_than(beyond):
            return None
        self.read(connection)
        return self.space.size(
            beyond=beyond,
            tried=self._numbers.keys(),
            trials=self._trials,
            undrawn=len(self._undrawn),
            given=self._given.values(),
        )

    def may_clash(self, config: Mapping[str, Value], number: int) -> bool:
        """Whether another trial can have the configuration of trial `number`, which then must have another one.

        A given configuration never changes, and once all are taken, repetitions are drawn.
        """
        return not (number in self.space.given or self._is_exhausted) and self.space.can_repeat(config)

    def is_taken(self, config: Mapping[str, Value], number: int) -> bool:
        """Whether another trial than `number` has this configuration, or will have it."""
        key = self.space.identity(config)
        return self._numbers.get(key, number) != number or key in self._given.values()

    def free(self, number: int) -> dict[str, Value] | None:
        """A random configuration of a finite space for trial `number`; None if each is taken, or the space is not
        finite.
        """
        spec = self.space.spec
        if not self.space.is_finite or self._is_exhausted:
            return None
        point = spec.points[number] if number < len(spec.points) else {}
        for config in self.space.walk(random.Random(derive(spec.search.seed, number, "free"))):
            if point.items() <= config.items() and not self.is_taken(config, number):
                return config
        self._is_exhausted = not point
        return None
