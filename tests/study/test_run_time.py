"""The run time of a study is counted once: by the process that runs it, or by a joined one when the first is gone."""

from collections.abc import Callable, Iterator

import pytest

from search.storage import attr_keys
from search.storage.rdb import Storage
from search.study import stored_study
from search.study.run_time import SAVE_S, SILENCE_S, RunTimeCounter
from tests.clock import Clock
from tests.databases import BOTH

pytestmark = BOTH


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def storage(url: str, make_study: Callable[[int], int]) -> Iterator[tuple[Storage, int]]:
    """A storage with a study that has run for a minute."""
    study_id, storage = make_study(3), Storage(url)
    stored_study.set_attrs(storage, study_id, {attr_keys.SECONDS_RUN: 60.0})
    yield storage, study_id
    storage.engine.dispose()


def tick(counter: RunTimeCounter) -> float:
    return counter.tick(stored_study.seconds_run(counter.storage, counter.study_id))


def test_the_process_that_runs_a_study_counts_and_one_that_joined_reads(
    clock: Clock, storage: tuple[Storage, int]
) -> None:
    runner, joined = (
        RunTimeCounter(*storage, since=clock.now - 2.0, now=clock),
        RunTimeCounter(*storage, since=None, now=clock),
    )
    totals = []
    for _ in range(4):
        clock.now += SAVE_S
        totals += [tick(runner), tick(joined)]

    assert totals == [67.0, 67.0, 72.0, 72.0, 77.0, 77.0, 82.0, 82.0]
    assert (runner.is_counting, joined.is_counting) == (True, False)


def test_a_joined_process_takes_over_counting_after_a_long_silence(clock: Clock, storage: tuple[Storage, int]) -> None:
    joined = RunTimeCounter(*storage, since=None, now=clock)

    clock.now += SILENCE_S - 1.0
    before = tick(joined)
    clock.now += 1.0
    after = tick(joined)
    clock.now += SAVE_S
    joined.end()

    assert (before, after) == (60.0, 60.0 + SILENCE_S)
    assert stored_study.seconds_run(*storage) == 60.0 + SILENCE_S + SAVE_S


def test_a_process_that_returns_leaves_counting_to_its_successor(clock: Clock, storage: tuple[Storage, int]) -> None:
    frozen, joined = (
        RunTimeCounter(*storage, since=clock.now, now=clock),
        RunTimeCounter(*storage, since=None, now=clock),
    )
    clock.now += SILENCE_S
    tick(joined)
    clock.now += SAVE_S
    tick(joined)

    tick(frozen)
    frozen.end()
    clock.now += SAVE_S
    tick(joined)

    assert (frozen.is_counting, joined.is_counting) == (False, True)
    assert stored_study.seconds_run(*storage) == 60.0 + SILENCE_S + 2 * SAVE_S
