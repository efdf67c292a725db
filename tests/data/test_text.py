"""data/text.py: names of classes and files."""

import unicodedata

import pytest

from data.text import canonical, is_printable, some

PRINTABLE = {
    "latin": "chat siamois",
    "umlaut": "Grün",
    "zero-width-non-joiner": "\u0645\u06cc\u200c\u0634\u0648\u062f",
    "zero-width-joiner": "\u0915\u094d\u200d\u0937",
    "no-break-space": "rouge\u00a0vif",
    "ideographic-space": "\u8d64\u3044\u3000\u82b1",
    "family-emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "variation-selector": "\u2764\ufe0f",
    "combining": "e\u0301",
    "markup": "red|pipe <b>x</b>",
    "quotes": "gr\"een, 'x'",
    "formula": "=1+1",
    "left-to-right-mark": "a\u200eb",
    "unassigned": "a\u0378",
    "private": "a\ue000",
}
UNPRINTABLE = {
    "line": "a\nb", "return": "a\rb", "tab": "a\tb", "escape": "\x1b[2J", "nul": "a\0b", "delete": "a\x7f",
    "c1": "a\x9b2Jb", "next-line": "a\x85b", "line-separator": "a\u2028b", "paragraph-separator": "a\u2029b",
    "byte-of-latin-1": "caf\udce9", "override": "\u202egnp", "embedding": "a\u202bb", "isolate": "a\u2067b",
    "pop-isolate": "a\u2069",
}  # fmt: skip


@pytest.mark.parametrize("name", PRINTABLE.values(), ids=PRINTABLE)
def test_names_of_any_script_are_printable(name: str) -> None:
    assert is_printable(name)


@pytest.mark.parametrize("name", UNPRINTABLE.values(), ids=UNPRINTABLE)
def test_characters_that_break_a_line_or_hide_text_are_not(name: str) -> None:
    assert not is_printable(name)


@pytest.mark.parametrize("name", ["rosé", "Grün", "한국", "が", "Ångström"])
def test_both_unicode_forms_of_a_name_are_one(name: str) -> None:
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]

    assert forms[0] != forms[1]
    assert canonical(forms[0]) == canonical(forms[1]) == forms[0]


@pytest.mark.parametrize(("one", "other"), [("\ufb01", "fi"), ("\uff21", "A"), ("A", "a"), ("\u200c", "")], ids=ascii)
def test_names_that_only_look_alike_stay_two(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def test_some_names_are_shown_and_the_others_counted() -> None:
    assert some(["b", "a"]) == "'a', 'b'"
    assert some("fedcba") == "'a', 'b', 'c', 'd', 'e' and 1 more"
    assert some("dcba", 2) == "'a', 'b' and 2 more"
    assert some([]) == ""
