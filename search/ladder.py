"""Rungs at which trials pause: the best of those that have reached one go on, whenever that is known.

ASHA in its first form (Li et al. 2020, https://arxiv.org/abs/1810.05934, algorithm 2). A paused trial is WAITING and
has the attribute `paused`, the step of its rung; who claims it takes that away. So a trial that was paused or promoted
when its process died is what the database says it is. It holds its checkpoint as long as its turn may come soon.
"""

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from search.rows import PAUSED
from search.storage import CURVES, TRIAL_ATTRS, TRIALS, Storage, ending

#: At each rung so many trials that pause keep their checkpoints: those that are next to go on. A rung's turn comes to
#: the next one when `reduction` more have reached it. Who goes on without a checkpoint is trained anew up to its rung.
NEXT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """The rungs of a study, in steps, and of how many trials at one of them one goes on."""

    rungs: tuple[int, ...]
    reduction: int

    def promotable(self, connection: sa.Connection, study_id: int) -> list[tuple[int, int]]:
        """(trial id, number) of the paused trials that are among the best at their rung, the highest rung first."""
        found: list[tuple[int, int]] = []
        for rung in reversed(self.rungs):
            best = self._best(connection, study_id, rung)
            paused = _paused(connection, study_id, rung)
            found += [(trial_id, number) for trial_id, number in best if trial_id in paused]
        return found

    def behind(self, connection: sa.Connection, study_id: int, rung: int) -> list[int]:
        """The numbers of the trials that pause at a rung behind those that are next to go on, the best first."""
        waiting = _paused(connection, study_id, rung)
        line = [number for trial_id, number in self._ranked(connection, study_id, rung) if trial_id in waiting]
        return line[NEXT:]

    def last(self, connection: sa.Connection, study_id: int) -> tuple[int, int] | None:
        """The best of those that pause at the highest rung, if the study has no complete trial yet: one shall be."""
        done = sa.select(sa.func.count()).where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE)
        if connection.execute(done).scalar_one():
            return None
        for rung in reversed(self.rungs):
            waiting = _paused(connection, study_id, rung)
            for trial_id, number in self._ranked(connection, study_id, rung):
                if trial_id in waiting:
                    return trial_id, number
        return None

    def settle(self, storage: Storage, connection: sa.Connection, study_id: int) -> int:
        """Prune all paused trials; returns how many. For when nobody works any more who could change their rank."""
        count = 0
        for rung in self.rungs:
            ranked = [trial_id for trial_id, _ in self._ranked(connection, study_id, rung)]
            keep = len(ranked) // self.reduction
            for trial_id in _paused(connection, study_id, rung):
                rank = ranked.index(trial_id) + 1
                reason = f"rank {rank} of {len(ranked)} at step {rung}; the best {keep} went on"
                connection.execute(storage.trial_attr(trial_id, "reason", reason))
                # A pause gave its attempt back, like a stop; here it ends after all.
                connection.execute(storage.trial_attr(trial_id, "attempts", _attempts(connection, trial_id) + 1))
                for statement in ending(trial_id, TrialState.PRUNED):
                    connection.execute(statement)
                count += 1
        return count

    def _best(self, connection: sa.Connection, study_id: int, rung: int) -> list[tuple[int, int]]:
        ranked = self._ranked(connection, study_id, rung)
        return ranked[: len(ranked) // self.reduction]

    def _ranked(self, connection: sa.Connection, study_id: int, rung: int) -> list[tuple[int, int]]:
        """(trial id, number) of all that have a value at a rung, the best first, earlier ones among equals."""
        rows = (
            sa.select(TRIALS.c.trial_id, TRIALS.c.number)
            .where(
                CURVES.c.trial_id == TRIALS.c.trial_id,
                TRIALS.c.study_id == study_id,
                TRIALS.c.state != TrialState.FAIL,
                CURVES.c.step == rung,
                CURVES.c.intermediate_value.is_not(None),  # SQLite stores a NaN as NULL
            )
            .order_by(CURVES.c.intermediate_value.desc(), TRIALS.c.number)
        )
        return [(row.trial_id, row.number) for row in connection.execute(rows)]


def _attempts(connection: sa.Connection, trial_id: int) -> int:
    row = sa.select(TRIAL_ATTRS.c.value_json).where(TRIAL_ATTRS.c.trial_id == trial_id, TRIAL_ATTRS.c.key == "attempts")
    return int(json.loads(connection.execute(row).scalar_one()))


def paused(connection: sa.Connection, study_id: int) -> int:
    """How many trials of a study pause."""
    rows = _waiting(study_id, TRIAL_ATTRS.c.value_json != "null").with_only_columns(sa.func.count())
    return int(connection.execute(rows).scalar_one())


def _paused(connection: sa.Connection, study_id: int, rung: int) -> set[int]:
    """The ids of the trials that pause at a rung."""
    return set(connection.execute(_waiting(study_id, TRIAL_ATTRS.c.value_json == json.dumps(rung))).scalars())


def _waiting(study_id: int, which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(TRIALS.c.trial_id).where(
        TRIAL_ATTRS.c.trial_id == TRIALS.c.trial_id,
        TRIALS.c.study_id == study_id,
        TRIALS.c.state == TrialState.WAITING,
        TRIAL_ATTRS.c.key == PAUSED,
        which,
    )
