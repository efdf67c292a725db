"""Where trials pause: at rungs, of which the best go on, whenever that is known; and, trained, before a verdict.

ASHA in its first form (Li et al. 2020, https://arxiv.org/abs/1810.05934, algorithm 2), with the delay of D-ASHA (Li et
al. 2022, https://arxiv.org/abs/2201.06834): of `reduction` trials at a rung no more than one ever goes on, also where
each new one is better than those that went on before. A paused trial is WAITING and has the attribute `paused`, the
step of its rung; a claim removes it. So a trial that was paused or promoted when its process died is what
the database says it is. It holds its checkpoint as long as its turn may come soon.
"""

import json
from dataclasses import dataclass

import sqlalchemy as sa
from optuna.trial import TrialState

from search.pruners.asha import MIN_TRIALS
from search.storage.rdb import judged_later
from search.storage.records import DECISION, PAUSED
from search.storage.tables import CURVES, TRIAL_ATTRS, TRIALS
from search.storage.trial_loader import paused_ids

#: Paused trials per rung that keep their checkpoint: those that are next to be promoted. A rung's turn comes to
#: the next one when `reduction` more have reached it. A trial promoted without a checkpoint
#: is retrained up to its rung.
CHECKPOINTS_PER_RUNG = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class AshaPromotion:
    """The rungs of a study, in steps, and of how many trials at one of them one goes on."""

    rungs: tuple[int, ...]
    reduction: int
    steps: int
    """Of a whole trial."""
    least: int = MIN_TRIALS
    """Trials at a rung before one goes on."""
    audited: frozenset[int] = frozenset()
    """The numbers of trials that do not pause, and do not count."""
    baseline: int | None = None
    """The number of a trial that does not pause, and takes nobody's turn; it is ranked with the others."""

    def promotable(self, connection: sa.Connection, study_id: int) -> list[tuple[int, int]]:
        """(trial id, number) of the paused trials that are among the best at their rung, and whose turn has come; the
        highest rung first. A trial that leads all others there, the baseline among them, waits for no turn: only the
        end of a whole trial counts beside the baseline, and the hours may end before.
        """
        found: list[tuple[int, int]] = []
        for rung in reversed(self.rungs):
            ranked, paused = self._ranked(connection, study_id, rung), _paused(connection, study_id, rung)
            places = len(ranked) // self.reduction if len(ranked) >= self.least else 0
            stayed = _stayed(connection, study_id, rung)
            went_on = sum(trial_id not in stayed and number != self.baseline for trial_id, number in ranked)
            turn = [(trial_id, number) for trial_id, number in ranked[:places] if trial_id in paused]
            is_led = self.baseline is not None and turn[:1] == ranked[:1]
            found += turn[: max(int(is_led), places - went_on)]
        return found

    def without_checkpoint(self, connection: sa.Connection, study_id: int, rung: int) -> list[int]:
        """The numbers of the trials that pause at a rung behind those that are next to go on, the best first."""
        waiting = _paused(connection, study_id, rung)
        line = [number for trial_id, number in self._ranked(connection, study_id, rung) if trial_id in waiting]
        return line[CHECKPOINTS_PER_RUNG:]

    def last(self, connection: sa.Connection, study_id: int) -> tuple[int, int] | None:
        """The best of those that pause at the highest rung, if the study has no complete trial yet."""
        done = sa.select(sa.func.count()).where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE)
        if connection.execute(done).scalar_one():
            return None
        for rung in reversed(self.rungs):
            waiting = _paused(connection, study_id, rung)
            for trial_id, number in self._ranked(connection, study_id, rung):
                if trial_id in waiting:
                    return trial_id, number
        return None

    def never_promoted(self, connection: sa.Connection, study_id: int) -> list[tuple[int, str]]:
        """(trial id, why it does not go on) of all that pause, once no worker can change their rank."""
        found = []
        for rung in self.rungs:
            ranked = self._ranked(connection, study_id, rung)
            waiting = _paused(connection, study_id, rung)
            found += [
                (trial_id, f"rank {rank} of {len(ranked)} at step {rung} when nothing was left to begin")
                for rank, (trial_id, _) in enumerate(ranked, 1)
                if trial_id in waiting
            ]
        return found

    def _ranked(self, connection: sa.Connection, study_id: int, rung: int) -> list[tuple[int, int]]:
        """(trial id, number) of all that are judged at a rung, the best first, earlier ones among equals."""
        rows = (
            sa.select(TRIALS.c.trial_id, TRIALS.c.number)
            .where(
                CURVES.c.trial_id == TRIALS.c.trial_id,
                TRIALS.c.study_id == study_id,
                TRIALS.c.state != TrialState.FAIL,
                ~judged_later(tuple(step for step in (*self.rungs, self.steps) if step > rung)),
                CURVES.c.step == rung,
                CURVES.c.intermediate_value.is_not(None),  # SQLite stores a NaN as NULL
            )
            .order_by(CURVES.c.intermediate_value.desc(), TRIALS.c.number)
        )
        ranked = [(row.trial_id, row.number) for row in connection.execute(rows)]
        return [(trial_id, number) for trial_id, number in ranked if number not in self.audited]


