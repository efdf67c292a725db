"""The simulated workers run the real loops without training; the report agrees with their measurements."""

import re
import time
from pathlib import Path
from subprocess import Popen

import pytest
import sqlalchemy as sa

from search.storage import queries
from search.storage.read_only import open_reader
from tests.bench import capacity, replay, scale, window
from tests.bench.capacity import Model
from tests.bench.measure import Table, aligned, page
from tests.bench.meter import Meter
from tests.bench.simulated_workers import Part, curve, lifted
from tests.bench.window import LAUNCHER_CALLS, MACHINE, STEPS, STUDY, TRIAL_CALLS, WORKER, Measured, Row
from tests.harness import wait_until


def part(url: str, *, is_machines: bool = False) -> Part:
    """Two workers with trials of a fifth of a second, or their machine."""
    return Part(
        url=url,
        study=STUDY,
        first=0,
        count=1 if is_machines else 2,
        apart_s=0.0,
        trial_s=0.2,
        speed=300.0,
        workers_per_machine=window.WORKERS_PER_MACHINE,
        is_machines=is_machines,
    )


def test_simulated_workers_and_their_machine_make_every_call_and_complete_trials(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    window.fill(url, 20)
    folder = str(tmp_path)

    with window.process(part(url), folder) as workers, window.process(part(url, is_machines=True), folder) as machines:
        window.wait_until_ready((workers, machines))
        engine = open_reader(url)
        wait_until(lambda: queries.study(engine, STUDY).counts.complete >= 20 + 6)
        worker_calls, machine_calls = called(workers, {*TRIAL_CALLS, "train"}), called(machines, set(LAUNCHER_CALLS))

    assert (worker_calls, machine_calls) == ({*TRIAL_CALLS, "train"}, set(LAUNCHER_CALLS))
    trials = queries.trials(open_reader(url), STUDY)
    complete = [trial for trial in trials[22:] if trial.state == "COMPLETE"]
    assert complete
    assert {len(trial.curve) for trial in complete} == {STEPS}
    assert all(trial.config and trial.parameters for trial in complete)


def called(child: Popen[str], awaited: set[str]) -> set[str]:
    """Wait until a process has metered the awaited calls, without a failure, and return all their names."""
    names: set[str] = set()

    def are_metered() -> bool:
        window.tell([child], "begin")
        time.sleep(0.2)
        window.tell([child], "end")
        answer = window.answer(child)
        assert answer["failures"] == []
        names.update(answer["calls"])
        return names >= awaited

    wait_until(are_metered)
    return names


def test_a_meter_counts_a_call_without_the_metered_calls_inside_it() -> None:
    class Work:
        def inner(self) -> None:
            time.sleep(0.02)

        def outer(self) -> None:
            self.inner()
            self.inner()

    meter = Meter(is_on=True)
    meter.put_on(Work, "inner", "inner")
    meter.put_on(Work, "outer", "outer")

    Work().outer()

    assert len(meter.calls["inner"]) == 2
    assert min(meter.calls["inner"]) >= 0.02
    (outer,) = meter.calls["outer"]
    assert 0 <= outer < sum(meter.calls["inner"])


def test_a_curve_is_stretched_between_its_ends_and_raised_above_earlier_curves() -> None:
    cell, recorded = next(iter(replay.table().curves.items()))
    values = dict(zip(replay.KEYS, cell, strict=True))

    stretched = curve(values, STEPS)

    assert len(stretched) == STEPS
    assert (stretched[0], stretched[-1]) == (recorded[0], recorded[-1])
    assert min(lifted(stretched, 8)) >= max(lifted(stretched, 7))


def window_of(workers: int, history: int, *, trial_s: float, poll_s: float) -> Measured:
    """A row in which a server used `trial_s` CPU seconds per trial and `poll_s` per poll of a launcher."""
    calls = {"train": [0.1] * 20 * 50, "claim": [0.01], "progress": [0.1] * 10, "record": [0.02] * 20 * 50}
    return Measured(
        row=Row(workers=workers, speed=1.0, window_s=60.0, history=history),
        seconds=60.0,
        calls=calls,
        own_cpu_s=1.0,
        base_cpu_s={WORKER: 50 * trial_s, MACHINE: 10 * poll_s, "itself": 0.0},
        connections=1,
        connection_mb=3.0,
        busy=0.5,
        waited=0,
        died=0,
        why="",
    )


def test_the_model_recovers_the_cost_of_a_trial_and_a_poll_by_workers_and_size() -> None:
    rows = [
        window_of(
            workers,
            history,
            trial_s=0.04 + 1e-4 * workers + 1e-6 * (history + workers + 25),
            poll_s=0.005 + 5e-5 * workers + 3e-6 * (history + workers + 25),
        )
        for workers, history in ((1, 500), (32, 500), (256, 500), (16, 9_900), (128, 2_000))
    ]

    fitted = capacity.model(rows)

    assert fitted.trial == pytest.approx((0.04, 1e-4, 1e-6), rel=1e-3)
    assert fitted.poll == pytest.approx((0.005, 5e-5, 3e-6), rel=1e-3)
    assert fitted.lock_s == 0.01


def test_the_maximum_of_workers_is_the_last_within_the_limit() -> None:
    fitted = Model(trial=(0.04, 1e-4, 1e-6), poll=(0.005, 5e-5, 3e-6), lock_s=0.01)

    maximum = fitted.max_workers(0.7, 60.0, 1_000)

    assert fitted.cores(maximum, 60.0, 1_000) <= 0.7 < fitted.cores(maximum + 1, 60.0, 1_000)
    assert fitted.most_locked(60.0) == int(0.7 * 60.0 / 0.01)


def test_a_slow_call_saturates_a_row() -> None:
    fine = window_of(8, 500, trial_s=0.05, poll_s=0.01)
    slow = window_of(16, 500, trial_s=0.05, poll_s=0.01)
    assert isinstance(slow.calls, dict)
    slow.calls["claim"] = [0.01] * 90 + [2.0] * 10

    assert not fine.is_saturated
    assert slow.is_saturated
    assert scale.saturation([fine]) == "nowhere up to 8 workers"
    assert "at 16 workers" in scale.saturation([fine, slow])
    assert "p99 of claim 2.00 s" in scale.saturation([fine, slow])


def test_the_page_has_every_row_the_targets_and_the_served_workers() -> None:
    rows = [window_of(workers, 500, trial_s=0.05, poll_s=0.01) for workers in (1, 256)]
    grown = [window_of(16, history, trial_s=0.05, poll_s=0.01) for history in (900, 9_900)]

    text = page(scale.report(rows, rows, grown, grown[0]), "make bench-scale")

    assert "256 workers on PostgreSQL, 60 s of training: bookkeeping" in text
    assert "storage of a trial at 9,900 trials, by that at 900" in text
    assert all(re.search(rf"^\| {length} s +\|( +[\d,]+ \|){{5}}$", text, re.MULTILINE) for length in (10, 60, 600))
    assert max(len(line) for line in text.splitlines() if line.startswith("| ")) <= 120


def test_a_table_has_aligned_columns() -> None:
    table = Table(title="Calls", heads=("call", "1"), rows=(("claim", "10"), ("tell", "7")))

    assert aligned(table) == ["| call  |  1 |", "| ----- | -: |", "| claim | 10 |", "| tell  |  7 |"]


def test_the_urls_of_simulated_workers_name_the_client_of_each_connection() -> None:
    url = sa.make_url("postgresql+psycopg://me:secret@127.0.0.1:5432/studies")

    parts = window.parts(Row(workers=20, speed=1.0, window_s=1.0), url)

    assert sum(share.count for share in parts if not share.is_machines) == 20
    assert sum(share.count for share in parts if share.is_machines) == 3
    assert all(f"application_name={MACHINE if share.is_machines else WORKER}" in share.url for share in parts)
