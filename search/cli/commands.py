"""What the verbs do that make, change or remove something. Heavy modules are loaded where they are used."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from search import tables
from search.analysis import selection, study_tables, trial_tables
from search.artifacts.study_dir import checked_name
from search.cli.queries import QUESTIONS
from search.console import echo
from search.errors import BusyError, DatabaseError, DiskError, UsageError
from search.storage import queries, ranking
from search.storage.db_errors import readable_message
from search.storage.read_only import READ_TIMEOUT_S, open_reader
from search.storage.records import FINAL, StudyRecord, is_search, searched
from search.storage.retry import retry_transient
from search.storage.timeouts import Timeouts
from search.tables import Table

#: Who asked a run to stop waits so long for its last answer.
HURRY_S = 1.0


def run(args: argparse.Namespace) -> int:
    """Run a study from its file, or one trial of a stored study again."""
    from search.service import run as launch
    from search.spec import study_spec
    from search.storage.rdb import Storage
    from search.study import stored_study

    if args.json and not args.dry_run:
        raise UsageError("--json is for --dry-run; `convsearch best STUDY --json` tells what a run has found")
    if args.again is not None:
        if args.dry_run:
            raise UsageError("--dry-run estimates a study file, and --again trains one trial; leave one of them out")
        if args.data or args.set or args.trials:
            raise UsageError("--again trains what is stored; --data, --set and --trials would change it")
        row = queries.trial(open_reader(args.storage), args.study, args.again)
        wanted = launch.rerun_spec(stored_study.load(Storage(args.storage), args.study), row)
        return _launch(args, wanted, name=_named(args, f"{args.study}.again-{args.again}"), trials=1)
    path = study_spec.find(args.study)
    overrides = _overrides(args) | ({} if args.trials is None else {"budget.trials": str(args.trials)})
    wanted = study_spec.load(path, overrides, timed=args.hours is not None)
    name = _named(args, path.stem)
    if args.dry_run:
        return _estimate(args, wanted, name)
    return _launch(args, wanted, name=name, trials=args.trials)


def _named(args: argparse.Namespace, usual: str) -> str:
    """The name that was asked for, be it empty, which is refused like any that cannot be."""
    return usual if args.name is None else str(args.name)


def _estimate(args: argparse.Namespace, wanted: Any, name: str) -> int:
    from search.artifacts import study_dir
    from search.service import dry_run
    from search.service import run as launch

    launch.check_name(name, wanted, study_dir.of(args.storage))
    echo("training some networks for a moment ...")
    found = dry_run.estimate(wanted, workers=args.workers, device=args.device, hours=args.hours)
    return tables.print_answer(dry_run.estimate_json(found), dry_run.estimate_table(found), as_json=args.json)


def resume(args: argparse.Namespace) -> int:
    """Go on with a stored study, without its file."""
    from search.spec import stored_spec
    from search.storage.rdb import Storage
    from search.study import stored_study

    stored = stored_study.load(Storage(args.storage), args.study)
    if args.trials is not None and stored.spec.verdict_on is not None:
        raise UsageError(
            f"{args.study!r} is a verdict, which has a training for each configuration and seed and no more; "
            f"`convsearch final {searched(args.study)}` gives one on other terms"
        )
    row = queries.study(open_reader(args.storage), args.study)
    counts = row.counts
    is_over = stored.spec.final is None or _verdict(open_reader(args.storage), args.study) is not None
    if args.trials is None and counts.finished >= counts.budget and not args.retry_failed and is_over:
        more = "; --trials N raises its budget" if study_tables.can_grow(row) else ""
        echo(f"nothing to resume: all {counts.budget} trials of {args.study!r} are done{more}")
        return 0
    budget = stored.spec.budget.model_copy(update={"trials": args.trials or counts.budget})
    wanted = stored_spec.restore(
        stored_spec.dump(replace(stored.spec, budget=budget))
    )  # which refuses a budget that cannot be
    return _launch(args, wanted, name=args.study, trials=args.trials)


def final(args: argparse.Namespace) -> int:
    """Train the best trials once more with several seeds, test them once, and say who is best."""
    from search.analysis import test_report, test_results
    from search.service import final as judge
    from search.spec.settings import FinalSettings
    from search.workers import live_view
    from search.workers.pool import EXIT_CODES, StopReason

    wanted = FinalSettings(epochs=args.epochs, top=args.top, seeds=args.seeds, baseline=not args.no_baseline)
    name, end = judge.run_final(
        _order(args, args.study), wanted, show=lambda _: live_view.open_view(sys.stderr, os.environ), say=echo
    )
    engine = open_reader(args.storage)
    row = queries.study(engine, name)
    if end is not StopReason.DONE or row.counts.finished < row.counts.budget:
        echo(f"{name}: {end}; the same command goes on")
        return EXIT_CODES.get(end, 0)
    found = test_results.load(engine, name)
    looks = queries.test_set_accesses(engine, row.data["fingerprint"])
    told = test_report.final_result_table(found, (*_reason(row), *test_report.test_set_access_lines(looks, name)))
    return tables.print_answer(
        test_report.final_result_json(found, looks) | {"selection": row.selection}, told, as_json=args.json
    )


def export(args: argparse.Namespace) -> int:
    """Write the best model, or a trial's, into a folder to take home."""
    from search.export import export as exporting

    folder = args.to or Path("exports") / checked_name(args.study)
    card, apart = exporting.export(args.storage, args.cache, args.study, trial=args.trial, folder=folder, say=echo)
    told = exporting.quality_lines(card)
    after = f"On real images model.onnx agrees with PyTorch in every class; its probabilities differ by {apart:.0e}."
    rows = (("folder", str(folder)), ("trial", f"{card.provenance['trial']} of {card.provenance['study']}"))
    answer = {"folder": str(folder), "card": card.model_dump(mode="json", by_alias=True), "apart": apart}
    return tables.print_answer(answer, Table(columns=("", ""), rows=rows, after=("", *told, after)), as_json=args.json)


