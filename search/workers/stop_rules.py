"""When a study does not go on: no configuration can be trained, all trials fail, or none beats the baseline."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from data.progress import Say
from search.analysis import selection
from search.errors import (
    AllTrialsFailedError,
    AllTrialsImpossibleError,
)
from search.storage import queries
from search.storage.rdb import Storage
from search.storage.records import StudyProgress, StudyRecord
from search.study import stored_study
from search.study.stored_study import StoredStudy

#: After this number of trials that all failed, or of workers that died before their first trial, the study or the
#: machine is wrong, and not a trial.
SAME_FAILURES = 5


@dataclass(kw_only=True, slots=True)
class StopRules:
    """The rules of one study, which are applied to what its trials have come to."""

    storage: Storage
    study: StoredStudy
    say: Say
    status: str = ""
    """How the trials compare with the baseline, on one line."""
    _is_possible: bool = False
    """Whether a trial was trained."""
    _fitted: set[int] = field(default_factory=set)
    """Numbers of trials of which it was said that they were changed."""
    _compared: object = None
    """What there was of trials when they were last compared with the baseline."""

    def check(self, progress: StudyProgress) -> bool:
        """Whether the search ends because no trial beats its baseline.

        Raises:
            AllTrialsFailedError: the first trials have all failed.
            AllTrialsImpossibleError: no configuration can be trained.
        """
        self._refuse_impossible(progress.study)
        self._tell_fitted(progress)
        has_found_nothing = self._has_found_nothing(progress)
        counts = progress.study.counts
        if counts.failed >= min(SAME_FAILURES, counts.budget) and not counts.complete + counts.pruned + counts.paused:
            raise AllTrialsFailedError(self._why_all_failed())
        return has_found_nothing

    def _tell_fitted(self, progress: StudyProgress) -> None:
        """Say what was changed in a point that was given, because it could not be trained as it was."""
        given = max(len(self.study.spec.points), 1)
        for each in (*(running.trial for running in progress.running), *progress.finished):
            if each.fitted and each.number < given and each.number not in self._fitted:
                self._fitted.add(each.number)
                is_baseline = each.number == progress.study.baseline
                name = f"trial {each.number}" + (", the baseline," if is_baseline else "")
                self.say(f"{name} could not be trained as it was given; it has {', '.join(each.fitted)}")

    def _refuse_impossible(self, row: StudyRecord) -> None:
        """Give a search up of which no configuration can be trained. (Of a grid the other cells may be possible; and an
        older version refused what this one can train.)
        """
        counts, search = row.counts, self.study.spec.search
        if self._is_possible or search.sampler == "grid" or search.rung_updates == 0:
            return
        if counts.pruned < min(SAME_FAILURES, counts.budget):
            return
        trials = self.storage.retry_transient(lambda: queries.trials(self.storage.engine, self.study.name))
        finished = [each for each in trials if each.state in queries.FINISHED]
        self._is_possible = any(not (each.reason or "").startswith("impossible: ") for each in finished)
        if self._is_possible or any(each.curve for each in trials):
            return
        raise AllTrialsImpossibleError(
            f"none of {len(finished)} trials of {self.study.name!r} can be trained; the last one is "
            f"{finished[-1].reason}: change that in the study file"
        )

    def _has_found_nothing(self, progress: StudyProgress) -> bool:
        """Whether a search ends because no trial beats its baseline: the time that is left is for its last training."""
        row, patience, engine = progress.study, self.study.spec.search.patience, self.storage.engine
        if row.hours is None or row.baseline is None:
            return False
        now = (row.counts, tuple(len(each.trial.curve) for each in progress.running))
        if now == self._compared:
            return False
        self._compared = now
        compared = self.storage.retry_transient(lambda: selection.ended(engine, row))
        self.status = compared.status(patience=patience, before=row.judged_before)
        if compared.significant or compared.judged - row.judged_before < patience:
            return False
        whole = self.storage.retry_transient(lambda: selection.whole(engine, row))
        if not whole.has_found_nothing(patience=patience, before=row.judged_before):
            return False
        chosen = None if self.study.spec.final is None else selection.select_from(whole).as_json()
        stored_study.set_attrs(self.storage, self.study.id, nothing_found=True, selection=chosen)
        return True

    def _why_all_failed(self) -> str:
        trials = self.storage.retry_transient(lambda: queries.trials(self.storage.engine, self.study.name))
        failed = [trial for trial in trials if trial.state == "FAIL"]
        return (
            f"all {len(failed)} finished trials failed, the last one with: {failed[-1].reason}; "
            f"fix that, then run `convsearch resume {self.study.name} --retry-failed`"
        )


class StopReason(StrEnum):
    """Why the pool came to an end."""

    DONE = "done"
    HOURS = "its hours are spent"
    NOTHING_FOUND = "no trial beats the baseline"
    ASKED = "asked to stop"
    DETACHED = "stored, for `convsearch serve` or `convsearch worker` to work on"
    HUNG_UP = "the terminal was closed"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"


#: How a run ends that a signal stopped.
END_OF: Mapping[int, StopReason] = {
    signal.SIGHUP: StopReason.HUNG_UP,
    signal.SIGINT: StopReason.INTERRUPTED,
    signal.SIGTERM: StopReason.TERMINATED,
}


#: Of a command whose run was stopped by a signal, as a shell reports it.
EXIT_CODES: Mapping[StopReason, int] = {end: 128 + sign for sign, end in END_OF.items()}
