"""data/statistics.py: statistics of training images."""

from data.statistics import ImageStatistics, MirrorTest


def statistics(*counts: int) -> ImageStatistics:
    return ImageStatistics(
        classes=tuple(f"c{number}" for number in range(len(counts))),
        counts=counts,
        side=32,
        fit="crop",
        is_grey=False,
        mirror=MirrorTest(recognised=10, mirrored=10, lost=0),
    )


def test_the_images_of_all_classes_count() -> None:
    assert statistics(3, 4, 5).images == 12


def test_imbalance_is_the_largest_class_over_the_smallest() -> None:
    assert statistics(100, 5, 20).imbalance == 20
    assert statistics(7, 7).imbalance == 1


def test_a_class_without_training_images_counts_as_one_of_one_image() -> None:
    assert statistics(6, 0).imbalance == 6


def test_statistics_survive_json() -> None:
    original = statistics(3, 4)
    assert ImageStatistics.model_validate(original.model_dump(mode="json")) == original
