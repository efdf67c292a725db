"""The verbs that only read. They change no study."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from search import tables
from search.cli import completion, options, param_types
from search.cli.results import EXPORTS, write_file
from search.console import echo
from search.errors import UsageError

#: Interval of --watch in seconds.
WATCH_S = 2.0


@options.verb("studies", options.watch(), options.json(), options.storage(), example="convsearch studies")
def studies(*, watch: bool, as_json: bool, storage: str) -> int:
    """List the studies."""
    from search.analysis import study_tables
    from search.storage import queries
    from search.storage.read_only import open_reader

    engine = open_reader(storage)

    def answer() -> int:
        rows = queries.studies(engine)
        return tables.print_answer(study_tables.studies_json(rows), study_tables.studies_table(rows), as_json=as_json)

    return _watched(answer, watch=watch)


@options.verb(
    "best",
    options.stored_study(),
    click.option("--top", type=param_types.COUNT, default=5, metavar="K", help="Number of trials (default: 5)."),
    click.option(
        "--csv",
        "as_csv",
        is_flag=True,
        help="Print CSV, a column for each parameter; text that a spreadsheet would evaluate is prefixed with '.",
    ),
    options.watch(),
    options.json(),
    options.storage(),
    example="convsearch best cifar10 --top 5",
)
def best(study: str, *, top: int, as_csv: bool, watch: bool, as_json: bool, storage: str) -> int:
    """Show the best trials."""
    from search.analysis import selection, study_tables
    from search.storage import ranking
    from search.storage.read_only import open_reader
    from search.storage.records import is_search

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other; leave one of them out")
    engine = open_reader(storage)

    def answer() -> int:
        shown = ranking.best(engine, study, top=top)
        if as_csv:
            sys.stdout.write(tables.to_csv(*study_tables.best_csv(shown)))
            return 0
        delivered = selection.delivered(engine, shown.study) if is_search(shown.study) else None
        value = study_tables.best_json(shown) | {"selection": None if delivered is None else delivered.as_json()}
        table = study_tables.best_table(shown, "" if delivered is None else delivered.sentence)
        return tables.print_answer(value, table, as_json=as_json)

    return _watched(answer, watch=watch)


@options.verb("workers", options.watch(), options.json(), options.storage(), example="convsearch workers --watch")
def workers(*, watch: bool, as_json: bool, storage: str) -> int:
    """List the workers, and the trial and start time of each."""
    from search.analysis import study_tables
    from search.storage import queries
    from search.storage.read_only import open_reader

    def answer() -> int:
        rows = queries.workers(open_reader(storage))
        return tables.print_answer(study_tables.workers_json(rows), study_tables.workers_table(rows), as_json=as_json)

    return _watched(answer, watch=watch)


@options.verb(
    "show",
    options.stored_study(),
    click.argument("trial", type=int, required=False, metavar="[N]", shell_complete=completion.trials),
    options.json(),
    options.storage(),
    example="convsearch show cifar10 12",
)
def show(study: str, trial: int | None, *, as_json: bool, storage: str) -> int:
    """Show trial N of a study, or without N its recipe: the values that follow from its images."""
    from search.analysis import recipe_table, trial_tables
    from search.artifacts import study_dir
    from search.storage import queries
    from search.storage.read_only import open_reader
    from search.storage.records import search_name

    if trial is None:
        record = queries.study(open_reader(storage), search_name(study))
        if not record.recipe:
            raise UsageError(f'{study!r} has no recipe, as a study has whose file has "auto"; name a trial, from 0 on')
        table = recipe_table.recipe_table(record.recipe["settings"])
        return tables.print_answer(recipe_table.recipe_json(record), table, as_json=as_json)
    row = queries.trial(open_reader(storage), study, trial)
    log = study_dir.of(storage).known_log(study, trial)
    return tables.print_answer(trial_tables.trial_json(row, log), trial_tables.trial_table(row, log), as_json=as_json)


@options.verb(
    "why",
    options.stored_study(),
    click.argument("trial", type=int, required=False, metavar="[N]", shell_complete=completion.trials),
    options.json(),
    options.storage(),
    example="convsearch why cifar10 12",
)
def why(study: str, trial: int | None, *, as_json: bool, storage: str) -> int:
    """Show why trial N, or each trial, was pruned or failed."""
    from search.analysis import obstacles, study_tables, trial_tables
    from search.storage import queries
    from search.storage.read_only import open_reader

    engine = open_reader(storage)
    if trial is not None:
        rows = [queries.trial(engine, study, trial)]
    else:
        rows = [row for row in queries.trials(engine, study) if row.state in ("PRUNED", "FAIL")]
    record = queries.study(engine, study)
    lines = obstacles.report(record, rows) if trial is None else ()
    state = study_tables.all_tried(record) if trial is None and record.is_exhausted else ""
    table = trial_tables.reasons_table(rows, state, lines)
    return tables.print_answer(trial_tables.reasons_json(rows), table, as_json=as_json)


@options.verb(
    "compare",
    options.stored_study(),
    click.argument("others", nargs=-1, metavar="[WITH]...", shell_complete=completion.trials_and_studies),
    options.json(),
    options.storage(),
    example="convsearch compare findings",
)
def compare(study: str, others: Sequence[str], *, as_json: bool, storage: str) -> int:
    """Show which changes helped.

    WITH is another study to compare with, or the numbers of two trials of STUDY. Without WITH, the rows of [[compare]]
    are compared.
    """
    from search.analysis import ablation, diff
    from search.storage import queries
    from search.storage.read_only import open_reader

    engine = open_reader(storage)
    match others:
        case [other] if not other.isdecimal():
            study_pair = queries.study(engine, study), queries.study(engine, other)
            return tables.print_answer(diff.studies_json(*study_pair), diff.diff_studies(*study_pair), as_json=as_json)
        case [first, second] if first.isdecimal() and second.isdecimal():
            trial_pair = queries.trial(engine, study, int(first)), queries.trial(engine, study, int(second))
            return tables.print_answer(diff.trials_json(*trial_pair), diff.diff_trials(*trial_pair), as_json=as_json)
        case [_, *_]:
            raise UsageError("compare a study alone, with another study's name, or the numbers of two of its trials")
    comparison = ablation.compare_rows(queries.study(engine, study), queries.trials(engine, study))
    return tables.print_answer(ablation.ablation_json(comparison), ablation.ablation_table(comparison), as_json=as_json)


@options.verb(
    "report",
    options.stored_study(),
    click.option("--to", type=param_types.PATH, metavar="FILE", help="File to write (default: exports/STUDY.html)."),
    click.option("--markdown", is_flag=True, help="Print the report as Markdown without pictures."),
    click.option("--csv", "as_csv", is_flag=True, help="Print all trials as CSV."),
    options.storage(),
    example="convsearch report cifar10",
)
def report(study: str, *, to: Path | None, markdown: bool, as_csv: bool, storage: str) -> int:
    """Write all results of a study on one page."""
    from search.analysis import html_report, trial_tables
    from search.analysis.report import build_report
    from search.artifacts.study_dir import checked_name
    from search.storage import queries
    from search.storage.read_only import open_reader

    if markdown and as_csv:
        raise UsageError("--markdown and --csv exclude each other; leave one of them out")
    engine = open_reader(storage)
    if as_csv:
        rows = trial_tables.trials_csv(queries.study(engine, study), queries.trials(engine, study))
        return _write(to, tables.to_csv(*rows))
    content = build_report(engine, study)
    if markdown:
        return _write(to, html_report.to_markdown(content))
    _write(to or EXPORTS / f"{checked_name(study)}.html", html_report.to_html(content))
    for line in content.answer:
        echo(line)
    return 0


def _watched(answer: Callable[[], int], *, watch: bool) -> int:
    """Answer once, or repeatedly until Ctrl-C. A terminal is cleared before each answer."""
    if not watch:
        return answer()
    while True:
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            sys.stdout.write("\x1b[H\x1b[J")  # cursor to the top left, clear the screen
        answer()
        sys.stdout.flush()
        time.sleep(WATCH_S)


def _write(path: Path | None, text: str) -> int:
    """Print a text, or write it to a file and print the path."""
    if path is None:
        sys.stdout.write(text)
        return 0
    write_file(path, text)
    print(path)
    return 0
