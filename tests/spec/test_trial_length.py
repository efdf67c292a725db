"""The length of a full trial of a search."""

import pytest

from search.spec.trial_length import DEFAULT_EPOCHS, FULL_TRIALS, MAX_EPOCHS, MIN_UPDATES, epochs_per_trial


def epochs(
    *,
    images: int = 10_000,
    judged: int = 0,
    batch_size: int = 100,
    speed: float = 1000.0,
    search_s: float | None = 800.0,
) -> float:
    return epochs_per_trial(
        images=images, judged=judged, batch_size=batch_size, images_per_second=speed, search_s=search_s, workers=2
    )


def test_eight_full_trials_fit_into_the_time_of_the_search() -> None:
    seconds = epochs() * 10_000 / 1000.0

    assert seconds * FULL_TRIALS == pytest.approx(2 * 800.0)


def test_the_time_of_evaluations_counts() -> None:
    seconds = epochs(judged=30_000) * 10_000 / 1000.0 + 30_000 / 3 / 1000.0

    assert seconds * FULL_TRIALS == pytest.approx(2 * 800.0)


def test_a_trial_has_the_minimum_of_updates_even_with_little_time() -> None:
    assert epochs(search_s=1.0) * 10_000 / 100 == pytest.approx(MIN_UPDATES)


def test_the_number_of_epochs_has_a_maximum_for_few_images() -> None:
    assert epochs(images=50, batch_size=10) == MAX_EPOCHS


def test_without_hours_a_trial_has_default_epochs_or_the_minimum_of_updates() -> None:
    assert epochs(search_s=None, images=100_000) == DEFAULT_EPOCHS
    assert epochs(search_s=None, images=1000) * 1000 / 100 == MIN_UPDATES
