"""Figures: the names of classes on the axes of a confusion matrix, and under the pointer."""

from collections.abc import Sequence

import numpy as np
import pytest

from search.analysis import charts

LONG = [f"{'a' * 30}{letter * 50}" for letter in "bc"]


def shown(classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """The labels of the rows of a confusion matrix, and the names of their true classes under the pointer."""
    (heatmap,) = charts.confusion(np.eye(len(classes), dtype=int).tolist(), classes).data
    names = [f"{row[0][0]}" for row in heatmap.customdata] if heatmap.customdata is not None else []
    assert list(heatmap.x) == list(heatmap.y)
    return list(heatmap.y), names


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("红花", "红花"),
        ("می\u200cشود", "می\u200cشود"),
        ("red|pipe <b>x</b> &amp;", "red|pipe &lt;b&gt;x&lt;/b&gt; &amp;amp;"),
        ("a\u202eb", r"a\u202eb"),
    ],
)
def test_a_name_in_any_script_stands_on_the_axis_as_text(name: str, label: str) -> None:
    assert shown([name, "cat"]) == ([label, "cat"], [label, "cat"])


def test_long_names_with_the_same_beginning_differ_and_are_in_full_under_the_pointer() -> None:
    labels, names = shown([*LONG, "cat"])

    assert labels == ["aaaaaaaaaaaa…bbbbbbbbbbb", "aaaaaaaaaaaa…ccccccccccc", "cat"]
    assert names == [*LONG, "cat"]


def test_many_long_names_are_not_repeated_for_every_cell() -> None:
    classes = [f"{number:03}{'a' * 100}" for number in range(100)]

    labels, names = shown(classes)

    assert len(set(labels)) == 100
    assert names == []


def test_names_of_digits_keep_their_order() -> None:
    figure = charts.confusion(np.eye(3, dtype=int).tolist(), ["10", "2", "2021-01-01"])

    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("category", "category")
