"""The verbs that only ask: what is stored, what it means, what a model takes images for. They change no study."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from data.errors import DataError
from search import tables
from search.analysis import selection, study_tables, trial_tables
from search.artifacts.study_dir import checked_name
from search.console import echo
from search.errors import DiskError, UsageError
from search.storage import queries, ranking
from search.storage.read_only import open_reader
from search.storage.records import is_search

#: Seconds between two answers of --watch.
WATCH_S = 2.0


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


def studies(args: argparse.Namespace) -> int:
    """List the studies."""
    engine = open_reader(args.storage)

    def told() -> int:
        rows = queries.studies(engine)
        return tables.print_answer(study_tables.studies_json(rows), study_tables.studies_table(rows), as_json=args.json)

    return _watched(args, told)


def best(args: argparse.Namespace) -> int:
    """Show the best trials."""
    if args.csv and args.json:
        raise UsageError("--csv and --json are two answers; ask for one of them")
    engine = open_reader(args.storage)

    def told() -> int:
        shown = ranking.best(engine, args.study, top=args.top)
        if args.csv:
            sys.stdout.write(tables.to_csv(*study_tables.best_csv(shown)))
            return 0
        found = selection.delivered(engine, shown.study) if is_search(shown.study) else None
        told = study_tables.best_json(shown) | {"selection": None if found is None else found.as_json()}
        return tables.print_answer(
            told, study_tables.best_table(shown, "" if found is None else found.sentence), as_json=args.json
        )

    return _watched(args, told)


def workers(args: argparse.Namespace) -> int:
    """List who works on what, and since when."""

    def told() -> int:
        rows = queries.workers(open_reader(args.storage))
        return tables.print_answer(study_tables.workers_json(rows), study_tables.workers_table(rows), as_json=args.json)

    return _watched(args, told)


def show(args: argparse.Namespace) -> int:
    """Show one trial."""
    from search.artifacts import study_dir

    row = queries.trial(open_reader(args.storage), args.study, args.trial)
    log = study_dir.of(args.storage).known_log(args.study, args.trial)
    return tables.print_answer(trial_tables.trial_json(row, log), trial_tables.trial_table(row, log), as_json=args.json)


def why(args: argparse.Namespace) -> int:
    """Say why trials were pruned or failed: all of a study, or one."""
    if args.trial is not None:
        row = queries.trial(open_reader(args.storage), args.study, args.trial)
        return tables.print_answer(
            trial_tables.reasons_json([row]), trial_tables.reasons_table([row]), as_json=args.json
        )
    rows = [row for row in queries.trials(open_reader(args.storage), args.study) if row.state in ("PRUNED", "FAIL")]
    return tables.print_answer(trial_tables.reasons_json(rows), trial_tables.reasons_table(rows), as_json=args.json)


def compare(args: argparse.Namespace) -> int:
    """Show which changes of a designed comparison helped; or two trials, or two studies, side by side."""
    from search.analysis import ablation, diff

    engine = open_reader(args.storage)
    match args.with_:
        case [other] if not other.isdecimal():
            both = queries.study(engine, args.study), queries.study(engine, other)
            return tables.print_answer(diff.studies_json(*both), diff.diff_studies(*both), as_json=args.json)
        case [one, other] if one.isdecimal() and other.isdecimal():
            pair = queries.trial(engine, args.study, int(one)), queries.trial(engine, args.study, int(other))
            return tables.print_answer(diff.trials_json(*pair), diff.diff_trials(*pair), as_json=args.json)
        case [_, *_]:
            raise UsageError("compare a study alone, with another study's name, or the numbers of two of its trials")
    comparison = ablation.compare_rows(queries.study(engine, args.study), queries.trials(engine, args.study))
    return tables.print_answer(
        ablation.ablation_json(comparison), ablation.ablation_table(comparison), as_json=args.json
    )


def report(args: argparse.Namespace) -> int:
    """Write all that a study came to: a page, or Markdown or CSV to read on."""
    from search.analysis import html_report
    from search.analysis import report as reporting

    if args.markdown and args.csv:
        raise UsageError("--markdown and --csv are two answers; ask for one of them")
    engine = open_reader(args.storage)
    if args.csv:
        study, trials = queries.study(engine, args.study), queries.trials(engine, args.study)
        return _written(args.to, tables.to_csv(*trial_tables.trials_csv(study, trials)))
    found = reporting.build_report(engine, args.study)
    if args.markdown:
        return _written(args.to, html_report.to_markdown(found))
    path = args.to or Path("exports") / f"{checked_name(args.study)}.html"
    _written(path, html_report.to_html(found))
    for line in found.answer:
        echo(line)
    return 0


def predict(args: argparse.Namespace) -> int:
    """Say what an exported model takes images for."""
    from search.export import predict as predicting

    package = predicting.load(args.model)
    found = tuple(predicting.predict(package, predicting.files(args.images)))
    broken = [each.error for each in found if each.error is not None]
    for trouble in broken:
        echo(f"convsearch: {trouble}")
    tables.print_answer(
        predicting.predictions_json(args.model, found),
        predicting.predictions_table(found, top=args.top),
        as_json=args.json,
    )
    return DataError.exit_code if broken else 0


def doctor(args: argparse.Namespace) -> int:
    """Check this machine; exit code 1 if something will not work."""
    from search.maintenance import doctor as examination

    checks = examination.checks(args.storage, cache=args.cache)
    return tables.print_answer(
        examination.checks_json(checks), examination.checks_table(checks), as_json=args.json
    ) or int(examination.has_failures(checks))


def completion(args: argparse.Namespace) -> int:
    """Print what a shell evaluates to complete verbs, flags, studies and trials."""
    from search.cli import completion as complete

    sys.stdout.write(complete.script(args.shell))
    return 0


def _watched(args: argparse.Namespace, answer: Callable[[], int]) -> int:
    """Answer once, or again and again until Ctrl-C: in the same place on a terminal, one below the other elsewhere."""
    if not args.watch:
        return answer()
    while True:
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[J")  # to the corner, and clear
        answer()
        sys.stdout.flush()
        time.sleep(WATCH_S)


QUESTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    verb.__name__: verb for verb in (predict, report, studies, workers, best, show, why, compare, doctor, completion)
}
"""Every verb that only asks, by the name that the command line knows it by."""