@dataclass(frozen=True, kw_only=True, slots=True)
class BarrierPromotion:
    """Where the trials of a verdict pause: trained, until all are, so that the test images are looked at in one go."""

    trials: int

    def promotable(self, connection: sa.Connection, study_id: int) -> list[tuple[int, int]]:
        """(trial id, number) of the paused trials, once none is left to train."""
        trained = sa.select(TRIAL_ATTRS.c.trial_id).where(TRIAL_ATTRS.c.key == PAUSED)
        is_over = TRIALS.c.state.not_in((TrialState.WAITING, TrialState.RUNNING))
        ready = is_over | TRIALS.c.trial_id.in_(trained)
        count = sa.select(sa.func.count()).where(TRIALS.c.study_id == study_id, ready)
        if connection.execute(count).scalar_one() < self.trials:
            return []
        paused = sa.select(TRIALS.c.trial_id, TRIALS.c.number).where(TRIALS.c.trial_id.in_(paused_ids(study_id)))
        return [(row.trial_id, row.number) for row in connection.execute(paused.order_by(TRIALS.c.number))]

    def without_checkpoint(self, connection: sa.Connection, study_id: int, rung: int) -> list[int]:
        """None: all checkpoints are kept, because every trial is evaluated on the test images."""
        return []

    def last(self, connection: sa.Connection, study_id: int) -> tuple[int, int] | None:
        """None: no trial goes on before all others."""
        return None

    def never_promoted(self, connection: sa.Connection, study_id: int) -> list[tuple[int, str]]:
        """Nobody is left behind."""
        return []


def _paused(connection: sa.Connection, study_id: int, rung: int) -> set[int]:
    """The ids of the trials that pause at a rung."""
    return set(connection.execute(paused_ids(study_id, rung)).scalars())


def _stayed(connection: sa.Connection, study_id: int, rung: int) -> set[int]:
    """The ids of the trials that did not go on from a rung: they pause there, or paused when the study ended, or were
    stopped there at once.
    """
    later = sa.exists().where(CURVES.c.trial_id == TRIALS.c.trial_id, CURVES.c.step > rung)
    rows = sa.select(TRIALS.c.trial_id).where(
        TRIALS.c.study_id == study_id,
        TRIAL_ATTRS.c.trial_id == TRIALS.c.trial_id,
        sa.or_(
            sa.and_(TRIAL_ATTRS.c.key == PAUSED, TRIAL_ATTRS.c.value_json == json.dumps(rung)),
            sa.and_(TRIAL_ATTRS.c.key == DECISION, ~later),
        ),
    )
    return set(connection.execute(rows).scalars())
