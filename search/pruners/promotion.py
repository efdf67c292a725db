"""Rules for paused trials: at a rung the best are promoted; before a verdict all wait until the last one is trained.

ASHA in its first form (Li et al. 2020, https://arxiv.org/abs/1810.05934, algorithm 2), with the delay of D-ASHA (Li et
al. 2022, https://arxiv.org/abs/2201.06834): at most one of `reduction` trials at a rung is ever promoted, even if each
new trial is better than those promoted before. A paused trial is WAITING and has the attribute `paused`, the step of
its rung; a claim removes the attribute. The state of a trial whose process died is therefore in the database. A paused
trial keeps its checkpoint while it may be promoted soon.
"""

import json
from dataclasses import dataclass

import sqlalchemy as sa

from search.pruners.asha import MIN_TRIALS
from search.storage import attr_keys
from search.storage.rdb import judged_later
from search.storage.tables import CURVES, TRIAL_ATTRS, TRIALS
from search.storage.trial_loader import paused_ids

#: Paused trials per rung that keep their checkpoint: those that are promoted next. A rung promotes one more trial when
#: `reduction` more have reached it. A trial promoted without a checkpoint is retrained up to its rung.
CHECKPOINTS_PER_RUNG = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class AshaPromotion:
    """Promotion at the rungs of a study: one of `reduction` trials at a rung goes on."""

    rungs: tuple[int, ...]
    reduction: int
    steps: int
    """Steps of a complete trial."""
    least: int = MIN_TRIALS
    """Minimum number of trials at a rung before one is promoted."""
    audited: frozenset[int] = frozenset()
    """The numbers of audited trials: they never pause, and are not ranked."""
    baseline: int | None = None
    """The number of the baseline: it never pauses and uses up no promotion, but is ranked with the others."""

    def promotable(self, connection: sa.Connection, study_id: int) -> list[tuple[int, int]]:
        """The paused trials that may be promoted now, the highest rung first.

        A trial that leads its rung, ahead of the baseline as well, is promoted at once: only complete trials are
        compared with the baseline, and the hours may end before.

        Args:
            connection: An open transaction.
            study_id: The study.

        Returns:
            (trial id, number) of each.
        """
        promoted: list[tuple[int, int]] = []
        for rung in reversed(self.rungs):
            ranked, paused = self._ranked(connection, study_id, rung), _paused(connection, study_id, rung)
            slots = len(ranked) // self.reduction if len(ranked) >= self.least else 0
            stayed = _stayed(connection, study_id, rung)
            went_on = sum(trial_id not in stayed and number != self.baseline for trial_id, number in ranked)
            candidates = [(trial_id, number) for trial_id, number in ranked[:slots] if trial_id in paused]
            is_led = self.baseline is not None and candidates[:1] == ranked[:1]
            promoted += candidates[: max(int(is_led), slots - went_on)]
        return promoted

    def without_checkpoint(self, connection: sa.Connection, study_id: int, rung: int) -> list[int]:
        """The numbers of the paused trials at a rung that keep no checkpoint, the best first."""
        paused = _paused(connection, study_id, rung)
        waiting = [number for trial_id, number in self._ranked(connection, study_id, rung) if trial_id in paused]
        return waiting[CHECKPOINTS_PER_RUNG:]

    def last(self, connection: sa.Connection, study_id: int) -> tuple[int, int] | None:
        """(trial id, number) of the best trial at the highest rung with paused ones, if no trial is complete yet."""
        done = sa.select(sa.func.count()).where(TRIALS.c.study_id == study_id, TRIALS.c.state == "COMPLETE")
        if connection.execute(done).scalar_one():
            return None
        for rung in reversed(self.rungs):
            waiting = _paused(connection, study_id, rung)
            for trial_id, number in self._ranked(connection, study_id, rung):
                if trial_id in waiting:
                    return trial_id, number
        return None

    def never_promoted(self, connection: sa.Connection, study_id: int) -> list[tuple[int, str]]:
        """(trial id, reason) of all paused trials, to be called when no worker can change their rank."""
        pruned = []
        for rung in self.rungs:
            ranked = self._ranked(connection, study_id, rung)
            waiting = _paused(connection, study_id, rung)
            pruned += [
                (trial_id, f"rank {rank} of {len(ranked)} at step {rung} when nothing was left to begin")
                for rank, (trial_id, _) in enumerate(ranked, 1)
                if trial_id in waiting
            ]
        return pruned

    def _ranked(self, connection: sa.Connection, study_id: int, rung: int) -> list[tuple[int, int]]:
        """(trial id, number) of all trials judged at a rung, the best first; ties by number."""
        query = (
            sa.select(TRIALS.c.trial_id, TRIALS.c.number)
            .where(
                CURVES.c.trial_id == TRIALS.c.trial_id,
                TRIALS.c.study_id == study_id,
                TRIALS.c.state != "FAIL",
                ~judged_later(tuple(step for step in (*self.rungs, self.steps) if step > rung)),
                CURVES.c.step == rung,
                CURVES.c.intermediate_value.is_not(None),  # SQLite stores a NaN as NULL
            )
            .order_by(CURVES.c.intermediate_value.desc(), TRIALS.c.number)
        )
        ranked = [(row.trial_id, row.number) for row in connection.execute(query)]
        return [(trial_id, number) for trial_id, number in ranked if number not in self.audited]


