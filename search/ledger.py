"""What is written of one trial: its draw, its plan, its steps and the decisions on them, each in one transaction.

What is decided is recorded before it is acted on, so that a trial that breaks off anywhere is taken up again as if
nothing had happened. Here nothing is trained, and torch is not loaded.
"""

from dataclasses import asdict, dataclass
from typing import Any

import optuna

from search import spec
from search.desk import Desk
from search.lease import Claim
from search.outcome import Paused
from search.pruner import Decision
from search.rows import PAUSED, SPARED
from search.study import asha, audited, for_trial


def open_trial(desk: Desk, claim: Claim) -> optuna.Trial:
    """The claimed trial, as Optuna sees it, with what is stored of it."""
    seen = desk.excerpt.read()  # the cache refuses writes to a trial that it never saw
    return optuna.Trial(for_trial(desk.cached, desk.study, claim.number, seen), claim.trial_id)


def draw(desk: Desk, trial: optuna.Trial) -> dict[str, Any]:
    """The flat configuration of the trial; drawn once, in one transaction, and stored."""
    with desk.storage.together():
        values = spec.draw(desk.study.spec, trial)
        trial.storage.set_trial_system_attr(trial._trial_id, "config", values)
    return values


def describe(desk: Desk, trial: optuna.Trial, *, parameters: int, macs: int, seed: int) -> None:
    """Store what is known of a trial before it is trained: weights, multiplications for one image, seed."""
    with desk.storage.together():
        trial.set_user_attr("parameters", parameters)
        trial.set_user_attr("macs", macs)
        trial.set_user_attr("seed", seed)


@dataclass(kw_only=True, slots=True)
class Ledger:
    """The curve of one trial in the database, and what is decided by it."""

    desk: Desk
    claim: Claim
    trial: optuna.Trial
    reported: frozenset[int] = frozenset()
    """Steps that an earlier attempt has stored."""

    def record(
        self, step: int, value: float, *, epochs: float, seconds: float, images_per_second: float | None = None
    ) -> Decision | None:
        """Store a step's value, and the decision to stop there if there is one, in one transaction.

        Raises:
            Paused: the trial waits at this rung.
        """
        study = self.desk.study
        is_judged = asha(study.spec).is_rung(step) and step not in self.reported
        is_paused = is_judged and study.spec.search.pruner == "promote" and not self._is_audited()
        decision = self._rank(step, value) if is_judged and not is_paused else None
        with self.desk.storage.together():
            if step not in self.reported:  # a value once recorded stays, though a lost checkpoint is trained again
                self._report(value, step)
            self.trial.set_user_attr("seconds", round(seconds, 3))
            self.trial.set_user_attr("epochs", epochs)
            if images_per_second is not None:
                self.trial.set_user_attr("images_per_second", round(images_per_second, 1))
            decision = self._keep(decision)
            if is_paused:
                self.trial.set_user_attr(PAUSED, step)
        if is_paused:
            raise Paused(step, until="it is among the best there")
        return decision or self.ask_optuna(step, value)

    def ask_optuna(self, step: int, value: float) -> Decision | None:
        """Ask Optuna's pruner, if the study has one and it was not asked yet.

        What it notes for itself is stored together with its decision. It is not asked about a trial any more that it
        would have stopped: it would compare others with that one at later rungs.
        """
        pruner = self.desk.study.spec.search.pruner
        if pruner not in ("hyperband", "median") or step >= self.desk.study.spec.budget.steps:
            return None
        if step <= self.trial.user_attrs.get("judged", 0) or SPARED in self.trial.user_attrs:
            return None
        with self.desk.storage.together():
            decision = None
            if self.trial.should_prune():
                decision = self._keep(Decision(step=step, value=value, reason=f"stopped by {pruner} at step {step}"))
            self.trial.set_user_attr("judged", step)
        return decision

    def _report(self, value: float, step: int) -> None:
        """Store a value of the curve. Optuna's own way refuses it where there are several objectives."""
        if len(self.desk.study.spec.search.objectives) == 1:
            self.trial.report(value, step)
        else:
            self.desk.storage.set_trial_intermediate_value(self.claim.trial_id, step, value)

    def _is_audited(self) -> bool:
        return self.claim.number in audited(self.desk.study.spec, self.claim.number)

    def _rank(self, step: int, value: float) -> Decision | None:
        """What our own pruner decides at a rung; trials that are audited do not count there."""
        study = self.desk.study
        if study.spec.search.pruner not in ("asha", "promote"):
            return None
        number = self.claim.number
        left_out = audited(study.spec, number)
        better, others = self.desk.storage.standing(study.id, step, value, but=number, left_out=left_out)
        return asha(study.spec).decide(step, value, better=better, others=others)

    def _keep(self, decision: Decision | None) -> Decision | None:
        """Store a decision; the first one on a trial that is audited as what would have been done, and is not."""
        if decision is None:
            return None
        if not self._is_audited():
            self.trial.set_user_attr("decision", asdict(decision))
            return decision
        if SPARED not in self.trial.user_attrs:
            self.trial.set_user_attr(SPARED, asdict(decision))
        return None
