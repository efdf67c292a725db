"""The benchmarks run, and report their measurements."""

from itertools import islice
from pathlib import Path

import pytest

from tests.bench import bookkeeping, replay
from tests.bench.measure import Comparison, Figure, Result, as_json, page


def test_a_ratio_is_the_factor_by_which_ours_is_better_pair_by_pair() -> None:
    time = Comparison(what="a call", unit="s", ours=(1.0, 2.0, 1.0), theirs=(4.0, 6.0, 2.0), target=3.0)
    rate = Comparison(what="a loop", unit="images/s", ours=(40.0,), theirs=(10.0,), more_is_better=True, target=5.0)

    assert time.ratios == (4.0, 3.0, 2.0)
    assert rate.ratios == (4.0,)
    assert (time.is_met, rate.is_met) == (True, False)


def test_means_are_compared_with_an_interval_if_pairs_are_random() -> None:
    epochs = Comparison(
        what="a search", unit="epochs", ours=(10.0, 30.0) * 20, theirs=(60.0, 20.0) * 20, target=1.9, of_means=True
    )
    low, high = epochs.ratio_interval()

    assert epochs.ratio == 2.0
    assert epochs.is_met
    assert 1.4 < low < 2.0 < high < 2.9
    row = page(Result(name="Search", about=(), comparisons=(epochs,)), "make bench")
    assert f"mean 20, median 20 | mean 40, median 40 | 2x (95 %: {low:.4g} to {high:.4g}) | 1.9x | met |" in row


def test_a_page_has_n_median_range_target_and_missed_targets() -> None:
    result = Result(
        name="Speed",
        about=("How it was done.",),
        comparisons=(Comparison(what="a call", unit="s", ours=(2.0, 1.0), theirs=(2.0, 2.0), target=3.0),),
        figures=(Figure(what="a wait", unit="s", values=(1.0, 3.0, 2.0), limit=2.5),),
    )

    text = page(result, "make bench")

    assert "| a call | 2 | s | 1.5 (1 to 2) | 2 (2 to 2) | 1.5x (1 to 2) | 3x | missed |" in text
    assert "| a wait | 3 | s | 2 (1 to 3) | 2.5 | met |" in text
    assert as_json(result, "make bench")["comparisons"][0]["ratios"] == (1.0, 2.0)


def test_both_sides_run_a_trial_in_copies_of_one_study(tmp_path: Path) -> None:
    database = bookkeeping.make_database(tmp_path / "60.db", 60)

    values = bookkeeping.both(database, bookkeeping.trial_ours, bookkeeping.trial_theirs, 1)
    reads = bookkeeping.both(database, bookkeeping.open_ours, bookkeeping.open_theirs, 1)

    assert min(*values["ours"], *values["theirs"], *reads["ours"], *reads["theirs"]) > 0


def made_up_table() -> replay.Table:
    """Cells of one optimizer whose curves rise to different heights; one in six is good."""
    cells = {
        (layers, batch, "sgd", rate, scheduler): [(0.5 + 0.1 * (layers + rate)) * step / 12 for step in range(1, 13)]
        for layers in (2, 3, 4)
        for batch in (64, 256)
        for rate in (0.0, 0.5, 1.0)
        for scheduler in ("none", "cosine", "one_cycle")
    }
    return replay.Table(curves=cells, rates={"sgd": (0.0, 0.5, 1.0)}, steps_per_epoch=2)


@pytest.mark.parametrize(("name", "setting"), [(n, s) for n, rows in replay.POLICIES.items() for s in rows])
def test_every_replayed_policy_pays_for_training_and_finds_the_best_cells(name: str, setting: str) -> None:
    table = made_up_table()

    first_run, second_run = (list(islice(replay.POLICIES[name][setting](table, 0), end)) for end in (200, 40))

    assert first_run[:40] == second_run
    assert all(1 <= steps <= table.steps for steps, _ in first_run)
    assert max(value for _, value in first_run if value is not None) >= table.target