@dataclass(frozen=True, kw_only=True, slots=True)
class BarrierPromotion:
    """Promotion in a verdict: trained trials wait for each other, and are then tested one directly after the other."""

    trials: int

    def promotable(self, connection: sa.Connection, study_id: int) -> list[tuple[int, int]]:
        """(trial id, number) of all paused trials; empty while a trial is left to train."""
        trained = sa.select(TRIAL_ATTRS.c.trial_id).where(TRIAL_ATTRS.c.key == attr_keys.PAUSED)
        is_over = TRIALS.c.state.not_in(("WAITING", "RUNNING"))
        ready = is_over | TRIALS.c.trial_id.in_(trained)
        count = sa.select(sa.func.count()).where(TRIALS.c.study_id == study_id, ready)
        if connection.execute(count).scalar_one() < self.trials:
            return []
        paused = sa.select(TRIALS.c.trial_id, TRIALS.c.number).where(TRIALS.c.trial_id.in_(paused_ids(study_id)))
        return [(row.trial_id, row.number) for row in connection.execute(paused.order_by(TRIALS.c.number))]

    def without_checkpoint(self, connection: sa.Connection, study_id: int, rung: int) -> list[int]:
        """Empty: all checkpoints are kept, because every trial is evaluated on the test images."""
        return []

    def last(self, connection: sa.Connection, study_id: int) -> tuple[int, int] | None:
        """None: no trial goes on before all others."""
        return None

    def never_promoted(self, connection: sa.Connection, study_id: int) -> list[tuple[int, str]]:
        """Empty: every trial goes on."""
        return []


def _paused(connection: sa.Connection, study_id: int, rung: int) -> set[int]:
    """The ids of the trials that are paused at a rung."""
    return set(connection.execute(paused_ids(study_id, rung)).scalars())


def _stayed(connection: sa.Connection, study_id: int, rung: int) -> set[int]:
    """The ids of the trials that did not go on from a rung: paused there, also at the end of the study, or stopped
    there at once.
    """
    later = sa.exists().where(CURVES.c.trial_id == TRIALS.c.trial_id, CURVES.c.step > rung)
    query = sa.select(TRIALS.c.trial_id).where(
        TRIALS.c.study_id == study_id,
        TRIAL_ATTRS.c.trial_id == TRIALS.c.trial_id,
        sa.or_(
            sa.and_(TRIAL_ATTRS.c.key == attr_keys.PAUSED, TRIAL_ATTRS.c.value_json == json.dumps(rung)),
            sa.and_(TRIAL_ATTRS.c.key == attr_keys.DECISION, ~later),
        ),
    )
    return set(connection.execute(query).scalars())
