"""A training with a time limit uses the number of threads with which its batches are faster now."""

import pytest

from search.trial.thread_tuner import BATCHES, PERIOD_S, ThreadTuner


class Machine:
    """A clock that the batches of a training move, each by the seconds of the current number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.time = 100.0
        self.threads: list[int] = []
        self.tuner = ThreadTuner(
            threads=4, on_batch=lambda: None, now=lambda: self.time, set_threads=self.threads.append
        )

    def train(self, batches: int) -> None:
        for _ in range(batches):
            self.tuner()
            self.time += self.seconds[self.threads[-1]]


@pytest.mark.parametrize(("seconds", "chosen"), [({4: 0.1, 1: 0.2}, 4), ({4: 3.0, 1: 0.2}, 1)])
def test_it_goes_on_with_the_faster_number(seconds: dict[int, float], chosen: int) -> None:
    machine = Machine(seconds)

    machine.train(2 * BATCHES + 1)

    assert machine.threads == [4, 1, chosen]


def test_it_compares_again_after_a_while() -> None:
    machine = Machine({4: 3.0, 1: 1.0})
    machine.train(2 * BATCHES + 1)

    machine.seconds = {4: 0.5, 1: 1.0}
    machine.train(round(PERIOD_S / 1.0) - 1)
    before = list(machine.threads)
    machine.train(2 * BATCHES + 2)

    assert before == [4, 1, 1]
    assert machine.threads == [4, 1, 1, 4, 1, 4]


def test_one_slow_batch_decides_nothing() -> None:
    machine = Machine({4: 0.1, 1: 0.2})
    machine.train(2)
    machine.time += 60.0

    machine.train(2 * BATCHES)

    assert machine.threads[-1] == 4


def test_the_callback_of_the_training_is_called_before_each_batch() -> None:
    calls: list[None] = []
    tuner = ThreadTuner(threads=2, on_batch=lambda: calls.append(None), set_threads=lambda threads: None)

    for _ in range(5):
        tuner()

    assert len(calls) == 5