def validate(args: argparse.Namespace) -> int:
    """Check a study file and say what it asks for; nothing is written."""
    from search.spec import stored_spec, study_spec

    stored = stored_spec.dump(study_spec.load(study_spec.find(args.study), _overrides(args)))
    return tables.print_answer({"spec": stored}, study_tables.spec_table(stored), as_json=args.json)


def stop(args: argparse.Namespace) -> int:
    """Ask everybody who runs a study to stop."""
    from search.storage.rdb import Storage
    from search.study import stored_study

    engine, storage = open_reader(args.storage), Storage(args.storage)
    names = _with_verdict(engine, args.study)
    running = sum(queries.study(engine, name).counts.running for name in names)
    for name in names:
        stored_study.ask_to_stop(storage, name)
    echo(f"asked: {running} running trials go back to the queue; `convsearch resume {args.study}` goes on")
    if args.json:
        sys.stdout.write(tables.to_json({"study": args.study, "running": running}))
    return 0


def dashboard(args: argparse.Namespace) -> int:
    """Serve optuna-dashboard until Ctrl-C."""
    from search.dashboard import server

    return server.serve(args.storage, host=args.host, port=args.port, expose=args.expose)


def worker(args: argparse.Namespace) -> int:
    """Work on every open study of a database."""
    return _attend(args, stays=args.stay)


def serve(args: argparse.Namespace) -> int:
    """Serve the dashboard, and work on every study that comes, until somebody stops it."""
    from search.artifacts import study_dir
    from search.cli import systemd
    from search.dashboard import server
    from search.storage.rdb import Storage

    if args.unit:
        sys.stdout.write(systemd.unit_file(args))
        return 0
    study_dir.of(args.storage).make()
    Storage(args.storage, create=True)
    with server.serve_in_background(args.storage, host=args.host, port=args.port, expose=args.expose):
        return _attend(args, stays=True)


def _attend(args: argparse.Namespace, *, stays: bool) -> int:
    from search.service.agent import Agent
    from search.workers import live_view
    from search.workers.pool import EXIT_CODES

    attendant = Agent(
        order=_order(args, ""),
        images=args.data,
        stays=stays,
        show=lambda _: live_view.open_view(sys.stderr, os.environ),
        say=echo,
    )
    return EXIT_CODES.get(attendant.run(), 0)


