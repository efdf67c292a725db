"""data/zip_names.py: names of the members of a zip, in UTF-8 and in code pages of DOS and Windows."""

import io
import zipfile

import pytest

from data.errors import DataError
from data.zip_names import ZipNames
from tests.data.zips import IS_UTF8, Member, infos_of, unicode_path, zipped

#: Names of classes in the encodings of archivers of their countries.
CODE_PAGES: dict[str, tuple[str, list[str]]] = {
    "japanese": ("cp932", ["赤い花", "緑の葉", "青い空"]),
    "japanese-katakana": ("cp932", ["リンゴ", "バナナ", "ソース"]),  # the second byte of SO is a backslash
    "korean": ("cp949", ["고양이", "강아지", "꽃"]),
    "chinese": ("gbk", ["红花", "绿叶", "蓝天"]),
    "chinese-traditional": ("cp950", ["紅花", "綠葉", "藍天"]),
    "russian-dos": ("cp866", ["кошка", "собака", "Птица"]),
    "russian-windows": ("cp1251", ["кошка", "собака", "Птица"]),
    "german-dos": ("cp437", ["grün", "Äpfel", "weiß"]),
    "french-dos": ("cp437", ["rosé", "forêt", "garçon"]),
    "german-windows": ("cp1252", ["grün", "Äpfel", "weiß"]),
    "french-windows": ("cp1252", ["rosé", "forêt", "garçon"]),
    "greek-dos": ("cp737", ["γάτα", "σκύλος"]),
    "greek-windows": ("cp1253", ["γάτα", "σκύλος", "πουλί"]),
    "arabic-windows": ("cp1256", ["قطة", "كلب"]),
    "polish-windows": ("cp1250", ["żółty", "święto"]),
    "polish-dos": ("cp852", ["żółty", "święto"]),
}
#: Their bytes are letters of another script, too, which is taken first and said.
AMBIGUOUS: dict[str, tuple[str, list[str]]] = {
    "hebrew-windows": ("cp1255", ["חתול", "כלב"]),
    "thai": ("cp874", ["แมว", "หมา"]),
}


def names_of(*raw: bytes, encoding: str | None = None) -> ZipNames:
    return ZipNames(infos_of(*raw), encoding=encoding)


@pytest.mark.parametrize(("encoding", "classes"), CODE_PAGES.values(), ids=CODE_PAGES)
def test_names_in_a_code_page_are_read_and_said(encoding: str, classes: list[str]) -> None:
    paths = [f"train/{name}/{number}.jpg" for name in classes for number in range(3)]

    names = names_of(*(path.encode(encoding) for path in paths))

    assert names.names == paths
    (note,) = names.notes
    assert "the zip does not tell the encoding of its names, which are read as cp" in note.replace("gbk", "cp")
    assert f"'train/{min(classes)}'" in note
    assert 'set [data] name_encoding = "..."' in note


@pytest.mark.parametrize("name", ["train/Grün/1.jpg", "train/赤い花/1.jpg", "train/\U0001f499/1.jpg"])
@pytest.mark.parametrize("flags", [0, IS_UTF8], ids=["untold", "told"])
def test_names_in_utf_8_are_read_without_a_word(name: str, flags: int) -> None:
    names = ZipNames(infos_of(name.encode(), b"train/cat/1.jpg", flags=flags))

    assert (names.names, names.notes) == ([name, "train/cat/1.jpg"], ())


def test_names_in_ascii_are_read_without_a_word() -> None:
    names = names_of(b"train/cat/1.jpg", b"train/dog~1/1.jpg")

    assert (names.names, names.notes) == (["train/cat/1.jpg", "train/dog~1/1.jpg"], ())


@pytest.mark.parametrize(("encoding", "classes"), (CODE_PAGES | AMBIGUOUS).values(), ids=CODE_PAGES | AMBIGUOUS)
def test_a_given_encoding_is_used(encoding: str, classes: list[str]) -> None:
    names = names_of(*(name.encode(encoding) for name in classes), encoding=encoding)

    assert (names.names, names.notes) == (classes, ())


def test_a_name_that_is_not_in_the_given_encoding_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"a name that is not cp932: b'train/\\x85\\xff'; set \[data\] name_encoding to its"
    ):
        names_of(b"train/\x85\xff", encoding="cp932")


def test_a_given_encoding_does_not_change_names_in_told_utf_8() -> None:
    assert ZipNames(infos_of("grün".encode(), flags=IS_UTF8), encoding="cp932").names == ["grün"]


def test_names_that_fit_no_encoding_are_refused_with_the_way_out() -> None:
    with pytest.raises(
        DataError, match=r"none fits: b'train/\\x81\\x01\\xff/1.jpg'; set \[data\] name_encoding, such as"
    ):
        names_of(b"train/\x81\x01\xff/1.jpg")


def test_the_name_in_the_extra_field_is_used() -> None:
    raw = "train/gr?n/1.jpg".encode("cp437")
    member = Member(extra=b"\x55\x54\1\0\0" + unicode_path(raw, "train/grün/1.jpg"))

    with zipfile.ZipFile(io.BytesIO(zipped({raw: member, b"train/\x81\x01\xff": Member()}))) as archive:
        infos = archive.infolist()

    assert ZipNames(infos[:1]).names == ["train/grün/1.jpg"]
    assert ZipNames(infos[:1]).notes == ()


def test_the_extra_field_of_a_member_that_was_renamed_is_not_used() -> None:
    raw = b"train/red/1.jpg"
    member = Member(extra=unicode_path(b"train/old/1.jpg", "train/alt/1.jpg"))

    with zipfile.ZipFile(io.BytesIO(zipped({raw: member}))) as archive:
        assert ZipNames(archive.infolist()).names == ["train/red/1.jpg"]


@pytest.mark.parametrize(
    "extra",
    [b"\x75\x70", b"\x75\x70\x05\0\1abcd", b"\x75\x70\x02\0\1a"],
    ids=["cut-header", "no-name", "too-short"],
)
def test_a_damaged_extra_field_is_not_used(extra: bytes) -> None:
    (info,) = infos_of(b"train/red/1.jpg")
    info.extra = extra

    assert ZipNames([info]).names == ["train/red/1.jpg"]


def test_the_folders_decide_and_not_one_odd_file() -> None:
    raw = [f"train/赤い花/{number}.jpg".encode("cp932") for number in range(5)] + [b"train/\xee\xfa/1.jpg"]

    assert names_of(*raw).names[0] == "train/赤い花/0.jpg"


def test_a_long_note_shows_three_folders() -> None:
    names = names_of(*(f"train/gr{letter}ün/1.jpg".encode("cp437") for letter in "abcde"))

    assert "'train/graün', 'train/grbün', 'train/grcün' and 2 more" in names.notes[0]
