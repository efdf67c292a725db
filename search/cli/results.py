"""Results of a run, printed when it ends."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from data.atomic import replacing
from data.errors import DataError
from search import tables
from search.cli import streams
from search.console import echo
from search.errors import ConvsearchError, DiskError
from search.tables import Table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from search.service.session import RunOptions
    from search.storage.records import StudyRecord


T = TypeVar("T")

#: Folder of reports and models.
EXPORTS: Final = Path("exports")


#: Timeout of the final reads of a run that was asked to stop, in seconds.
STOP_READ_TIMEOUT_S = 1.0


def read_results(order: "RunOptions", *, is_stopped: bool) -> "tuple[StudyRecord, list[Table]]":
    """Read the results of a run. A run that was asked to stop does not wait for a busy database.

    Args:
        order: options of the run.
        is_stopped: whether the run was asked to stop.

    Returns:
        The study, and a table of the search and one of the final training if it has ended.
    """
    from search.analysis import selection
    from search.storage import queries
    from search.storage.db_errors import is_transient
    from search.storage.read_only import READ_TIMEOUT_S, open_reader
    from search.storage.records import is_search
    from search.storage.retry import retry_transient

    engine = open_reader(order.url, timeout_s=STOP_READ_TIMEOUT_S if is_stopped else READ_TIMEOUT_S)

    def read(query: Callable[[], T]) -> T:
        """Run one query. Each is retried alone, because a joint retry would repeat the successful ones."""
        may_pass = (lambda _: False) if is_stopped else is_transient
        return retry_transient(query, passes=may_pass, retry_timeout_s=order.times.retry_timeout_s)

    row = read(lambda: queries.study(engine, order.name))
    reason = read(lambda: selection.delivered(engine, row).sentence) if is_search(row) else ""
    searched = read(lambda: search_table(engine, row, reason))
    tested = read(lambda: final_table(engine, order.name)) if row.spec.get("final") else None
    return row, [searched] if tested is None else [searched, tested]


def print_results(row: "StudyRecord", answers: Sequence[Table]) -> None:
    """Print the results of a run to stdout, and suggest the next commands on stderr.

    Args:
        row: the study.
        answers: the tables of `read_results`.
    """
    from search.analysis import study_tables

    try:
        for answer in answers:
            tables.print_table(answer)
        sys.stdout.flush()
    except OSError as error:  # `| head`, or a `| tee` killed by the same Ctrl-C, must not change the exit code
        streams.discard(sys.stdout)
        if streams.is_refusal(error):
            echo(f"{streams.refusal(error)}; `convsearch best {row.name}` prints the results")
    for line in study_tables.next_commands(row, is_judged=len(answers) > 1):
        echo(line)


def hand_over(order: "RunOptions") -> None:
    """Write the report and the model folder of a tested study.

    Args:
        order: options of the run.
    """
    from search.analysis import html_report
    from search.analysis.report import build_report
    from search.export import export as exports
    from search.storage.read_only import open_reader

    page, folder = EXPORTS / f"{order.name}.html", EXPORTS / order.name
    quoted = shlex.quote(order.name)
    try:
        write_file(page, html_report.to_html(build_report(open_reader(order.url), order.name)))
        exports.export(order.url, order.cache, order.name, trial=None, folder=folder, say=lambda line: None)
    except (ConvsearchError, DataError) as error:
        echo(f"{error}; `convsearch report {quoted}` and `convsearch export {quoted}` write them again")
        return
    echo(f"report:          {page}")
    echo(f"model:           {folder}; `convsearch predict {shlex.quote(str(folder))} IMAGES` classifies images")


def write_file(path: Path, text: str) -> None:
    """Write a text to a file, whole or not at all.

    Raises:
        DiskError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}; name another one with --to") from error


def search_table(engine: "sa.Engine", row: "StudyRecord", reason: str) -> Table:
    """Return the results of a search or a comparison so far.

    Args:
        engine: connection to the database.
        row: the study.
        reason: sentence about the delivered trial; empty if there is none.
    """
    from search.analysis import ablation, study_tables
    from search.storage import queries, ranking

    if row.spec.get("compare"):
        return ablation.ablation_table(ablation.compare_rows(row, queries.trials(engine, row.name)))
    return study_tables.best_table(ranking.best(engine, row.name, top=3), reason)


def final_table(engine: "sa.Engine", name: str) -> Table | None:
    """Return the results of the final trainings of a study.

    Args:
        engine: connection to the database.
        name: name of the study.

    Returns:
        None if there are no final trainings or they have not ended.
    """
    from search.analysis import test_report, test_results, trial_tables
    from search.storage import queries
    from search.storage.records import FINAL

    final_name = f"{name}{FINAL}"
    if final_name not in queries.verdicts(engine, name):
        return None
    row = queries.study(engine, final_name)
    if row.counts.finished < row.counts.budget:
        return None
    accesses = queries.test_set_accesses(engine, row.data["fingerprint"])
    lines = (*selection_lines(row), *test_report.test_set_access_lines(accesses, final_name))
    trials = queries.trials(engine, final_name)
    if len(trials) == 1:
        return Table(columns=(), rows=(), before=(trial_tables.verdict_line(trials[0]), *lines))
    return test_report.final_result_table(test_results.load(engine, final_name), lines)


def selection_lines(row: "StudyRecord") -> tuple[str, ...]:
    """Return the recorded reason for the selection of a final training, if any, as lines.

    Args:
        row: the study of the final training.
    """
    from search.analysis import selection

    stored = selection.stored(row)
    return () if stored is None else (stored.sentence,)
