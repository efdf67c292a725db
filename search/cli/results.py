"""Results of a run, printed when it ends."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from search import tables
from search.console import echo
from search.tables import Table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from search.service.session import RunOptions
    from search.storage.records import StudyRecord


T = TypeVar("T")


#: A run that was asked to stop waits this long for the last answer of its database, in seconds.
STOP_READ_TIMEOUT_S = 1.0


def read_results(order: "RunOptions", *, is_stopped: bool) -> "tuple[StudyRecord, list[Table]]":
    """What a run has found, as tables: of its search, and of its last training if that has ended.

    A run that was asked to stop does not wait for a database that is busy.
    """
    from search.analysis import selection
    from search.storage import queries
    from search.storage.db_errors import is_transient
    from search.storage.read_only import READ_TIMEOUT_S, open_reader
    from search.storage.records import is_search
    from search.storage.retry import retry_transient

    engine = open_reader(order.url, timeout_s=STOP_READ_TIMEOUT_S if is_stopped else READ_TIMEOUT_S)

    def ask(question: Callable[[], T]) -> T:
        """One answer: all of them together would be asked again for the one that was lost."""
        may_pass = (lambda _: False) if is_stopped else is_transient
        return retry_transient(question, passes=may_pass, retry_timeout_s=order.times.retry_timeout_s)

    row = ask(lambda: queries.study(engine, order.name))
    reason = ask(lambda: selection.delivered(engine, row).sentence) if is_search(row) else ""
    found = ask(lambda: search_table(engine, row, reason))
    tested = ask(lambda: final_table(engine, order.name)) if row.spec.get("final") else None
    return row, [found] if tested is None else [found, tested]


def print_results(row: "StudyRecord", answers: Sequence[Table]) -> None:
    from search.analysis import study_tables

    try:
        for answer in answers:
            tables.print_table(answer)
    except OSError:  # `| head`, or a `| tee` that died of the same Ctrl-C: how the run ended is what counts
        tables.discard_stdout()
    for line in study_tables.next_commands(row, is_judged=len(answers) > 1):
        echo(line)


def search_table(engine: "sa.Engine", row: "StudyRecord", reason: str) -> Table:
    """What a search or a comparison has found so far."""
    from search.analysis import ablation, study_tables
    from search.storage import queries, ranking

    if row.spec.get("compare"):
        return ablation.ablation_table(ablation.compare_rows(row, queries.trials(engine, row.name)))
    return study_tables.best_table(ranking.best(engine, row.name, top=3), reason)


def final_table(engine: "sa.Engine", name: str) -> Table | None:
    """What the last trainings of a study have come to; None as long as they have not ended."""
    from search.analysis import test_report, test_results, trial_tables
    from search.storage import queries
    from search.storage.records import FINAL

    own = f"{name}{FINAL}"
    if own not in queries.verdicts(engine, name):
        return None
    row = queries.study(engine, own)
    if row.counts.finished < row.counts.budget:
        return None
    accesses = queries.test_set_accesses(engine, row.data["fingerprint"])
    lines = (*selection_lines(row), *test_report.test_set_access_lines(accesses, own))
    trials = queries.trials(engine, own)
    if len(trials) == 1:
        return Table(columns=(), rows=(), before=(trial_tables.verdict_line(trials[0]), *lines))
    return test_report.final_result_table(test_results.load(engine, own), lines)


def selection_lines(row: "StudyRecord") -> tuple[str, ...]:
    """Why a last training trains what it does, if that is known."""
    from search.analysis import selection

    found = selection.stored(row)
    return () if found is None else (found.sentence,)
