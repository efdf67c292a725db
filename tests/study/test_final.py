"""The final training of a study: on all training images, in the remaining time, evaluated once on the test images."""

import io
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image

from data.config import DataConfig
from data.parts import Split, load_test
from search.analysis.eta import Snapshot
from search.errors import SpecError
from search.process import this_process
from search.service.final import find_or_create_final, verdict_spec, verdict_study
from search.service.run import more_hours, run_study
from search.service.session import searching
from search.spec import derived_specs, stored_spec, study_spec
from search.spec.settings import FinalSettings
from search.spec.study_spec import StudySpec
from search.storage import attr_keys, claims, queries, ranking
from search.storage.rdb import Storage
from search.storage.records import TrialRecord
from search.study import stored_study, strategy
from search.study.final_plan import MOST_EPOCHS, Candidate, ResourceLayout, candidates, final_spec, layout
from search.trial import loop, objective, recorder, runner
from search.trial.context import TrainingContext
from search.trial.final_training import SPARE_S, SPARE_SHARE
from search.trial.trial_training import TrialTraining
from search.workers.live_view import PlainView
from search.workers.stop_rules import StopReason
from tests.harness import Answer, Harness, equal, quiet, reader, run_claimed, work

FINAL: dict[str, Any] = {"epochs": 2}
BUDGET: dict[str, Any] = {"trials": 2, "epochs": 1}


def single_final_spec(
    wanted: StudySpec, trial: TrialRecord, *, uid: str = "u", hours: float | None = None, images: int = 400
) -> StudySpec:
    """The spec of the final training of one trial, on one core."""
    return final_spec(
        wanted,
        candidates(wanted, [trial]),
        uid=uid,
        hours=hours,
        images=images,
        layout=ResourceLayout(workers=1, threads=1),
    )


def has_begun_final(harness: Harness) -> bool:
    """Whether a final training of the study "s" has finished its first epoch."""
    return any(trial.epochs > 1 for trial in harness.trials("s.final"))


