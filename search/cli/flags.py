"""The verbs of the command line, with their flags and what these mean."""

import argparse
import os
from pathlib import Path
from typing import Any, TypeAlias

from search import database_url
from search.errors import UsageError

STORAGE = "sqlite:///runs/studies.db"
#: As `search.spec.settings` has it, which is not loaded for a question.
MOST_TRAINED = 10

Verbs: TypeAlias = "argparse._SubParsersAction[Any]"


def add(verbs: Verbs) -> None:
    """Add all verbs to those of a parser."""
    _add_run(verbs)
    _add_final(verbs)
    _add_models(verbs)
    _add_queries(verbs)
    _add_care(verbs)
    _add_service(verbs)
    completion = _verb(verbs, "completion", "print a shell's completion", "convsearch completion bash")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose")


def _add_run(verbs: Verbs) -> None:
    run = _verb(verbs, "run", "run a study, or go on with it", "convsearch run cifar10 --trials 30 --workers 2")
    run.add_argument("study", metavar="STUDY", help="name in studies/, or path of a TOML file")
    run.add_argument("--trials", type=_count, metavar="N", help="budget of the whole study, over all runs")
    _add_workers(run)
    run.add_argument("--data", metavar="PATH", help="images to use: a directory, .zip or .tar of train/CLASS/*")
    run.add_argument("--dry-run", action="store_true", help="only estimate time, memory and disk; write nothing")
    run.add_argument("--json", action="store_true", help="with --dry-run: print JSON")
    run.add_argument("--name", metavar="NAME", help="name of the study (default: the file's)")
    run.add_argument("--set", action="append", default=[], metavar="K=V", help="change the file: budget.epochs=4")
    run.add_argument("--again", type=int, metavar="N", help="train the configuration of trial N once more, to the end")

    resume = _verb(verbs, "resume", "go on with a stored study", "convsearch resume cifar10 --hours 1")
    resume.add_argument("study", metavar="STUDY", help="name of a stored study")
    resume.add_argument("--trials", type=_count, metavar="N", help="new budget of the whole study")
    _add_workers(resume)


def _add_final(verbs: Verbs) -> None:
    text = "train the best trials anew with several seeds, and test them once"
    final = _verb(verbs, "final", text, "convsearch final cifar10 --top 3 --seeds 3")
    final.add_argument("study", metavar="STUDY", help="name of a stored study")
    final.add_argument("--top", type=_few, default=3, metavar="K", help="configurations, the best ones (default: 3)")
    final.add_argument("--seeds", type=_few, default=3, metavar="S", help="trainings of each (default: 3)")
    text = "passes over train and validation images (default: those of [final], else of the search)"
    final.add_argument("--epochs", type=_positive, metavar="E", help=text)
    final.add_argument("--no-baseline", action="store_true", help="leave out the first [[try]] point, or the defaults")
    final.add_argument("--json", action="store_true", help="print JSON")
    _add_limits(final, hours="of all trainings together; each has as many epochs as its share allows")


def _add_models(verbs: Verbs) -> None:
    export = _verb(verbs, "export", "write the best model into a folder", "convsearch export cifar10 --to cats")
    export.add_argument("study", metavar="STUDY", help="name of a stored study")
    text = "number of the trial (default: what the verdict, else the search, delivers)"
    export.add_argument("--trial", type=int, metavar="N", help=text)
    export.add_argument("--to", type=Path, metavar="DIR", help="folder (default: exports/STUDY)")
    export.add_argument("--json", action="store_true", help="print JSON")
    _add_storage(export)
    _add_cache(export)
    predict = _verb(verbs, "predict", "tell what images show", "convsearch predict exports/cifar10 photo.jpg")
    predict.add_argument("model", type=Path, metavar="MODEL", help="folder that `export` wrote")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help="image files, or folders of them")
    predict.add_argument("--top", type=_count, default=1, metavar="K", help="the likeliest K classes (default: 1)")
    predict.add_argument("--json", action="store_true", help="print JSON")


