"""Properties of learning-rate schedules."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, ReduceLROnPlateau

from models.config import SchedulerName, TrainConfig
from models.schedule import (
    RISE_FROM,
    TURNS,
    Plateau,
    Schedule,
    constant,
    cosine,
    make_schedule,
    one_cycle,
    step,
    with_warmup,
)

PROGRESS = st.floats(0.0, 1.0)
SCHEDULES: list[SchedulerName] = list(get_args(SchedulerName))


@given(name=st.sampled_from(SCHEDULES), warmup=st.floats(0.0, 0.5), progress=PROGRESS)
def test_every_factor_lies_between_zero_and_one(name: SchedulerName, warmup: float, progress: float) -> None:
    schedule = make_schedule(TrainConfig(scheduler=name, warmup=warmup))

    assert 0.0 <= schedule(progress) <= 1.0


@given(name=st.sampled_from(SCHEDULES), warmup=st.floats(0.0, 0.5), first=PROGRESS, second=PROGRESS)
def test_after_its_rise_no_schedule_rises_again(
    name: SchedulerName, warmup: float, first: float, second: float
) -> None:
    schedule = make_schedule(TrainConfig(scheduler=name, warmup=warmup))
    top = 0.25 if name == "one_cycle" else warmup
    earlier, later = sorted((max(first, top), max(second, top)))

    assert schedule(later) <= schedule(earlier) + 1e-12


@given(peak=st.floats(0.01, 0.9), first=PROGRESS, second=PROGRESS)
def test_one_cycle_rises_to_its_peak_and_then_falls_to_zero(peak: float, first: float, second: float) -> None:
    schedule = one_cycle(peak=peak)
    earlier, later = sorted((first, second))

    assert schedule(0.0) == pytest.approx(RISE_FROM)
    assert schedule(peak) == pytest.approx(1.0)
    assert schedule(1.0) == pytest.approx(0.0)
    if later <= peak:
        assert schedule(earlier) <= schedule(later) + 1e-12
    if earlier >= peak:
        assert schedule(earlier) >= schedule(later) - 1e-12


@given(share=st.floats(0.01, 0.5), progress=PROGRESS)
def test_a_warmup_rises_linearly_to_one_and_then_the_full_schedule_runs(share: float, progress: float) -> None:
    warmed = with_warmup(cosine, share=share)

    rising = warmed(progress * share * 0.999)
    running = warmed(share + progress * (1.0 - share))

    assert rising == pytest.approx(RISE_FROM + (1.0 - RISE_FROM) * progress * 0.999)
    assert running == pytest.approx(cosine(progress), abs=1e-9)


@pytest.mark.parametrize("name", ["none", "plateau"])
def test_none_and_plateau_stay_at_one_without_warmup(name: SchedulerName) -> None:
    schedule = make_schedule(TrainConfig(scheduler=name))

    assert {schedule(progress / 10) for progress in range(11)} == {1.0}


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 1.0), (0.49, 1.0), (0.5, 0.1), (0.74, 0.1), (0.75, 0.01), (1.0, 0.01)],
)
def test_step_divides_by_ten_at_half_and_at_three_quarters(progress: float, factor: float) -> None:
    assert step(progress) == factor


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(cosine, lambda optimizer: CosineAnnealingLR(optimizer, T_max=40), id="cosine"),
        pytest.param(step, lambda optimizer: MultiStepLR(optimizer, milestones=[20, 30]), id="step"),
        pytest.param(constant, lambda optimizer: MultiStepLR(optimizer, milestones=[]), id="constant"),
    ],
)
def test_a_schedule_equals_that_of_torch_at_every_batch(ours: Schedule, theirs: type[LRScheduler]) -> None:
    optimizer = SGD([torch.zeros(1)], lr=1.0)
    scheduler = theirs(optimizer)

    for batch in range(40):
        assert ours(batch / 40) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_plateau_holds_while_the_loss_falls_and_drops_when_it_stays() -> None:
    plateau = Plateau()
    factors = []

    for turn, loss in enumerate((2.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5), 1):
        plateau.step(loss, progress=turn / 7)
        factors.append(plateau.factor)

    assert factors == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.2, 0.2, 0.04])


@given(losses=st.lists(st.floats(0.0, 10.0), max_size=12))
def test_plateau_equals_that_of_torch(losses: list[float]) -> None:
    optimizer = SGD([torch.zeros(1)], lr=1.0)
    theirs = ReduceLROnPlateau(optimizer, factor=0.2, patience=1, threshold=0.01)
    ours = Plateau()

    for turn, loss in enumerate(losses, 1):
        ours.step(loss, progress=turn / len(losses))
        theirs.step(loss)

        assert ours.factor == optimizer.param_groups[0]["lr"]


@given(losses=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=TURNS), parts=st.integers(1, 4))
def test_a_plateau_of_many_short_steps_equals_that_of_few_long_ones(losses: list[float], parts: int) -> None:
    few, many = Plateau(), Plateau()

    for turn, loss in enumerate(losses, 1):
        few.step(loss, progress=turn / TURNS)
        for part in range(parts):
            many.step(loss, progress=(turn - 1 + (part + 1) / parts) / TURNS)

        assert many.factor == few.factor


@given(losses=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=3 * TURNS), cut=st.integers(0, 60))
def test_a_resumed_plateau_ends_in_the_same_state(losses: list[float], cut: int) -> None:
    uninterrupted, before, after = Plateau(), Plateau(), Plateau()
    steps = [(loss, turn / len(losses)) for turn, loss in enumerate(losses, 1)]
    for loss, progress in steps:
        uninterrupted.step(loss, progress=progress)

    for loss, progress in steps[:cut]:
        before.step(loss, progress=progress)
    after.load_state_dict(before.state_dict())
    for loss, progress in steps[cut:]:
        after.step(loss, progress=progress)

    assert after.state_dict() == uninterrupted.state_dict()


def test_one_cycle_ignores_the_warmup() -> None:
    warm = make_schedule(TrainConfig(scheduler="one_cycle", warmup=0.5))
    plain = make_schedule(TrainConfig(scheduler="one_cycle"))

    assert [warm(i / 20) for i in range(21)] == [plain(i / 20) for i in range(21)]
    assert not math.isclose(warm(0.1), warm(0.2))