def test_the_best_trial_is_trained_on_all_training_images_and_tested_once(harness: Harness) -> None:
    file = harness.write(budget=BUDGET, final=FINAL)

    answer = harness.run("run", file, "--workers", "1")
    again = harness.run("run", file, "--workers", "1")
    resumed = harness.run("resume", "s")

    assert [answer.code, again.code, resumed.code] == [0, 0, 0]
    best = max(harness.trials(), key=lambda trial: trial.values)
    (verdict,) = harness.trials("s.final")
    assert verdict.config == {**best.config, "row": f"trial {best.number}", "repeat": 0}
    assert verdict.curve == ()
    assert verdict.epochs == 2
    batches = -(-2 * 400 // 32)  # train and validation images, in batches of 32
    assert harness.trained(name="s.final")["batch"] == batches
    assert verdict.test is not None
    assert verdict.test["images"] == sum(map(sum, verdict.test["confusion"])) == 40
    assert verdict.values == (verdict.test["right"] / 40,)
    assert f"verdict: {verdict.values[0]:.4f} on 40 test images, {verdict.test['right']} right" in answer.out
    assert "verdict" in again.out
    assert harness.trials("s.final") == (verdict,)
    assert "nothing to resume" in resumed.err


def test_an_interrupted_final_training_resumes_to_the_same_weights(harness: Harness) -> None:
    folder = harness.folder / "whole"
    folder.mkdir()
    whole = replace(harness, folder=folder)
    for each in (harness, whole):  # the same search twice
        assert each.train(budget=BUDGET).code == 0
    file = harness.write(budget=BUDGET, final={"epochs": 20})
    assert whole.run("run", file, "--workers", "1").code == 0

    with harness.start("run", file, "--workers", "1") as launcher:
        launcher.until(lambda: has_begun_final(harness))
        launcher.signal(signal.SIGINT)
        stopped = launcher.end()
    between = harness.trials("s.final")
    resumed = harness.run("resume", "s", "--workers", "1")

    assert (stopped.code, resumed.code) == (130, 0)
    assert [(trial.state, trial.test) for trial in between] == [("WAITING", None)]
    (uninterrupted,), (continued,) = whole.trials("s.final"), harness.trials("s.final")
    assert (uninterrupted.values, uninterrupted.test and uninterrupted.test["confusion"]) == (
        continued.values,
        continued.test and continued.test["confusion"],
    )
    assert equal(whole.trained(name="s.final")["model"], harness.trained(name="s.final")["model"])


@pytest.mark.parametrize(("left_s", "epochs"), [(3600.0, 4.0), (-1.0, 0.32)], ids=["time", "no-time"])
def test_a_final_training_ends_when_its_time_ends(harness: Harness, left_s: float, epochs: float) -> None:
    assert harness.train(budget=BUDGET).code == 0
    storage = Storage(harness.url)
    stored = stored_study.load(storage, "s")
    trial = max(harness.trials(), key=lambda candidate: candidate.values)
    wanted = single_final_spec(replace(stored.spec, final=FinalSettings(epochs=4)), trial, uid=stored.uid)
    wanted = replace(wanted, budget=wanted.budget.model_copy(update={"hours": 2.0}))
    verdict = stored_study.open_or_create(storage, wanted, name="s.final", data=stored.data)
    stored_study.set_attrs(
        storage, verdict.id, {attr_keys.SECONDS_RUN: 2 * 3600 * (1 - SPARE_SHARE) - SPARE_S - left_s}
    )

    row = work(runner.open_training_context(harness.worker_config("s.final")))

    assert row.state == "COMPLETE"
    assert row.epochs == pytest.approx(epochs, abs=0.05)
    assert row.test is not None


def test_the_same_command_ends_a_final_training_whose_hours_are_spent(harness: Harness) -> None:
    file = harness.write(budget=BUDGET | {"hours": 10.0}, final={"epochs": 4000})
    with harness.start("run", file, "--workers", "1") as launcher:
        launcher.until(lambda: has_begun_final(harness))
        launcher.signal(signal.SIGINT)
        launcher.end()
    storage = Storage(harness.url)
    stored_study.set_attrs(storage, stored_study.load(storage, "s.final").id, {attr_keys.SECONDS_RUN: 11 * 3600})

    answer = harness.run("run", file, "--workers", "1")

    assert answer.code == 0
    assert "verdict:" in answer.out
    assert 1 < harness.trials("s.final")[0].epochs < 4000


def test_stop_also_stops_the_final_training_of_a_study(harness: Harness) -> None:
    with harness.start("run", harness.write(budget=BUDGET, final={"epochs": 4000}), "--workers", "1") as launcher:
        launcher.until(lambda: harness.workers("s.final"))
        stop = harness.run("stop", "s", "--json")
        answer = launcher.end()

    assert (stop.json["running"], answer.code) == (1, 0)
    assert [trial.state for trial in harness.trials("s.final")] == ["WAITING"]


def test_a_study_is_deleted_with_its_final_training(harness: Harness) -> None:
    assert harness.train(budget=BUDGET, final=FINAL).code == 0

    answer = harness.run("delete", "s", "--yes")

    assert answer.code == 0
    assert queries.studies(reader(harness.url)) == ()
    assert harness.dirs.studies() == ()


def test_the_final_training_of_a_deleted_study_is_not_used_for_a_new_one(harness: Harness) -> None:
    file = harness.write(budget=BUDGET, final=FINAL)
    assert harness.train(budget=BUDGET, final=FINAL).code == 0
    storage = Storage(harness.url)
    storage.delete_study(stored_study.load(storage, "s").id)  # by other means

    refused = harness.run("run", file, "--workers", "1")
    deleted = harness.run("delete", "s.final", "--yes")
    answer = harness.run("run", file, "--workers", "1")

    assert (refused.code, deleted.code, answer.code) == (78, 0, 0)
    assert "'s.final' belongs to another 's' that was deleted; `convsearch delete s.final`" in refused.err
    assert "verdict:" in answer.out


def test_the_leading_trial_is_delivered_though_it_is_incomplete(harness: Harness) -> None:
    search = {"pruner": "promote", "baseline": False}
    changes: dict[str, Any] = {"budget": BUDGET, "final": FINAL, "search": search}
    worker_config = harness.create(**(changes | {"budget": {"trials": 2, "epochs": 2}}))
    for _ in range(2):
        work(runner.open_training_context(worker_config))  # until the trial pauses
    storage = Storage(harness.url)
    messages: list[str] = []
    options = harness.options()

    final_study = verdict_study(options, storage, stored_study.load(storage, "s"), messages.append, hours=None)

    best = max(harness.trials(), key=lambda trial: max(value for _, value in trial.curve))
    assert final_study is not None
    assert len(messages) == 1
    assert messages[0].startswith(f"trial {best.number} is delivered: it has the best accuracy")
    trained = work(runner.open_training_context(harness.worker_config("s.final"))).config
    assert {key: trained[key] for key in best.config} == best.config


def test_ctrl_c_at_the_end_of_a_search_prevents_the_final_training(
    harness: Harness,
) -> None:
    options = harness.options(device="cpu")
    wanted = study_spec.build(harness.tables(budget=BUDGET, final=FINAL))

    class InterruptingView(PlainView):
        """Raises SIGINT when the finished study is shown for the second time, after its workers have ended."""

        shown_done = 0

        def show(self, snapshot: Snapshot) -> None:
            self.shown_done += snapshot.counts.finished == snapshot.counts.budget
            if self.shown_done == 2:
                signal.raise_signal(signal.SIGINT)

    @contextmanager
    def interrupting_view(_: stored_study.StoredStudy) -> Iterator[InterruptingView]:
        yield InterruptingView(io.StringIO(), time.monotonic)

    end = run_study(options, wanted, show=interrupting_view, say=quiet)

    assert harness.counts().complete == 2
    assert end is StopReason.INTERRUPTED
    assert not queries.is_known(reader(harness.url), "s.final")


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        pytest.param("s.final", {}, "ends in '.final', as that of the last training of 's'", id="taken"),
        pytest.param("s" * 64, {"final": FINAL}, "s.final", id="no room"),
    ],
)
def test_a_name_that_conflicts_with_a_final_study_is_refused_at_the_start(
    harness: Harness, name: str, changes: dict[str, Any], complaint: str
) -> None:
    answer = harness.run("run", harness.write(budget=BUDGET, **changes), "--name", name)

    assert answer.code == 2
    assert complaint in answer.err
    assert not (harness.folder / "home" / "studies.db").exists()


