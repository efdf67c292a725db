"""A study file is data: it cannot name code, and a hostile file is refused in one line."""

from pathlib import Path

import pytest

from tests.harness import Answer, Harness

FILES = {
    "target": b'[space]\n_target_ = "os.system"\n',
    "target-in-a-range": b'[space]\nwidth = { _target_ = "os.system", low = 1, high = 2 }\n',
    "class": b'[data]\n__class__ = "subprocess.Popen"\nargs = ["touch", "owned"]\n',
    "import": b'import = "os"\n[space]\nwidth = [8, 16]\n',
    "yaml": b'[space]\nwidth = !!python/object/apply:os.system ["touch owned"]\n',
    "yaml-text": b'[space]\nactivation = ["!!python/object/apply:os.system", "relu"]\n',
    "expression": b"[budget]\nepochs = \"__import__('os').system('touch owned')\"\n",
    "format": b'[space]\nactivation = ["{0.__class__.__mro__}", "%(x)s"]\n',
    "environment": b'[data]\nsource = "${HOME}"\n',
    "choice": b'[space]\nnorm = ["batch", "/etc/passwd"]\n',
    "nul": b'question = "a\0b"\n',
    "control": b'question = "a\x1b[2Jb"\n',
    "latin-1": 'question = "größer"\n'.encode("latin-1"),
    "utf-16": 'question = "a"\n'.encode("utf-16"),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(100),
    "twice": b"[space]\n[space]\n",
    "huge-number": b"[budget]\ntrials = " + b"9" * 4000 + b"\n",
    "too-huge-number": b"[budget]\ntrials = " + b"9" * 5000 + b"\n",
    "base-of-the-system": b'base = "/etc/passwd"\n',
    "base-without-end": b'base = "/dev/zero"\n',
    "base-itself": b'base = "./evil.toml"\n',
    "base-of-another": b'base = "~root/.ssh/config.toml"\n',
    "base-code": b'base = "$(touch owned)"\n',
    "base-url": b'base = "https://example.org/x.toml"\n',
    "base-nul": b'base = "x\\u0000.toml"\n',
    "base-control": b'base = "~\\u001b[2J/\\u001b[2J.toml"\n',
    "base-long": b'base = "' + b"../" * 20_000 + b'x.toml"\n',
    "remove": b'base = "cifar10"\nremove = ["__class__"]\n',
    "deep-list": b"question = " + b"[" * 90_000,
    "deep-table": b"[a" + b".a" * 20_000 + b"]\n",
    "deep-inline": b"space = " + b"{a=" * 30_000,
}
VERBS = pytest.mark.parametrize("verb", ["validate", "run"])


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@VERBS
def test_a_hostile_study_file_is_refused_in_one_line(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, verb: str, content: bytes
) -> None:
    monkeypatch.chdir(harness.folder)
    Path("evil.toml").write_bytes(content)

    answer = harness.run(verb, "evil.toml")

    assert_refused_in_one_line(harness, answer)


@VERBS
def test_a_study_file_of_100_megabytes_is_refused_for_its_size(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(harness.folder)
    with Path("evil.toml").open("wb") as file:
        file.truncate(100_000_000)  # sparse: it takes no room on the disk

    answer = harness.run(verb, "evil.toml")

    assert_refused_in_one_line(harness, answer)
    assert "a study file has at most 100 kB" in answer.err


def assert_refused_in_one_line(harness: Harness, answer: Answer) -> None:
    """Assert that evil.toml was refused by its name, and that nothing but the database was written."""
    assert answer.code == 78, answer.err
    assert answer.out == ""
    assert answer.err.startswith("convsearch: evil.toml")
    assert answer.err.count("\n") == 1
    assert answer.err.removesuffix("\n").isprintable()
    assert not Path("owned").exists()
    assert {path.name for path in harness.folder.iterdir()} <= {"evil.toml", "home"}
