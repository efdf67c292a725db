"""The verbs that only read what is stored. They change no study."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from search import tables
from search.cli import completion, options
from search.console import echo
from search.errors import DiskError, UsageError

#: Seconds between two answers of --watch.
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
    click.option("--top", type=options.COUNT, default=5, metavar="K", help="how many (default: 5)"),
    click.option(
        "--csv",
        "as_csv",
        is_flag=True,
        help="print CSV, a column for each parameter; text that a spreadsheet would evaluate gets a ' in front",
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
        raise UsageError("--csv and --json are two answers; ask for one of them")
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
    """List the workers, and what each of them trains since when."""
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
    click.argument("trial", type=int, metavar="N", shell_complete=completion.trials),
    options.json(),
    options.storage(),
    example="convsearch show cifar10 12",
)
def show(study: str, trial: int, *, as_json: bool, storage: str) -> int:
    """Show one trial."""
    from search.analysis import trial_tables
    from search.artifacts import study_dir
    from search.storage import queries
    from search.storage.read_only import open_reader

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
    """Show why trials were pruned or failed: trial N, or all of them."""
    from search.analysis import trial_tables
    from search.storage import queries
    from search.storage.read_only import open_reader

    engine = open_reader(storage)
    if trial is not None:
        rows = [queries.trial(engine, study, trial)]
    else:
        rows = [row for row in queries.trials(engine, study) if row.state in ("PRUNED", "FAIL")]
    return tables.print_answer(trial_tables.reasons_json(rows), trial_tables.reasons_table(rows), as_json=as_json)


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

    WITH is another study, or two numbers of trials, to see side by side; without it the rows of [[compare]] are
    compared.
    """
    from search.analysis import ablation, diff
    from search.storage import queries
    from search.storage.read_only import open_reader

    engine = open_reader(storage)
    match others:
        case [other] if not other.isdecimal():
            both = queries.study(engine, study), queries.study(engine, other)
            return tables.print_answer(diff.studies_json(*both), diff.diff_studies(*both), as_json=as_json)
        case [one, other] if one.isdecimal() and other.isdecimal():
            pair = queries.trial(engine, study, int(one)), queries.trial(engine, study, int(other))
            return tables.print_answer(diff.trials_json(*pair), diff.diff_trials(*pair), as_json=as_json)
        case [_, *_]:
            raise UsageError("compare a study alone, with another study's name, or the numbers of two of its trials")
    comparison = ablation.compare_rows(queries.study(engine, study), queries.trials(engine, study))
    return tables.print_answer(ablation.ablation_json(comparison), ablation.ablation_table(comparison), as_json=as_json)


@options.verb(
    "report",
    options.stored_study(),
    click.option("--to", type=options.PATH, metavar="FILE", help="file to write (default: exports/STUDY.html)"),
    click.option("--markdown", is_flag=True, help="print it as Markdown, without the pictures"),
    click.option("--csv", "as_csv", is_flag=True, help="print all trials as CSV"),
    options.storage(),
    example="convsearch report cifar10",
)
def report(study: str, *, to: Path | None, markdown: bool, as_csv: bool, storage: str) -> int:
    """Write all of a study on one page."""
    from search.analysis import html_report, trial_tables
    from search.analysis.report import build_report
    from search.artifacts.study_dir import checked_name
    from search.storage import queries
    from search.storage.read_only import open_reader

    if markdown and as_csv:
        raise UsageError("--markdown and --csv are two answers; ask for one of them")
    engine = open_reader(storage)
    if as_csv:
        rows = trial_tables.trials_csv(queries.study(engine, study), queries.trials(engine, study))
        return _written(to, tables.to_csv(*rows))
    built = build_report(engine, study)
    if markdown:
        return _written(to, html_report.to_markdown(built))
    _written(to or Path("exports") / f"{checked_name(study)}.html", html_report.to_html(built))
    for line in built.answer:
        echo(line)
    return 0


def _watched(answer: Callable[[], int], *, watch: bool) -> int:
    """Answer once, or again and again until Ctrl-C: in the same place on a terminal, one below the other elsewhere."""
    if not watch:
        return answer()
    while True:
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[J")  # to the corner, and clear
        answer()
        sys.stdout.flush()
        time.sleep(WATCH_S)


def _written(path: Path | None, text: str) -> int:
    """Print a text, or write it into a file and print which."""
    if path is None:
        sys.stdout.write(text)
        return 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}; name another one with --to") from error
    print(path)
    return 0
