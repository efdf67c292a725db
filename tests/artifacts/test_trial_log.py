"""The log of a trial is plain text, and a failed write to it never stops a trial."""

import re
from pathlib import Path

from search.artifacts.study_dir import append_log


def test_every_event_starts_with_its_time_and_further_lines_are_indented(tmp_path: Path) -> None:
    log = tmp_path / "trial-00000" / "log.txt"

    append_log(log, "step 1: 0.5")
    append_log(log, "failed:\nTraceback\n  ValueError\n")

    first, second, *rest = log.read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d step 1: 0\.5", first)
    assert second.endswith("failed:")
    assert rest == ["    Traceback", "      ValueError"]


def test_a_log_that_cannot_be_written_raises_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    append_log(tmp_path / "file" / "log.txt", "step 1")

    assert (tmp_path / "file").read_text() == "in the way"


def test_text_that_is_not_valid_unicode_is_escaped(tmp_path: Path) -> None:
    append_log(tmp_path / "log.txt", "no such file: \udcff.png")

    assert "no such file: \\udcff.png" in (tmp_path / "log.txt").read_text()