def _add_service(verbs: Verbs) -> None:
    text = "work on every open study of a database, from this machine"
    worker = _verb(verbs, "worker", text, "convsearch worker --storage postgresql://server/studies")
    worker.add_argument("--stay", action="store_true", help="wait for more when nothing is left to do")
    _add_images(worker)
    _add_machine(worker)
    text = "serve the dashboard, and work on every study that comes"
    serve = _verb(verbs, "serve", text, "convsearch serve --port 8081")
    _add_door(serve)
    serve.add_argument("--unit", action="store_true", help="only print a unit for systemd that does this")
    _add_images(serve)
    _add_machine(serve)
    workers = _query(verbs, "workers", "list who works on what, and since when", "convsearch workers --watch")
    _add_watch(workers)


def _add_images(verb: argparse.ArgumentParser) -> None:
    text = "images of studies whose own path is not on this machine"
    verb.add_argument("--data", metavar="PATH", help=text)


def _add_door(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--port", type=int, default=8080, metavar="P", help="port (default: 8080)")
    verb.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address (default: 127.0.0.1)")
    verb.add_argument("--expose", action="store_true", help="let others reach --host; nothing is encrypted")


def _add_workers(verb: argparse.ArgumentParser) -> None:
    """Who works on a search, where, and for how long."""
    verb.add_argument("--join", action="store_true", help="add workers to a study that is already running here")
    text = "only store the study; `convsearch serve` or `worker` works on it"
    verb.add_argument("--detach", action="store_true", help=text)
    text = "who trains: processes of this machine, or actors of a Ray cluster, as many as have room (default: local)"
    verb.add_argument("--engine", choices=("local", "ray"), default="local", help=text)
    text = "with --engine ray: the cluster's address (default: a Ray of its own on this machine)"
    verb.add_argument("--address", metavar="HOST:PORT", help=text)
    _add_limits(verb)


def _add_limits(
    verb: argparse.ArgumentParser, *, hours: str = "stop this run after H hours; the next one goes on"
) -> None:
    verb.add_argument("--hours", type=_positive, metavar="H", help=hours)
    verb.add_argument("--retry-failed", action="store_true", help="put failed trials back to the queue first")
    text = "command of a shell that is run when this one has ended; it finds CONVSEARCH_STUDY and CONVSEARCH_EXIT"
    verb.add_argument("--on-end", metavar="CMD", help=text)
    _add_machine(verb)


def _add_machine(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--workers", type=_count, metavar="N", help="processes (default: one a core, or one a GPU)")
    verb.add_argument("--device", choices=("cpu", "cuda"), help="where to train (default: a GPU if there is one)")
    text = "kill a worker that finishes no batch for S seconds and 10 median epochs (default: 120)"
    verb.add_argument("--hang", type=_positive, metavar="S", help=text)
    text = "stop before the files of all studies together take more (default: $CONVSEARCH_DISK, else what the disk has)"
    disk = os.environ.get("CONVSEARCH_DISK") or None
    verb.add_argument("--disk", type=_positive, default=disk, metavar="GB", help=text)
    _add_storage(verb)
    _add_cache(verb)


def _add_queries(verbs: Verbs) -> None:
    _add_watch(_query(verbs, "studies", "list the studies", "convsearch studies"))
    best = _query(verbs, "best", "show the best trials", "convsearch best cifar10 --top 5", study=True)
    best.add_argument("--top", type=_count, default=5, metavar="K", help="how many (default: 5)")
    text = "print CSV, a column for each parameter; text that a spreadsheet would evaluate gets a ' in front"
    best.add_argument("--csv", action="store_true", help=text)
    _add_watch(best)
    show = _query(verbs, "show", "show one trial", "convsearch show cifar10 12", study=True)
    show.add_argument("trial", type=int, metavar="N", help="number of the trial")
    why = _query(verbs, "why", "show why trials were pruned or failed", "convsearch why cifar10 12", study=True)
    why.add_argument("trial", type=int, nargs="?", metavar="N", help="number of the trial (default: all of them)")
    compare = _query(verbs, "compare", "show which changes helped", "convsearch compare findings", study=True)
    text = "another study, or two numbers of trials, to see side by side (default: the rows of [[compare]])"
    compare.add_argument("with_", nargs="*", metavar="WITH", help=text)
    report = _verb(verbs, "report", "write all of a study on one page", "convsearch report cifar10")
    report.add_argument("study", metavar="STUDY", help="name of a stored study")
    report.add_argument("--to", type=Path, metavar="FILE", help="file to write (default: exports/STUDY.html)")
    report.add_argument("--markdown", action="store_true", help="print it as Markdown, without the pictures")
    report.add_argument("--csv", action="store_true", help="print all trials as CSV")
    _add_storage(report)
    _add_cache(_query(verbs, "doctor", "check this machine", "convsearch doctor"))
    validate = _verb(verbs, "validate", "check a study file; run nothing", "convsearch validate cifar10")
    validate.add_argument("study", metavar="STUDY", help="name in studies/, or path of a TOML file")
    validate.add_argument("--set", action="append", default=[], metavar="K=V", help="change the file")
    validate.add_argument("--data", metavar="PATH", help="images to use")
    validate.add_argument("--json", action="store_true", help="print JSON")


def _add_care(verbs: Verbs) -> None:
    _query(verbs, "stop", "stop a running study, wherever it runs", "convsearch stop cifar10", study=True)
    dashboard = _verb(verbs, "dashboard", "serve optuna-dashboard", "convsearch dashboard --port 8081")
    _add_door(dashboard)
    _add_storage(dashboard)
    delete = _verb(verbs, "delete", "delete a study and its files", "convsearch delete old --yes")
    delete.add_argument("study", metavar="STUDY", help="name of a stored study")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    _add_storage(delete)
    migrate = _verb(verbs, "migrate", "bring a database of an older Optuna up to date", "convsearch migrate")
    _add_storage(migrate)
    text = "copy a study with its files into another database"
    copy = _verb(verbs, "copy-study", text, "convsearch copy-study cifar10 --to postgresql://server/studies")
    copy.add_argument("study", metavar="STUDY", help="name of a stored study; the verdicts on it come with it")
    copy.add_argument(
        "--to", action=_Typed, type=_address, required=True, metavar="URL", help="the other database; made if missing"
    )
    copy.add_argument("--json", action="store_true", help="print JSON")
    _add_storage(copy, "--from", "--storage")
    clean = _verb(verbs, "clean", "remove files that no study needs", "convsearch clean")
    clean.add_argument("--data", action="store_true", help="also decoded images that no study uses; they can be remade")
    _add_storage(clean)
    _add_cache(clean)


def _verb(
    verbs: Verbs,
    name: str,
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    described = f"{text[0].upper()}{text[1:]}."
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=described, epilog=f"example: {example}"
    )
    return verb


def _query(
    verbs: Verbs,
    name: str,
    text: str,
    example: str,
    *,
    study: bool = False,
) -> argparse.ArgumentParser:
    verb = _verb(verbs, name, text, example)
    if study:
        verb.add_argument("study", metavar="STUDY", help="name of a stored study")
    verb.add_argument("--json", action="store_true", help="print JSON")
    _add_storage(verb)
    return verb


def _add_watch(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--watch", action="store_true", help="answer again every two seconds, until Ctrl-C")


def _add_storage(verb: argparse.ArgumentParser, *flags: str) -> None:
    default = os.environ.get("CONVSEARCH_STORAGE") or STORAGE
    text = f"database, without a password (default: $CONVSEARCH_STORAGE, which may have one, else {STORAGE})"
    flags = flags or ("--storage",)
    verb.add_argument(*flags, dest="storage", action=_Typed, type=_address, default=default, metavar="URL", help=text)


class _Typed(argparse.Action):
    """An address on the command line, where everybody on the machine can read it."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, flag: str | None = None
    ) -> None:
        if database_url.has_password(str(values)):
            parser.error(
                f"{flag} must not hold a password, because everybody on this machine can read a command line; "
                "put the address into CONVSEARCH_STORAGE, or the password into ~/.pgpass or the file PGPASSFILE names"
            )
        setattr(namespace, self.dest, values)


def _address(text: str) -> str:
    try:
        return database_url.move_password(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_cache(verb: argparse.ArgumentParser) -> None:
    default = os.environ.get("CONVSEARCH_CACHE") or (os.environ.get("XDG_CACHE_HOME") or "~/.cache") + "/convsearch"
    text = "folder of decoded images (default: $CONVSEARCH_CACHE, else convsearch in $XDG_CACHE_HOME or ~/.cache)"
    verb.add_argument("--cache", type=lambda t: Path(t).expanduser(), default=default, metavar="DIR", help=text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text}")
    return int(text)


def _few(text: str) -> int:
    if _count(text) > MOST_TRAINED:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_TRAINED}, but got {text}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, but got {text!r}")
    return value
