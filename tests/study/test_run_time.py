"""The time of a study is counted once, whoever works on it: by who runs it, and when that one is gone by who joined."""

from collections.abc import Callable, Iterator

import pytest

from search.storage import attr_keys
from search.storage.rdb import Storage
from search.study import stored_study
from search.study.run_time import SAVE_S, SILENCE_S, RunTimeCounter
from tests.databases import BOTH

pytestmark = BOTH


class Watch:
    """A clock that shows what it is told."""

    def __init__(self) -> None:
        self.shows = 1000.0

    def __call__(self) -> float:
        return self.shows


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def storage(url: str, make_study: Callable[[int], int]) -> Iterator[tuple[Storage, int]]:
    """A storage, and in it a study that has been run for a minute."""
    study_id, storage = make_study(3), Storage(url)
    stored_study.set_attrs(storage, study_id, {attr_keys.SECONDS_RUN: 60.0})
    yield storage, study_id
    storage.engine.dispose()


def tick(one: RunTimeCounter) -> float:
    return one.tick(stored_study.seconds_run(one.storage, one.study_id))


def test_who_runs_a_study_counts_and_who_joined_reads(watch: Watch, storage: tuple[Storage, int]) -> None:
    runs, joins = (
        RunTimeCounter(*storage, since=watch.shows - 2.0, now=watch),
        RunTimeCounter(*storage, since=None, now=watch),
    )
    totals = []
    for _ in range(4):
        watch.shows += SAVE_S
        totals += [tick(runs), tick(joins)]

    assert totals == [67.0, 67.0, 72.0, 72.0, 77.0, 77.0, 82.0, 82.0]
    assert (runs.is_counting, joins.is_counting) == (True, False)


def test_who_joined_counts_on_when_nobody_has_stored_anything_for_long(
    watch: Watch, storage: tuple[Storage, int]
) -> None:
    joins = RunTimeCounter(*storage, since=None, now=watch)

    watch.shows += SILENCE_S - 1.0
    before = tick(joins)
    watch.shows += 1.0
    taken = tick(joins)
    watch.shows += SAVE_S
    joins.end()

    assert (before, taken) == (60.0, 60.0 + SILENCE_S)
    assert stored_study.seconds_run(*storage) == 60.0 + SILENCE_S + SAVE_S


def test_who_comes_back_finds_that_another_one_counts_and_leaves_it_to_that(
    watch: Watch, storage: tuple[Storage, int]
) -> None:
    frozen, joins = (
        RunTimeCounter(*storage, since=watch.shows, now=watch),
        RunTimeCounter(*storage, since=None, now=watch),
    )
    watch.shows += SILENCE_S
    tick(joins)
    watch.shows += SAVE_S
    tick(joins)

    tick(frozen)
    frozen.end()
    watch.shows += SAVE_S
    tick(joins)

    assert (frozen.is_counting, joins.is_counting) == (False, True)
    assert stored_study.seconds_run(*storage) == 60.0 + SILENCE_S + 2 * SAVE_S