def delete(args: argparse.Namespace) -> int:
    """Delete a study and its files, unless somebody is running it."""
    from search.artifacts import study_dir
    from search.storage.rdb import Storage

    storage, files = Storage(args.storage), study_dir.of(args.storage)
    names = _with_verdict(storage.engine, args.study)
    finished = sum(queries.study(storage.engine, name).counts.finished for name in names)
    whole = " and ".join(map(repr, names))
    text = f"delete {whole} with {finished} finished trials and its files in {files.study(args.study)}"
    with ExitStack() as locks:
        for name in names:
            if files.is_ours(name):
                locks.enter_context(files.running(name))
            _refuse_running(storage, name)
        if not args.yes and not _confirmed(f"{text}? [y/N] "):
            raise UsageError("nothing was deleted; --yes answers the question")
        for name in names:
            _refuse_running(storage, name)  # somebody elsewhere may have begun meanwhile
        freed = 0
        for name in reversed(names):
            _forget_elsewhere(storage, name)
            storage.delete_study(storage.get_study_id_from_name(name))
            freed += files.remove(name) if files.is_ours(name) else 0
    echo(f"deleted {whole}; {freed / 1e6:.1f} MB are free again")
    return 0


def _refuse_running(storage: Any, name: str) -> None:
    """Raise BusyError if somebody works on a study."""
    from search.storage.lease_expiry import has_no_live_owner

    is_held = not has_no_live_owner(storage, storage.get_study_id_from_name(name), echo)
    running = queries.study(storage.engine, name).counts.running
    if is_held or running:
        raise BusyError(f"others work on {name!r}; `convsearch stop {name}` first")


def copy_study(args: argparse.Namespace) -> int:
    """Copy a study into another database."""
    from search.maintenance import copy_study as copies

    found = copies.copy(args.storage, args.to, args.study, say=echo)
    answer = {"studies": found.studies, "trials": found.trials, "rows": found.rows, "bytes": found.size}
    rows = (
        ("studies", ", ".join(found.studies)),
        ("trials", f"{found.trials:,}"),
        ("rows", f"{found.rows:,}, each field of which was compared"),
        ("files", f"{found.size / 1e6:.1f} MB"),
    )
    old = shlex.quote(readable_message(args.storage))
    after = ("", f"`convsearch delete {shlex.quote(args.study)} --storage {old}` removes the original")
    return tables.print_answer(answer, Table(columns=("", ""), rows=rows, after=after), as_json=args.json)


def _forget_elsewhere(storage: Any, name: str) -> None:
    """Remove the checkpoints of a study from where other machines find them; who cannot is told where they are."""
    from search.artifacts import remote_checkpoints
    from search.artifacts.remote_store import RemoteStoreError

    row = queries.study(storage.engine, name)
    far = remote_checkpoints.of(row.spec.get("checkpoints"), row.remote_key or "")
    if far is None:
        return
    try:
        far.delete_all()
    except RemoteStoreError as error:
        echo(f"checkpoints of {name!r} are left in {far.place}: {error}")


def clean(args: argparse.Namespace) -> int:
    """Remove the files that no study needs."""
    from search.artifacts import cleanup

    freed = cleanup.clean(args.storage, args.cache, data=args.data, say=echo)
    echo(f"{freed / 1e6:.1f} MB are free again" if freed else "nothing to remove: every file belongs to a study")
    return 0


def migrate(args: argparse.Namespace) -> int:
    """Bring a database of an older Optuna up to date, after a copy was kept."""
    from search.maintenance import migrate as migration

    migration.migrate(args.storage, echo)
    return 0


