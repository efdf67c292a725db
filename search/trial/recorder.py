"""Stores one trial: its draw, its plan, its steps and the decisions on them, each in one transaction.

A decision is recorded before it takes effect. A trial that is interrupted at any point therefore resumes as if nothing
had happened. This module trains nothing and does not load torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
import sqlalchemy as sa

from models.config import Impossible
from search.analysis.correctness import pair
from search.optuna_internals import set_system_attr
from search.pruners.asha import PruneDecision
from search.spec import study_spec
from search.spec.domains import Value
from search.spec.fit import ImageLimits, check_fit, describe_changes, is_in_space, nearest
from search.spec.study_spec import baseline
from search.storage import attr_keys, queries
from search.storage.claims import Claim
from search.study.strategy import asha, asked, audited, for_trial, limits_of
from search.trial.context import TrialContext
from search.trial.outcome import TrialPaused

#: Attempts to draw a configuration that can be trained; afterwards the last one is changed until it can. A third of the
#: space of `cifar10` cannot be trained (studies/records/2026-11-25_random-networks): 20 misses in a row never happen.
MAX_DRAWS = 20
#: Draws of the study's sampler in place of one that repeats an earlier trial; further ones are random. A sampler that
#: has learnt draws near its best trials again and again.
MAX_REPEATS = 5


def open_trial(
    context: TrialContext,
    claim: Claim,
    *,
    draw: int = 0,
    at_random: bool = False,
    given: Mapping[str, Value] | None = None,
) -> optuna.Trial:
    """The claimed trial as an Optuna trial, with its stored attributes.

    Args:
        context: Database and folder of the study.
        claim: The claimed trial.
        draw: Number of earlier draws of this trial.
        at_random: Draw at random, whatever the sampler of the study is.
        given: Values by key, used instead of drawn ones.
    """
    seen = context.subset.read()  # the cache refuses writes to a trial that it has not read
    view = for_trial(context.cached, context.study, claim.number, seen, draw=draw, at_random=at_random, given=given)
    return optuna.Trial(view, claim.trial_id)


def draw(context: TrialContext, claim: Claim, trial: optuna.Trial) -> tuple[optuna.Trial, dict[str, Any]]:
    """Draw the flat configuration of a trial once and store it, in one transaction.

    A search draws again if a configuration cannot be trained, and stores nothing of it: the sampler would learn to
    avoid innocent values. A configuration that never fits, such as a given point, is changed to the nearest one that
    does. A search also draws again if a trial has the same configuration; in a finite space it then takes one that is
    left. Cells of a grid and rows of a comparison are never changed.

    Returns:
        The trial, opened again if it was drawn again, and its configuration by key.
    """
    config = context.storage.get_trial(claim.trial_id).system_attrs.get(attr_keys.CONFIG)
    if config is not None:
        return trial, config
    limits = None if context.spec.search.sampler == "grid" else limits_of(context.study)
    repeats = 0
    for count in range(1, MAX_DRAWS + 1):
        try:
            return trial, _store(context, trial, limits=limits)
        except Misfit as error:
            assert limits is not None
            near = nearest(context.spec, error.drawn, limits)
            if not is_in_space(context.spec, error.drawn, near):
                break
        except Repetition as error:
            near, repeats = error.drawn, repeats + 1
            if repeats > MAX_REPEATS and context.configurations.space.is_finite:
                break
        trial = open_trial(context, claim, draw=count, at_random=repeats > MAX_REPEATS)
    return draw_given(context, claim, near)


def draw_given(context: TrialContext, claim: Claim, config: dict[str, Any]) -> tuple[optuna.Trial, dict[str, Any]]:
    """Store this configuration, or one that is left if it repeats a trial; if none is left, the repetition."""
    may_repeat = False
    while True:
        trial = open_trial(context, claim, given=config)
        try:
            return trial, _store(context, trial, near=config, may_repeat=may_repeat)
        except Repetition:
            left = context.configurations.free(claim.number)
            may_repeat, config = left is None, left or config


class Misfit(Exception):
    """The drawn configuration cannot be trained; nothing of it was stored."""

    def __init__(self, drawn: dict[str, Any]) -> None:
        super().__init__(drawn)
        self.drawn = drawn


class Repetition(Exception):
    """Another trial has the drawn configuration, or will have it; nothing of it was stored."""

    def __init__(self, drawn: dict[str, Any]) -> None:
        super().__init__(drawn)
        self.drawn = drawn


def _store(
    context: TrialContext,
    trial: optuna.Trial,
    *,
    limits: ImageLimits | None = None,
    near: Mapping[str, Value] | None = None,
    may_repeat: bool = False,
) -> dict[str, Any]:
    """Draw and store in one transaction; values in `near` replace the drawn ones.

    Raises:
        Misfit: The configuration exceeds the `limits`.
        Repetition: It repeats another trial, and not `may_repeat`.
    """
    spec = context.spec
    with context.storage.batch():
        drawn = study_spec.sample_config(spec, trial)
        values = {**drawn, **(near or {})}
        if limits is not None:
            try:
                check_fit(spec, values, limits)
            except Impossible as error:
                raise Misfit(values) from error
        if not may_repeat:
            _refuse_repetition(context, trial.number, values)
        if changes := describe_changes(asked(spec, trial.number) or drawn, values):
            trial.set_user_attr(attr_keys.FITTED, list(changes))
        set_system_attr(trial, attr_keys.CONFIG, values)
    return values


def _refuse_repetition(context: TrialContext, number: int, config: dict[str, Any]) -> None:
    """Raise Repetition if another trial has this configuration, now or when the current batch is written.

    The second check is inside the transaction, under the lock of the study: no two workers draw the same.
    """
    tried = context.configurations
    if not tried.may_clash(config, number):
        return
    if not tried.is_read:  # many trials, and others would wait for the lock
        context.storage.read(tried.read)
    if tried.is_taken(config, number):
        raise Repetition(config)

    def check(connection: sa.Connection) -> None:
        context.storage.lock_study(connection, context.study.id)
        tried.read(connection)
        if tried.is_taken(config, number):
            raise Repetition(config)

    context.storage.check_batch(check)


def describe(
    context: TrialContext, trial: optuna.Trial, *, parameters: int, macs: int, seed: int, judged_from: int | None = None
) -> None:
    """Store the properties of a trial that are known before training.

    Args:
        context: Database and folder of the study.
        trial: The trial.
        parameters: Number of weights.
        macs: Multiplications per image.
        seed: The trial seed.
        judged_from: Step of the first rung that judges the trial; None if it is the first rung of the study (`[search]
            rung_updates`).
    """
    with context.storage.batch():
        trial.set_user_attr(attr_keys.PARAMETERS, parameters)
        trial.set_user_attr(attr_keys.MACS, macs)
        trial.set_user_attr(attr_keys.SEED, seed)
        if judged_from is not None:
            trial.set_user_attr(attr_keys.JUDGED_FROM, judged_from)


@dataclass(kw_only=True, slots=True)
class TrialRecorder:
    """Stores the curve of one trial, and the decisions that follow from it."""

    context: TrialContext
    claim: Claim
    trial: optuna.Trial
    judged_from: int = 0
    """The step of the first rung that judges the trial; see `[search] rung_updates`."""
    reported: frozenset[int] = field(init=False)
    """Steps that earlier attempts have stored."""

    def __post_init__(self) -> None:
        self.reported = frozenset(self.context.cached.get_trial(self.claim.trial_id).intermediate_values)

    def record(
        self,
        step: int,
        value: float,
        *,
        epochs: float,
        seconds: float,
        images_per_second: float | None = None,
        correct: Mapping[str, Any] | None = None,
    ) -> PruneDecision | None:
        """Store the value of a step, and the decision to stop there if there is one, in one transaction.

        Args:
            step: The step, from 1.
            value: The first objective on the validation images.
            epochs: Epochs trained until now.
            seconds: Training time until now, over all attempts.
            images_per_second: Training speed in this step; None if it was not measured.
            correct: The correct validation images, if they are stored (`search.analysis.correctness`).

        Returns:
            The decision to stop, or None.

        Raises:
            TrialPaused: The trial waits at this rung.
        """
        study = self.context.study
        is_judged = asha(study.spec).is_rung(step) and step not in self.reported and self._is_prunable(step)
        decision = self._behind(step, value, correct) if is_judged else None
        is_undecided = is_judged and decision is None
        is_paused = is_undecided and study.spec.search.pruner == "promote" and not self._is_audited()
        if is_undecided and not is_paused:
            decision = self._rank(step, value)
        with self.context.storage.batch():
            if step not in self.reported:  # a recorded value stays, even if a lost checkpoint is trained again
                self._report(value, step)
            self.trial.set_user_attr(attr_keys.SECONDS, round(seconds, 3))
            self.trial.set_user_attr(attr_keys.EPOCHS, epochs)
            if images_per_second is not None:
                self.trial.set_user_attr(attr_keys.IMAGES_PER_SECOND, round(images_per_second, 1))
            if correct is not None:
                self.trial.set_user_attr(attr_keys.CORRECT, dict(correct))
            decision = self._keep(decision)
            if is_paused:
                self.trial.set_user_attr(attr_keys.PAUSED, step)
        if is_paused:
            raise TrialPaused(step, until="it is among the best there")
        return decision or self.ask_optuna(step, value)

    def ask_optuna(self, step: int, value: float) -> PruneDecision | None:
        """Ask Optuna's pruner, if the study has one and it has not judged this step.

        The pruner's own attributes are stored together with its decision. A spared trial is not judged again: the
        pruner would compare others with it at later rungs.
        """
        pruner = self.context.spec.search.pruner
        if pruner not in ("hyperband", "median") or step >= self.context.spec.budget.steps:
            return None
        if step <= self.trial.user_attrs.get(attr_keys.JUDGED_STEP, 0) or attr_keys.SPARED in self.trial.user_attrs:
            return None
        if not self._is_prunable(step):
            return None
        with self.context.storage.batch():
            decision = None
            if self.trial.should_prune():
                decision = self._keep(
                    PruneDecision(step=step, value=value, reason=f"stopped by {pruner} at step {step}")
                )
            self.trial.set_user_attr(attr_keys.JUDGED_STEP, step)
        return decision

    def _report(self, value: float, step: int) -> None:
        """Store a value of the curve. `Trial.report` refuses it for several objectives."""
        if len(self.context.spec.search.objectives) == 1:
            self.trial.report(value, step)
        else:
            self.context.storage.set_trial_intermediate_value(self.claim.trial_id, step, value)

    def _is_prunable(self, step: int) -> bool:
        """Whether the trial may be stopped at a step: never the baseline, others from `judged_from` on."""
        return self.claim.number != baseline(self.context.spec) and step >= self.judged_from

    def _is_audited(self) -> bool:
        return self.claim.number in audited(self.context.spec, self.claim.number)

    def _behind(self, step: int, value: float, correct: Mapping[str, Any] | None) -> PruneDecision | None:
        """Stop a trial that is behind the baseline at a rung by more than a standard error of their difference.

        RUSH does so with its start points (Zappella et al. 2021, https://openreview.net/forum?id=9IsGcYnunH6).
        """
        spec = self.context.spec
        number = baseline(spec)
        if number is None or correct is None:
            return None
        if spec.search.pruner not in ("asha", "promote"):
            return None
        storage, name = self.context.storage, self.context.study.name
        reference = storage.retry_transient(lambda: queries.trial(storage.engine, name, number))
        if reference.state == "FAIL" or reference.violation > 0:
            return None
        paired = pair(correct, reference.correct, step, balanced=spec.search.objectives[0] == "balanced_accuracy")
        if paired is None or paired.lead >= -paired.error:
            return None
        reason = (
            f"{-paired.lead:.4f} behind the baseline at step {step}, where {paired.error:.4f} is one standard error"
        )
        return PruneDecision(step=step, value=value, reason=reason)

    def _rank(self, step: int, value: float) -> PruneDecision | None:
        """The decision of this service's own pruner at a rung; audited trials do not count."""
        study = self.context.study
        if study.spec.search.pruner not in ("asha", "promote"):
            return None
        number = self.claim.number
        left_out = audited(study.spec, number)
        rungs = asha(study.spec)
        better, others = self.context.storage.rank_at_step(
            study.id, step, value, but=number, left_out=left_out, later=rungs.later(step)
        )
        return rungs.decide(step, value, better=better, others=others)

    def _keep(self, decision: PruneDecision | None) -> PruneDecision | None:
        """Store a decision. On an audited trial the first one is stored as spared, and none takes effect."""
        if decision is None:
            return None
        if not self._is_audited():
            self.trial.set_user_attr(attr_keys.DECISION, asdict(decision))
            return decision
        if attr_keys.SPARED not in self.trial.user_attrs:
            self.trial.set_user_attr(attr_keys.SPARED, asdict(decision))
        return None
