"""The report in a real browser, from a file and without a network: figures and content policy."""

import subprocess
from pathlib import Path

from tests.browser.browser import NEEDS_BROWSER, opened
from tests.harness import PATIENCE_S, Harness

pytestmark = NEEDS_BROWSER


def test_the_report_draws_every_figure_and_violates_no_content_policy(harness: Harness, tmp_path: Path) -> None:
    file = harness.write(
        budget={"trials": 8, "epochs": 2},
        search={"pruner": "asha", "sampler": "random"},
        space={"activation": ["relu", "gelu"], "width": {"low": 4, "high": 12}},
    )
    assert harness.run("run", file, "--workers", "2").code == 0
    path = harness.folder / "s.html"
    assert harness.run("report", "s", "--to", str(path)).code == 0
    flags = ("--virtual-time-budget=15000", "--dump-dom", "--enable-logging=stderr", "--proxy-server=127.0.0.1:1")

    with opened(f"file://{path}", tmp_path / "profile", *flags, errors=subprocess.PIPE) as process:
        page, log = process.communicate(timeout=PATIENCE_S)

    figures = page.count("data-figure=")
    assert figures >= 6
    assert page.count('class="main-svg"') >= figures
    assert "Content Security Policy" not in log
    assert "Uncaught" not in log