def _launch(args: argparse.Namespace, wanted: Any, *, name: str, trials: int | None) -> int:
    from search.service import run as launch
    from search.storage.db_errors import is_transient
    from search.workers import live_view
    from search.workers.pool import EXIT_CODES

    if args.join and (args.trials or args.hours or args.retry_failed or args.detach):
        raise UsageError("--join only adds workers; all else is for who runs the study; leave out one or the other")
    if args.address and args.engine != "ray":
        raise UsageError("--address is that of a Ray cluster; add --engine ray")
    order = replace(_order(args, name), trials=trials, join=args.join, detach=args.detach)
    order = replace(order, engine=args.engine, address=args.address)
    end = launch.run_study(order, wanted, show=lambda _: live_view.open_view(sys.stderr, os.environ), say=echo)
    code = EXIT_CODES.get(end, 0)
    timeout_s = READ_TIMEOUT_S if code == 0 else HURRY_S
    engine = open_reader(args.storage, timeout_s=timeout_s)

    def asked(question: Callable[[], Any]) -> Any:
        """Each answer by itself: together they would be asked again for the one that was lost."""
        may_pass = is_transient if code == 0 else lambda _: False  # who asked us to stop does not wait
        return retry_transient(question, passes=may_pass, retry_timeout_s=order.times.retry_timeout_s)

    try:
        row = asked(lambda: queries.study(engine, name))
        reason = asked(lambda: selection.delivered(engine, row).sentence) if is_search(row) else ""
        grid = asked(lambda: _answer_to(engine, row, reason))
        verdict = asked(lambda: _verdict(engine, name)) if row.spec.get("final") else None
    except (DatabaseError, DiskError) as error:
        if code == 0:
            raise
        echo(f"{name}: {end}; {error}")
        return code
    echo(f"{name}: {end}")
    try:
        for each in (grid, verdict):
            if each is not None:
                tables.print_table(each)
    except OSError:  # `| head`, or a `| tee` that died of the same Ctrl-C: how the run ended is what counts
        tables.discard_stdout()
    for line in study_tables.next_commands(row, is_judged=verdict is not None):
        echo(line)
    return code


def _order(args: argparse.Namespace, name: str) -> Any:
    """What the flags that all runs share ask for."""
    from search.service import session

    return session.RunOptions(
        url=args.storage,
        cache=args.cache,
        name=name,
        hours=getattr(args, "hours", None),
        disk=args.disk,
        workers=args.workers,
        device=args.device,
        retry_failed=getattr(args, "retry_failed", False),
        times=Timeouts() if args.hang is None else Timeouts(hang_timeout_s=args.hang),
    )


def _answer_to(engine: Any, row: StudyRecord, reason: str) -> Table:
    """What a study has found so far."""
    from search.analysis import ablation

    if row.spec.get("compare"):
        return ablation.ablation_table(ablation.compare_rows(row, queries.trials(engine, row.name)))
    return study_tables.best_table(ranking.best(engine, row.name, top=3), reason)


def _with_verdict(engine: Any, name: str) -> tuple[str, ...]:
    """The names of a study and of the verdicts on it, if there are any."""
    return (name, *queries.verdicts(engine, name))


def _verdict(engine: Any, name: str) -> Table | None:
    """What the last trainings of a study have come to; None as long as they have not ended."""
    from search.analysis import test_report, test_results

    own = f"{name}{FINAL}"
    if own not in queries.verdicts(engine, name):
        return None
    row = queries.study(engine, own)
    if row.counts.finished < row.counts.budget:
        return None
    looks = test_report.test_set_access_lines(queries.test_set_accesses(engine, row.data["fingerprint"]), own)
    trials = queries.trials(engine, own)
    reason = _reason(row)
    if len(trials) == 1:
        return Table(columns=(), rows=(), before=(trial_tables.verdict_line(trials[0]), *reason, *looks))
    return test_report.final_result_table(test_results.load(engine, own), (*reason, *looks))


def _reason(verdict: StudyRecord) -> tuple[str, ...]:
    """Why a last training trains what it does, if that is known."""
    found = selection.stored(verdict)
    return () if found is None else (found.sentence,)


def _overrides(args: argparse.Namespace) -> dict[str, str]:
    """The dotted keys and texts of --set and --data."""
    pairs = {}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes a key and a value, as in --set budget.epochs=4, but got {text!r}")
        pairs[key] = value
    if args.data is not None:
        pairs |= {"data.source": "folder", "data.path": json.dumps(str(Path(args.data).absolute()))}
    return pairs


def _confirmed(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    verb.__name__.replace("_", "-"): verb
    for verb in (
        run,
        resume,
        final,
        export,
        validate,
        stop,
        worker,
        serve,
        dashboard,
        delete,
        copy_study,
        clean,
        migrate,
    )
} | QUESTIONS
"""Every verb, by the name that the command line knows it by."""
