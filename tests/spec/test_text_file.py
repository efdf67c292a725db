"""The encodings and line ends of study files."""

from pathlib import Path

import pytest

from search.errors import SpecError
from search.spec import study_spec

TEXT = 'question = "Größe 红花?"\n[budget]\ntrials = 3\nepochs = 1\n[space]\nwidth = [8, 16]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "s.toml"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_a_study_file_may_have_a_byte_order_mark_and_any_line_ends(file: Path, encoding: str, end: str) -> None:
    mark = "\ufeff" if encoding.endswith("-be") else ""  # the other codecs write one themselves
    file.write_bytes((mark + TEXT.replace("\n", end)).encode(encoding))

    spec = study_spec.load(file)

    assert spec.question == "Größe 红花?"
    assert spec.budget.trials == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_a_mistake_is_reported_with_its_line_in_the_editor(file: Path, encoding: str, end: str) -> None:
    file.write_bytes(TEXT.replace("epochs = 1", "epochs = = 1").replace("\n", end).encode(encoding))

    with pytest.raises(SpecError, match=r"\(at line 4, column 10\)"):
        study_spec.load(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            TEXT.replace("红花", "").encode("latin-1"), "byte 0xf6 (at line 1, column 15) is not UTF-8", id="l1"
        ),
        pytest.param(b'a = 1\r\nb = "\x92"', "byte 0x92 (at line 2, column 6) is not UTF-8", id="cp1252"),
        pytest.param(b'\xef\xbb\xbfa = "\xfc"', "byte 0xfc (at line 1, column 6) is not UTF-8", id="mark"),
        pytest.param(
            TEXT.encode("utf-16")[:-1], "byte 0x0a (at line 6, column 16) is not UTF-16-LE", id="half a character"
        ),
        pytest.param(b"a\0=\x001\0", "there is a NUL character (at line 1, column 2)", id="no mark"),
        pytest.param(b"[budget]\nepochs = \0 1\n", "there is a NUL character (at line 2, column 10)", id="NUL"),
    ],
)
def test_a_file_in_another_encoding_is_refused_with_the_place_and_the_remedy(
    file: Path, content: bytes, message: str
) -> None:
    file.write_bytes(content)

    with pytest.raises(SpecError) as refused:
        study_spec.load(file)

    assert str(refused.value) == f"{file}: {message}; save the file as UTF-8"


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"# later\n\n"], ids=["empty", "mark", "comment"])
def test_an_empty_file_is_called_empty(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    with pytest.raises(SpecError, match="the file is empty, or has nothing but comments"):
        study_spec.load(file)
