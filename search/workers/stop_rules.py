"""Rules that end a study: its first trials have no result, all trials fail, or none beats the baseline."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from data.progress import Say
from search.analysis import obstacles, selection
from search.storage import attr_keys, queries
from search.storage.rdb import Storage
from search.storage.records import StudyProgress, StudyRecord, TrialCounts
from search.study import stored_study
from search.study.stored_study import StoredStudy

#: After this number of failed trials without a success, or of workers that died before their first trial, the cause is
#: the study or the machine, not a trial.
SAME_FAILURES = 5


@dataclass(kw_only=True, slots=True)
class StopRules:
    """The stop rules of one study, applied to the results of its trials."""

    storage: Storage
    study: StoredStudy
    say: Say
    status: str = ""
    """Comparison of the trials with the baseline, on one line."""
    _obstructed_counts: TrialCounts | None = None
    """Counts at the last check whether the first trials have a result."""
    _reported_fitted: set[int] = field(default_factory=set)
    """Numbers of the trials whose changes were reported."""
    _compared_state: object = None
    """State of the trials at the last comparison with the baseline."""

    def check(self, progress: StudyProgress) -> bool:
        """Check all rules against the progress of the study.

        Args:
            progress: The current trials.

        Returns:
            Whether the search ends because no trial beats its baseline.

        Raises:
            AllTrialsFailedError: the first trials have all failed.
            AllTrialsImpossibleError: the first trials all ended without a result, for whatever reasons.
        """
        self._end_without_results(progress.study)
        self._report_fitted(progress)
        has_found_nothing = self._has_found_nothing(progress)
        counts = progress.study.counts
        if counts.failed >= min(SAME_FAILURES, counts.budget) and not counts.complete + counts.pruned + counts.paused:
            failed = self.storage.retry_transient(lambda: queries.obstructed(self.storage.engine, self.study.name))
            raise obstacles.error(progress.study, failed)
        return has_found_nothing

    def _report_fitted(self, progress: StudyProgress) -> None:
        """Report the changes to a given point that could not be trained as it was."""
        point_count = max(len(self.study.spec.points), 1)
        for trial in (*(running.trial for running in progress.running), *progress.finished):
            if trial.fitted and trial.number < point_count and trial.number not in self._reported_fitted:
                self._reported_fitted.add(trial.number)
                is_baseline = trial.number == progress.study.baseline
                name = f"trial {trial.number}" + (", the baseline," if is_baseline else "")
                self.say(f"{name} could not be trained as it was given; it has {', '.join(trial.fitted)}")

    def _end_without_results(self, record: StudyRecord) -> None:
        """End a study whose first trials all ended without a result; its workers end by the same rule."""
        if record.counts == self._obstructed_counts:
            return
        self._obstructed_counts = record.counts
        engine, spec = self.storage.engine, self.study.spec
        if trials := self.storage.retry_transient(lambda: obstacles.of_first_trials(engine, spec, record)):
            raise obstacles.error(record, trials)

    def _has_found_nothing(self, progress: StudyProgress) -> bool:
        """Whether a search ends because no trial beats its baseline; the rest of the time is for its final training."""
        record, patience, engine = progress.study, self.study.spec.search.patience, self.storage.engine
        if record.hours is None or record.baseline is None:
            return False
        state = (record.counts, tuple(len(running.trial.curve) for running in progress.running))
        if state == self._compared_state:
            return False
        self._compared_state = state
        compared = self.storage.retry_transient(lambda: selection.ended(engine, record))
        self.status = compared.status(patience=patience, before=record.judged_before)
        if compared.significant or compared.judged - record.judged_before < patience:
            return False
        full_comparison = self.storage.retry_transient(lambda: selection.whole(engine, record))
        if not full_comparison.has_found_nothing(patience=patience, before=record.judged_before):
            return False
        selected = None if self.study.spec.final is None else selection.select_from(full_comparison).as_json()
        stored_study.set_attrs(
            self.storage, self.study.id, {attr_keys.NOTHING_FOUND: True, attr_keys.SELECTION: selected}
        )
        return True


class StopReason(StrEnum):
    """Why the pool ended."""

    DONE = "done"
    HOURS = "its hours are spent"
    NOTHING_FOUND = "no trial beats the baseline"
    ASKED = "asked to stop"
    DETACHED = "stored, for `convsearch serve` or `convsearch worker` to work on"
    HUNG_UP = "the terminal was closed"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"


#: Stop reason of a run by signal number.
END_OF: Mapping[int, StopReason] = {
    signal.SIGHUP: StopReason.HUNG_UP,
    signal.SIGINT: StopReason.INTERRUPTED,
    signal.SIGTERM: StopReason.TERMINATED,
}


#: Exit code of a command whose run was stopped by a signal, as a shell reports it.
EXIT_CODES: Mapping[StopReason, int] = {end: 128 + sign for sign, end in END_OF.items()}
