"""Trials that ended without a result: how many, why, and the settings to change."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, assert_never

import sqlalchemy as sa

from search.errors import AllTrialsFailedError, AllTrialsImpossibleError
from search.spec.study_spec import StudySpec, baseline
from search.storage import queries
from search.storage.records import Obstacle, StudyRecord, TrialRecord, is_verdict, search_name
from search.tables import format_span, with_ranges

#: A search ends if this number of drawn trials, the first by number, have no result. If half of a space can be trained,
#: one search in 1,024 begins like this by chance.
FIRST_TRIALS = 10
#: Above this share of the finished trials they are reported beside the results: the search then works on less than half
#: of its space.
LARGE_SHARE = 0.5
#: Maximum number of causes that are listed for an obstacle, and maximum length of each: an error may have a long text.
MOST_CAUSES, MAX_LENGTH = 3, 300
#: Part of the stored reason of a trial whose processes were killed for lack of memory (`workers.local`).
KILLED_FOR_MEMORY = "ran out of memory"


def are_all(study: StudyRecord, trials: Sequence[TrialRecord]) -> bool:
    """Whether all finished trials of a study ended without a result, and there is one.

    Args:
        study: The study.
        trials: Its trials, or those that ended without a result.
    """
    return 0 < study.counts.finished == sum(trial.obstacle is not None for trial in trials)


def of_first_trials(engine: sa.Engine, spec: StudySpec, study: StudyRecord) -> tuple[TrialRecord, ...]:
    """The obstacles of a study that ends, as its first trials and more than half of all ended without a result.

    The first by number, not those that ended first: a trial that cannot be trained ends sooner than one that can.

    Args:
        engine: Database of the study.
        spec: Its spec.
        study: The study.

    Returns:
        All trials without a result; none if the study goes on.
    """
    counts, first = study.counts, _first_trials(spec, study)
    if counts.complete or not first or counts.pruned + counts.failed < len(first):
        return ()
    obstructed = queries.obstructed(engine, study.name)
    is_most = len(obstructed) > LARGE_SHARE * counts.finished
    return obstructed if is_most and {trial.number for trial in obstructed}.issuperset(first) else ()


def _first_trials(spec: StudySpec, study: StudyRecord) -> range:
    """The numbers of the trials that tell whether others can have a result.

    Points of [[try]] and the baseline are not drawn. Of a grid, whose cells come in order, all count.
    """
    counts, before = study.counts, study.obstructed_before
    if spec.search.sampler == "grid" or counts.finished >= counts.budget:
        return range(counts.budget)
    given = max(len(spec.points), int(baseline(spec) is not None))
    return range(before, min(max(before, given) + FIRST_TRIALS, counts.budget))


def report(study: StudyRecord, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """The obstacles of a study and the settings to change, one line each.

    Args:
        study: The study.
        trials: Its trials, or those that ended without a result.

    Returns:
        The lines; none if at most `LARGE_SHARE` of the finished trials ended without a result.
    """
    obstructed = [trial for trial in trials if trial.obstacle is not None]
    count, finished = len(obstructed), max(len(obstructed), study.counts.finished)
    if count <= LARGE_SHARE * finished:
        return ()
    amount = f"{count} of {finished} finished trials" if count < finished else f"all {count} finished trials"
    head = f"{'the finished trial' if finished == 1 else amount} ended without a result:"
    way_on = [_way_on(study, obstructed)] if count == finished and study.spec else []
    return (head, *causes(study, obstructed), *way_on)


def causes(study: StudyRecord, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Why trials ended without a result, and the settings to change; one indented line for each cause.

    Args:
        study: Their study.
        trials: Trials in any state.
    """
    return tuple(
        line
        for obstacle in Obstacle
        for line in _lines(study, obstacle, [trial for trial in trials if trial.obstacle is obstacle])
    )


def error(study: StudyRecord, trials: Sequence[TrialRecord]) -> AllTrialsFailedError | AllTrialsImpossibleError:
    """The error that a study has no result.

    Args:
        study: The study, whose finished trials all ended without a result.
        trials: Its trials, or those that ended without a result.
    """
    obstructed = [trial for trial in trials if trial.obstacle is not None]
    if any(trial.obstacle is not Obstacle.FAILED for trial in obstructed):
        first, *lines = report(study, obstructed)
        return AllTrialsImpossibleError("\n".join((f"{study.name!r} has no result: {first}", *lines)))
    return AllTrialsFailedError(
        f"all {len(obstructed)} finished trials failed, the last one with: {obstructed[-1].reason}; "
        + "; ".join(filter(None, (_memory_advice(obstructed), _way_on(study, obstructed))))
    )


