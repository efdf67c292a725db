"""Names of classes on pages and pictures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.display_names import isolated, shortened, visible

#: Names that are shown as they are.
PLAIN = {
    "ascii": "red|pipe <b>x</b>",
    "umlaut": "Grün",
    "chinese": "红花",
    "japanese, ideographic space": "赤い\u3000花",
    "persian, non-joiner": "می\u200cشود",
    "hindi": "हिन्दी",
    "hindi, joiner": "क्\u200dष",
    "half form at the end": "क्\u200d",
    "no-break space": "rouge\u00a0vif",
    "family": "👨\u200d👩\u200d👧",
    "skin tone and profession": "👩🏽\u200d🔬",
    "heart with selector": "❤\ufe0f",
    "keycap": "1\ufe0f\u20e3",
    "scotland": "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "japan": "🇯🇵",
    "newer than Python": "\U0001fae8",
}
#: Names with characters that cannot be seen, or that move others, and what is shown.
CODED = {
    "escape": ("a\x1b[31mb", r"a\x1b[31mb"),
    "newline": ("a\nb", r"a\nb"),
    "override": ("a\u202eb", r"a\u202eb"),
    "isolate": ("\u2067ab", r"\u2067ab"),
    "soft hyphen": ("a\u00adb", r"a\xadb"),
    "zero width space": ("ab\u200b", r"ab\u200b"),
    "joiner between Latin letters": ("c\u200dat", r"c\u200dat"),
    "joiner behind Chinese": ("猫\u200d猫", r"猫\u200d猫"),
    "selector behind a letter": ("a\ufe0f", r"a\ufe0f"),
    "tag without a flag": ("a\U000e0067", r"a\U000e0067"),
    "undecodable byte": ("caf\udce9", r"caf\udce9"),
    "space at the end": ("cat ", r"cat\x20"),
    "hangul filler": ("a\u3164", r"a\u3164"),
    "private use": ("a\ue000", r"a\ue000"),
    "backslash": (r"a\u202eb", r"a\\u202eb"),
}


@pytest.mark.parametrize("name", PLAIN.values(), ids=PLAIN)
def test_a_name_in_any_script_is_shown_as_it_is(name: str) -> None:
    assert visible(name) == name


@pytest.mark.parametrize(("name", "shown"), CODED.values(), ids=CODED)
def test_a_character_that_cannot_be_seen_or_moves_others_is_shown_by_its_code(name: str, shown: str) -> None:
    assert visible(name) == shown


#: Letters, invisible characters and codes, which are easily taken for one another.
ODD = st.text(st.sampled_from("ab\\xu20e \u202e\u200d\u200c\ufe0fس猫👩"), max_size=8)


@given(ODD, ODD)
def test_different_names_are_shown_differently(one: str, other: str) -> None:
    assert (visible(one) == visible(other)) == (one == other)


@given(st.lists(st.one_of(ODD, st.text("ab", min_size=10, max_size=40)), unique=True, max_size=6), st.integers(3, 20))
def test_different_names_stay_different_when_they_are_shortened(names: list[str], width: int) -> None:
    assert len(set(shortened(names, width))) == len(names)


def test_the_middle_of_a_long_name_is_left_out_as_far_as_others_allow() -> None:
    flower = "a" * 30

    names = shortened(["cat", f"{flower}{'b' * 50}", f"{flower}{'c' * 50}", "红花" * 20, "👨\u200d👩\u200d👧" * 9], 12)

    assert names == ("cat", "aaaaaa…bbbbb", "aaaaaa…ccccc", "红花红…红花", "👨\u200d👩\u200d👧…")


def test_names_that_differ_in_their_middle_are_shown_long_enough() -> None:
    one, other = (f"{'a' * 20}{middle}{'b' * 20}" for middle in "xy")

    names = shortened([one, other, "c" * 50], 12)

    assert len(set(names)) == 3
    assert names[2] == "cccccc…ccccc"
    assert all(middle in name for middle, name in zip("xy", names[:2], strict=True))


def test_only_a_name_from_right_to_left_is_isolated() -> None:
    assert isolated("سبز") == "\u2068سبز\u2069"
    assert isolated("red") == "red"
    assert isolated("red \u202eسبز") == "\u2068red \\u202eسبز\u2069"