def test_a_final_training_reads_its_images_from_the_current_path_of_the_search(harness: Harness) -> None:
    assert harness.train(budget=BUDGET, final=FINAL).code == 0
    elsewhere = shutil.copytree(harness.images, harness.folder / "elsewhere")
    moved = harness.write(data={"path": str(elsewhere)}, budget=BUDGET, final=FINAL)

    answer = harness.run("run", moved, "--workers", "1")

    assert answer.code == 0
    assert stored_study.load(Storage(harness.url), "s.final").spec.data.path == str(elsewhere)


def test_a_worker_reads_the_images_from_the_path_of_its_launcher(harness: Harness) -> None:
    elsewhere = str(shutil.copytree(harness.images, harness.folder / "elsewhere"))
    worker_config = harness.create()

    context = runner.open_training_context(replace(worker_config, images=elsewhere))

    assert context.study.spec.data.path == elsewhere
    assert stored_study.load(context.storage, "s").spec.data.path == str(harness.images)


def test_the_second_of_two_machines_uses_the_final_study_of_the_first(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert harness.train(budget=BUDGET).code == 0
    storage, options = Storage(harness.url), harness.options()
    stored = stored_study.load(storage, "s")
    an_epoch = 400 / 3600 / max(trial.images_per_second or 0.0 for trial in harness.trials())  # hours
    earlier = verdict_study(options, storage, stored, quiet, hours=20 * an_epoch)
    monkeypatch.setattr(queries, "is_known", lambda *_: False)  # as the later machine read it a moment before

    later = verdict_study(options, storage, stored, quiet, hours=10 * an_epoch)

    assert later == earlier


def test_a_final_training_is_neither_run_again_nor_extended(harness: Harness) -> None:
    assert harness.train(budget=BUDGET, final=FINAL).code == 0

    again = harness.run("run", "s.final", "--again", "0")
    more = harness.run("resume", "s.final", "--trials", "2")
    resumed = harness.run("resume", "s.final")

    assert (again.code, more.code, resumed.code) == (2, 2, 0)
    assert "looks at the test images once and is not run again" in again.err
    assert "which has exactly one training for each configuration and seed; `convsearch final s`" in more.err
    assert resumed.err == "nothing to resume: all 1 trials of 's.final' are done\n"


def test_without_time_for_half_an_epoch_there_is_no_final_training(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    storage = Storage(harness.url)
    messages: list[str] = []
    options = harness.options()

    final_study = verdict_study(options, storage, stored_study.load(storage, "s"), messages.append, hours=1e-9)

    assert final_study is None
    assert messages[-1] == "in the time that is left the last training would have 0.00 epochs; --hours gives it more"
    assert not queries.is_known(reader(harness.url), "s.final")


def test_running_a_trial_again_starts_no_final_training(harness: Harness) -> None:
    assert harness.train(budget=BUDGET, final=FINAL).code == 0

    again = harness.run("run", "s", "--again", "0", "--workers", "1")

    assert again.code == 0
    assert harness.trials("s.again-0")[0].values == harness.trials()[0].values
    assert not queries.is_known(reader(harness.url), "s.again-0.final")


def test_the_final_training_of_a_search_on_few_small_images_uses_all_at_full_size(harness: Harness) -> None:
    file = harness.write(data={"search_images": 60, "search_size": 6}, budget=BUDGET | {"trials": 1}, final=FINAL)

    answer = harness.run("run", file, "--workers", "1")

    assert answer.code == 0
    search, final = (runner.open_training_context(harness.worker_config(name)).data for name in ("s", "s.final"))
    assert (len(search.train), len(search.validation), len(final.train)) == (60, 80, 320 + 80)
    assert (search.info.image_size, final.info.image_size) == (6, 8)
    assert search.train.images.shape == (60, 6, 6, 3)


@pytest.mark.parametrize("batch_size", [90, 320], ids=["fits a quarter with validation", "whole search"])
def test_a_search_with_batches_as_large_as_its_steps_gets_a_final_training(harness: Harness, batch_size: int) -> None:
    file = harness.write(budget=BUDGET | {"trials": 1}, final=FINAL, space={"batch_size": batch_size})

    answer = harness.run("run", file, "--workers", "1")

    assert answer.code == 0
    assert "verdict:" in answer.out


def test_the_next_launcher_completes_a_half_created_final_study(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    optuna.create_study(study_name="s.final", storage=Storage(harness.url), direction="maximize")

    answer = harness.run("run", harness.write(budget=BUDGET, final=FINAL), "--workers", "1")

    assert answer.code == 0
    assert "verdict:" in answer.out


def test_without_a_trained_trial_a_message_replaces_the_final_training(harness: Harness) -> None:
    harness.create(budget=BUDGET, final=FINAL)
    storage, messages = Storage(harness.url), list[str]()
    options = harness.options()

    final_study = verdict_study(options, storage, stored_study.load(storage, "s"), messages.append, hours=1.0)
    impossible = harness.run(
        "run", harness.write("t", budget=BUDGET | {"max_parameters": 1}, final=FINAL), "--workers", "1"
    )

    assert final_study is None
    assert messages == [
        "no trial has a validation score yet, so there is nothing to train finally; it needs more hours or trials"
    ]
    assert queries.study(storage.engine, "s").selection is None
    assert impossible.code == 76
    assert not queries.is_known(storage.engine, "t.final")


def test_the_hours_are_shared_between_the_search_and_the_final_training(harness: Harness) -> None:
    wanted = study_spec.build(harness.tables(budget=BUDGET | {"hours": 10.0}, final={"share": 0.25}))

    assert searching(wanted, 10.0) == 7.5
    assert searching(study_spec.build(harness.tables()), 10.0) == 10.0
    assert searching(wanted, None) is None


def test_the_final_training_is_planned_by_the_speed_of_the_trial(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    trial = harness.trials()[0]
    wanted = study_spec.build(harness.tables(budget=BUDGET | {"hours": 10.0}, final={"share": 0.25}))
    speed = trial.images_per_second or 0.0

    planned = single_final_spec(wanted, trial, hours=10 / 3600, images=int(speed))
    short = single_final_spec(wanted, trial, hours=0.001 / 3600, images=int(speed))

    assert planned.budget.epochs == pytest.approx(1.5 * 10, abs=0.5)
    assert planned.verdict_on == "u"
    assert [stored_spec.restore(stored_spec.dump(spec)) for spec in (planned, short)] == [planned, short]
    assert short.budget.steps == 1
    unknown = replace(trial, images_per_second=None)
    assert single_final_spec(wanted, unknown, hours=1.0).budget.epochs == MOST_EPOCHS


@pytest.mark.parametrize(("batch_size", "steps_per_epoch"), [(25, 4), (50, 2), (51, 1)])
def test_a_final_spec_of_any_number_of_steps_can_be_stored_and_read(
    harness: Harness, batch_size: int, steps_per_epoch: int
) -> None:
    wanted = study_spec.build(harness.tables(budget=BUDGET | {"hours": 10.0}))
    config = {**study_spec.with_defaults(wanted, {"learning_rate": 0.1}), "batch_size": batch_size}

    planned = [
        single_final_spec(
            wanted,
            TrialRecord(study="s", number=0, state="COMPLETE", config=config, images_per_second=speed),
            hours=1 / 3600,
            images=100,
        )
        for speed in range(100, 1100, 27)
    ]

    assert [stored_spec.restore(stored_spec.dump(spec)) for spec in planned] == planned
    assert {spec.budget.steps_per_epoch for spec in planned} == {steps_per_epoch}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"final": {}}, "[final] needs epochs, or [budget] hours to fit into"),
        ({"final": {"epochs": 0}}, "[final] epochs"),
        ({"final": {"share": 1.0, "epochs": 1}}, "[final] share"),
        ({"final": {"epoch": 1}}, "did you mean"),
        ({"final": {"epochs": 1}, "compare": [{"name": "base"}], "space": {"learning_rate": 0.1}}, "[[compare]]"),
    ],
    ids=["no-end", "no-epochs", "all-of-the-time", "misspelt", "comparison"],
)
def test_an_invalid_final_table_is_refused(harness: Harness, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        study_spec.build(harness.tables(**changes))

    assert complaint in str(caught.value)


#: A search of which no trial is the baseline.
NO_BASELINE: dict[str, Any] = {"budget": {"trials": 4, "epochs": 1}, "search": {"baseline": False}}
#: Two configurations and a baseline, with two seeds each.
TERMS = ("--top", "2", "--seeds", "2", "--epochs", "1", "--workers", "1")
#: Keeps tests of one final training in one process.
COMPARED = pytest.mark.xdist_group("test_final_compared")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> tuple[Harness, Answer]:
    """A search with a final training by TERMS, which tests only read, and the answer of its command."""
    harness = Harness(tmp_path_factory.mktemp("compared"), images, cache)
    assert harness.train(**NO_BASELINE).code == 0
    return harness, harness.run("final", "s", *TERMS)


@COMPARED
def test_the_best_and_a_baseline_are_trained_with_several_seeds_and_compared(compared: tuple[Harness, Answer]) -> None:
    trained, first = compared

    answer = trained.run("final", "s", *TERMS, "--json")

    assert (first.code, answer.code) == (0, 0)
    leading = [trial.number for trial, _ in ranking.ranked_by_best_value(reader(trained.url), "s")]
    names = {f"trial {leading[0]}", f"trial {leading[1]}", "baseline"}
    trials = trained.trials("s.final")
    assert [trial.state for trial in trials] == ["COMPLETE"] * 6
    assert {(trial.config["row"], trial.repeat) for trial in trials} == {(name, n) for name in names for n in (0, 1)}
    assert len({trial.seed for trial in trials}) == 2
    standings = {standing["name"]: standing for standing in answer.json["standings"]}
    assert set(standings) == names
    for name, standing in standings.items():
        values = [trial.values[0] for trial in trials if trial.config["row"] == name]
        assert standing["test"] == pytest.approx(sum(values) / 2)
        assert standing["interval"][0] <= standing["test"] <= standing["interval"][1]
        assert sum(map(sum, standing["confusion"])) == 2 * 40
        assert standing["latency_ms"] > 0
        assert (standing["gap"] is None) == (name == "baseline")
    assert len(answer.json["duels"]) == 3
    assert [(look["study"], look["networks"]) for look in answer.json["looks"]] == [("s.final", 6)]


@COMPARED
def test_a_verdict_is_printed_again_and_a_later_one_names_the_earlier_uses(
    harness: Harness, compared: tuple[Harness, Answer]
) -> None:
    trained, first = compared
    shutil.copytree(trained.folder / "home", harness.folder / "home")
    trials = harness.trials("s.final")

    again = harness.run("final", "s", *TERMS)
    other = harness.run("final", "s", "--top", "1", "--seeds", "1", "--epochs", "1", "--no-baseline", "--workers", "1")
    deleted = harness.run("delete", "s", "--yes")

    assert [first.code, again.code, other.code, deleted.code] == [0, 0, 0, 0]
    assert "No other stored study has used this test set at this size (deleted studies are not counted)." in first.out
    assert again.out == first.out
    assert "These test images were used 6 times, " in first.out
    assert "These test images were used once, at " in other.out
    assert "s.final has used them, too: 6 times, " in other.out
    assert "with one seed, the spread over seeds is not known" in other.out
    assert len(trials) == 6
    assert queries.studies(reader(harness.url)) == ()


def final_context(harness: Harness, wanted: FinalSettings) -> TrainingContext:
    """A context that trains the final study of a search of two trials."""
    assert harness.train(budget=BUDGET).code == 0
    storage, options = Storage(harness.url), harness.options()
    stored = stored_study.load(storage, "s")
    requested = replace(stored.spec, final=wanted)
    finalists = candidates(requested, [trial for trial, _ in ranking.ranked_by_best_value(storage.engine, "s")])
    find_or_create_final(
        storage,
        stored,
        verdict_spec(options, stored, requested, finalists, hours=None)[0],
        harness.dirs,
        is_timed=False,
        say=print,
    )
    return runner.open_training_context(harness.worker_config("s.final"))


def all_claims(context: TrainingContext) -> Iterator[claims.Claim]:
    """Claim the trials of a study one after the other until none is left."""
    claim_args = (
        this_process(context.storage.token or ""),
        strategy.queue(context.study),
        strategy.promotion_policy(context.study.spec),
    )
    while (claim := claims.claim(context.storage, context.study.id, *claim_args)) is not None:
        yield claim


def test_the_test_images_are_not_evaluated_before_all_trainings_end(harness: Harness) -> None:
    context = final_context(harness, FinalSettings(epochs=1, top=2, seeds=2))
    done: list[tuple[int, int]] = []

    for claim in all_claims(context):
        run_claimed(context, claim)
        rows = harness.trials("s.final")
        done.append((sum(row.paused is not None for row in rows), sum(row.test is not None for row in rows)))

    assert done == [(1, 0), (2, 0), (3, 0), (4, 0), (3, 1), (2, 2), (1, 3), (0, 4)]
    assert "paused at step" in harness.dirs.log("s.final", 0).read_text()
    assert "until all are trained" in harness.dirs.log("s.final", 0).read_text()


def test_a_final_training_evaluates_the_test_images_once(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    context = final_context(harness, FinalSettings(epochs=1, top=1, seeds=1))
    claim = next(all_claims(context))
    evaluations: list[Path] = []

    def load_and_count(data: DataConfig, cache: Path, *, fingerprint: str) -> Split:
        evaluations.append(cache)
        return load_test(data, cache, fingerprint=fingerprint)

    monkeypatch.setattr("search.trial.final_training.load_test", load_and_count)

    outcomes = [  # the second call follows when the process died before it stored its value
        objective.evaluate_trial(context, lambda: None, claim, recorder.open_trial(context, claim)) for _ in range(2)
    ]

    assert outcomes[0] == outcomes[1]
    assert outcomes[0].value is not None
    assert len(evaluations) == 1


def test_only_the_failed_final_training_is_retried_on_request(harness: Harness) -> None:
    context = final_context(harness, FinalSettings(epochs=1, top=2, seeds=1))
    loop.fail(context, next(all_claims(context)), RuntimeError("a bug"))
    for claim in all_claims(context):
        run_claimed(context, claim)
    terms = ("final", "s", "--top", "2", "--seeds", "1", "--epochs", "1", "--no-baseline", "--workers", "1")

    first, again = harness.run(*terms), harness.run(*terms, "--retry-failed")

    assert (first.code, again.code) == (0, 0)
    assert "run 1: fail, RuntimeError: a bug" in first.out
    assert "1 failed trials are tried again" in again.err
    assert [trial.state for trial in harness.trials("s.final")] == ["COMPLETE"] * 2


def test_the_same_command_resumes_a_final_training_after_its_launcher_was_killed(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    terms = ("final", "s", "--top", "1", "--seeds", "1", "--no-baseline", "--epochs", "20", "--workers", "1")
    with harness.start(*terms) as launcher:
        launcher.until(lambda: has_begun_final(harness))
        launcher.signal(signal.SIGKILL)
        assert launcher.end().code == -signal.SIGKILL
    assert harness.counts("s.final").to_do == 0

    answer = harness.run(*terms)

    assert answer.code == 0
    (trial,) = harness.trials("s.final")
    assert f"{trial.config['row']}: " in answer.out  # the other trial is named too, without a result
    assert (trial.state, trial.test is not None) == ("COMPLETE", True)


def test_a_final_training_by_time_keeps_the_epochs_of_its_first_plan(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    storage = Storage(harness.url)
    stored = stored_study.load(storage, "s")
    requested = replace(stored.spec, final=FinalSettings(top=1, seeds=1))
    finalists = candidates(requested, [trial for trial, _ in ranking.ranked_by_best_value(storage.engine, "s")])
    plans = []
    for hours in (0.0001, 0.0002):
        options = harness.options()
        planned, _ = verdict_spec(options, stored, requested, finalists, hours=hours)
        plans.append(
            (
                planned.budget.epochs,
                find_or_create_final(storage, stored, planned, harness.dirs, is_timed=True, say=print),
            )
        )

    (first, begun), (second, again) = plans
    assert first != second
    assert (begun.name, again.name) == ("s.final", "s.final")
    assert again.spec.budget.epochs == first


def test_resume_adds_hours_to_a_final_training(harness: Harness) -> None:
    context = final_context(harness, FinalSettings(epochs=1, top=1, seeds=1))
    stored_study.set_attrs(context.storage, context.study.id, {attr_keys.SECONDS_RUN: 1800.0})

    spec = more_hours(
        context.storage,
        context.study.spec,
        harness.options("s.final", workers=None, hours=0.25),
    )

    assert spec.budget.hours == 0.75


def test_a_name_that_is_too_long_for_a_final_study_is_refused_before_training(harness: Harness) -> None:
    name = "s" * 60
    assert harness.run("run", harness.write(budget=BUDGET), "--name", name, "--workers", "1").code == 0

    answer = harness.run("final", name, *TERMS)

    assert answer.code == 2
    assert "a study's name must be up to 64 letters" in answer.err
    assert [row.name for row in queries.studies(reader(harness.url))] == [name]


def paint_counts(folder: Path, counts: dict[str, dict[str, int]]) -> Path:
    """Write noise of 8 x 8 pixels: {part: {class: number of images}}."""
    random = np.random.default_rng(0)
    for part, classes in counts.items():
        for name, count in classes.items():
            (folder / part / name).mkdir(parents=True)
            for index, pixels in enumerate(random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)):
                Image.fromarray(pixels).save(folder / part / name / f"{index:03d}.png")
    return folder


def first_training(context: TrainingContext) -> TrialTraining:
    """The training of the next trial of a study, not begun."""
    claim = next(all_claims(context))
    trial, values = recorder.draw(context, claim, recorder.open_trial(context, claim))
    return TrialTraining(
        context=context,
        claim=claim,
        trial=trial,
        values=values,
        seed=0,
        step_epochs=Fraction(1),
        on_batch=lambda: None,
    )


def test_class_weights_are_those_of_the_images_that_a_training_sees(harness: Harness) -> None:
    counts = {"train": {"a": 8, "b": 24}, "val": {"a": 24, "b": 8}, "test": {"a": 2, "b": 2}}
    own = replace(harness, images=paint_counts(harness.folder / "unbalanced", counts))
    config = own.create(
        data={"validation": "folder"},
        budget={"trials": 2, "epochs": 1},
        space={"class_weights": 1.0, "batch_size": 8},
    )
    context = runner.open_training_context(config)
    storage, trial, stored = context.storage, work(context), context.study
    wanted = single_final_spec(replace(stored.spec, final=FinalSettings(epochs=1)), trial, uid=stored.uid, images=64)
    stored_study.open_or_create(storage, wanted, name="s.final", data=stored.data)

    search = first_training(context)
    final = first_training(runner.open_training_context(own.worker_config("s.final")))

    weights = [run.training.loss.weights for run in (search, final)]
    assert [None if each is None else each.tolist() for each in weights] == [
        pytest.approx([32 / (2 * 8), 32 / (2 * 24)]),
        pytest.approx([1.0, 1.0]),  # train/ and val/ together are balanced
    ]


def test_a_failed_final_training_does_not_block_the_evaluation_of_the_others(harness: Harness) -> None:
    context = final_context(harness, FinalSettings(epochs=1, top=2, seeds=1))
    loop.fail(context, next(all_claims(context)), RuntimeError("a bug"))

    for claim in all_claims(context):
        run_claimed(context, claim)

    assert [(trial.state, trial.test is not None) for trial in harness.trials("s.final")] == [
        ("FAIL", False),
        ("COMPLETE", True),
    ]


def test_each_final_training_has_an_equal_share_of_the_hours(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    context = final_context(harness, FinalSettings(epochs=4, top=2, seeds=1))
    timed = context.study.spec.budget.model_copy(update={"hours": 2.0})
    context = replace(context, study=replace(context.study, spec=replace(context.study.spec, budget=timed)))
    ends = {}
    for name, seconds in [("early", 1.0), ("late", 3600.0)]:  # of two hours for two trainings, one after the other
        monkeypatch.setattr(TrialTraining, "seconds", lambda _, seconds=seconds: seconds)
        ends[name] = work(context).epochs

    assert ends == {"early": 4.0, "late": pytest.approx(0.32, abs=0.05)}


def test_the_same_command_resumes_several_interrupted_final_trainings(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    command = ("final", "s", "--top", "1", "--seeds", "3", "--epochs", "20", "--no-baseline", "--workers", "2")

    with harness.start(*command) as launcher:
        launcher.until(lambda: has_begun_final(harness))
        launcher.signal(signal.SIGINT)
        stopped = launcher.end()
    resumed = harness.run(*command)

    assert (stopped.code, resumed.code) == (130, 0)
    assert [(trial.state, trial.attempts) for trial in harness.trials("s.final")] == [("COMPLETE", 1)] * 3


def test_a_trial_of_an_older_version_gets_the_defaults_of_keys_it_lacks(
    harness: Harness,
) -> None:
    wanted = replace(study_spec.build(harness.tables()), final=FinalSettings(epochs=1))
    full_config = study_spec.with_defaults(wanted, {"learning_rate": 0.05})
    old = TrialRecord(
        study="s",
        number=3,
        state="PRUNED",
        config={key: full_config[key] for key in full_config if not key.startswith("backbone")},
    )

    (finalist,) = candidates(wanted, [old])
    again = derived_specs.single_trial_spec(wanted, old.config, question="", seed=0)

    assert finalist.config == full_config
    assert again.space.parameters["backbone"].single_value == "none"


def test_spare_cores_become_threads_of_the_trainings() -> None:
    assert layout(cores=2, trainings=1) == ResourceLayout(workers=1, threads=2)
    assert layout(cores=2, trainings=9) == ResourceLayout(workers=2, threads=1)
    assert layout(cores=16, trainings=3) == ResourceLayout(workers=3, threads=5)
    assert ResourceLayout(workers=2, threads=1).rounds(9) == 5


def test_the_baseline_is_the_first_point_or_without_points_the_defaults(harness: Harness) -> None:
    wanted = replace(
        study_spec.build(harness.tables(points=[{"learning_rate": 0.03}])), final=FinalSettings(epochs=1, baseline=True)
    )
    plain = replace(study_spec.build(harness.tables()), final=FinalSettings(epochs=1, baseline=True))
    other = TrialRecord(
        study="s", number=3, state="PRUNED", config=study_spec.with_defaults(wanted, {"learning_rate": 0.05})
    )
    same = TrialRecord(study="s", number=0, state="PRUNED", config=candidates(wanted, [other])[1].config)

    first, base = candidates(wanted, [other])

    assert (first.name, base.name) == ("trial 3", "baseline")
    assert (base.config["learning_rate"], base.config["width"]) == (0.03, 8)
    assert [candidate.name for candidate in candidates(wanted, [same, other])] == ["trial 0 (baseline)"]
    assert candidates(plain, [other])[1] == Candidate(
        name="baseline", config=study_spec.with_defaults(plain, {**base.config, "learning_rate": 0.1})
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("final", "s"), "no trial of 's' was judged"),
        (("final", "c"), "'c' is a comparison"),
        (("final", "nobody"), "there is no study 'nobody'"),
        (("final", "s", "--top", "0"), "must be a whole number of at least 1"),
    ],
    ids=["unjudged", "comparison", "unknown", "no-top"],
)
def test_final_is_refused_with_a_reason_when_there_is_nothing_to_train(
    harness: Harness, words: tuple[str, ...], complaint: str
) -> None:
    harness.create("s")
    harness.create(
        "c",
        space={"learning_rate": 0.1},
        compare=[{"name": "base"}, {"name": "gelu", "activation": "gelu"}],
        budget={"trials": 2},
    )

    answer = harness.run(*words)

    assert answer.code == 2
    assert complaint in answer.err