def check_results(engine: sa.Engine, study: StudyRecord) -> None:
    """Refuse a study whose finished trials all ended without a result.

    Raises:
        AllTrialsFailedError, AllTrialsImpossibleError: see `error`.
    """
    if not study.counts.complete and are_all(study, trials := queries.obstructed(engine, study.name)):
        raise error(study, trials)


def _lines(study: StudyRecord, obstacle: Obstacle, trials: Sequence[TrialRecord]) -> Iterator[str]:
    """The trials with one obstacle: their causes, and the settings to change."""
    if not trials:
        return
    match obstacle:
        case Obstacle.IMPOSSIBLE:
            yield from _causes(study, obstacle, [(trial.reason or "").partition(": ")[2] for trial in trials])
        case Obstacle.FAILED:
            yield from _causes(study, obstacle, [trial.reason or "no reason is recorded" for trial in trials])
            if advice := _memory_advice(trials):
                yield f"    {advice}"
        case Obstacle.DIVERGED:
            yield f"  {len(trials)} diverged{_with('learning_rate', trials)}: {_divergence_advice(trials)}"
        case Obstacle.OUT_OF_MEMORY:
            yield f"  {len(trials)} out of memory{_with('batch_size', trials)}: {MEMORY_ADVICE}"
        case _:
            assert_never(obstacle)


def _causes(study: StudyRecord, obstacle: Obstacle, texts: Sequence[str]) -> Iterator[str]:
    lines = [text.split("\n", 1)[0][:MAX_LENGTH] for text in texts]
    # Numbers in a failure may be codes, whose range says nothing.
    causes = Counter(lines).most_common() if obstacle is Obstacle.FAILED else with_ranges(lines)
    for cause, count in causes[:MOST_CAUSES]:
        yield f"  {count} {obstacle}: {cause}"
    rest = sum(count for _, count in causes[MOST_CAUSES:])
    if rest:
        yield f"  {rest} {obstacle} for other reasons, which `convsearch why {shlex.quote(study.name)}` lists"


def _with(key: str, trials: Sequence[TrialRecord]) -> str:
    values = [value for trial in trials if isinstance(value := trial.config.get(key), int | float)]
    return f", with {key} {format_span(values)}" if values else ""


MEMORY_ADVICE = (
    "lower [space] batch_size or width, or [data] image_size or search_size, or run fewer of them at once (--workers)"
)


def _memory_advice(trials: Sequence[TrialRecord]) -> str:
    return MEMORY_ADVICE if any(KILLED_FOR_MEMORY in (trial.reason or "") for trial in trials) else ""


def _divergence_advice(trials: Sequence[TrialRecord]) -> str:
    configs = [trial.config for trial in trials]
    remedies = ["lower [space] learning_rate"]
    if any(not config.get("clip") for config in configs):
        remedies.append("set clip")
    if any(_has_no_warmup(config) for config in configs):
        remedies.append("set warmup")
    if all(config.get("norm") == "none" for config in configs):
        remedies.append('choose norm = "batch"')
    if any(config.get("precision") in ("auto", "bfloat16") for config in configs):
        remedies.append('choose precision = "float32"')
    return f"{', '.join(remedies[:-1])} or {remedies[-1]}" if remedies[1:] else remedies[0]


def _has_no_warmup(config: Mapping[str, Any]) -> bool:
    """Whether a training began with its full learning rate; one_cycle has a built-in warmup."""
    return config.get("scheduler") not in (None, "one_cycle") and not config.get("warmup")


def _way_on(study: StudyRecord, trials: Sequence[TrialRecord]) -> str:
    """The command that leads on, if no trial has a result."""
    name = shlex.quote(study.name)
    if is_verdict(study.name):
        name = shlex.quote(search_name(study.name))
        return f"`convsearch best {name}` shows others, and a larger --top of `convsearch final {name}` trains them"
    if all(trial.obstacle is Obstacle.FAILED for trial in trials):
        return f"fix that, then run `convsearch resume {name} --retry-failed`"
    return (
        f"a stored study keeps its settings: run the changed file with --name OTHER, or after "
        f"`convsearch delete {name}`"
    )
