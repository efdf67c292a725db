"""No input can run code: no pickle, no eval, no shell, and no checkpoint that names code."""

import ast
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from search.artifacts import checkpoint
from search.artifacts.checkpoint import Header
from search.trial import runner
from tests.harness import Harness, work

ROOT = Path(__file__).parents[2]
FILES = [file for package in ("data", "models", "search") for file in sorted((ROOT / package).rglob("*.py"))]
#: Modules that build objects from bytes by calling functions that the bytes name.
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml", "pandas"}
#: Functions that run text, by their last names.
RUNNERS = {"eval", "exec", "compile", "__import__", "system", "popen", "unsafe_load", "literal_eval", "read_pickle"}
#: Loaders that run no code with this argument.
SAFE_ARGUMENTS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
#: The module that runs a command that its user typed, and nothing that was read.
TYPED = {"cli/on_end.py": "line 23: subprocess.run may start a shell"}
HEADER = Header(study="u", trial=3, step=4, batch=40, seconds=12.5, curve=((1, 0.5),))


class Evil:
    """Makes a folder when pickle loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_no_module_runs_code_that_it_reads(file: Path) -> None:
    faults = list(faults_of(ast.parse(file.read_text())))

    expected = TYPED.get(f"{file.parent.name}/{file.name}")
    assert faults == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import xml, pickle as p",
        "from pickle import loads",
        "from yaml import load",
        "from torch import load",
        "import_module('dill')",
        "eval(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "subprocess.run(text, shell=wanted)",
        "np.load(file)",
        "np.load(file, allow_pickle=True)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=wanted)",
        "torch.load(file, **options)",
    ],
)
def test_the_check_finds_code_that_is_run(line: str) -> None:
    assert list(faults_of(ast.parse(line)))


def faults_of(tree: ast.AST) -> Iterator[str]:
    """One line for each place in a module that could run its input."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"line {node.lineno}: {alias.name}" for alias in node.names if _is_pickle(alias.name))
        if isinstance(node, ast.ImportFrom):
            imported = {f"{node.module}.{alias.name}" for alias in node.names} & SAFE_ARGUMENTS.keys()
            yield from (f"line {node.lineno}: {name}" for name in imported | {node.module or ""} if _is_faulty(name))
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {fault}" for fault in _call_faults(node))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_pickle(node.value):
            yield f"line {node.lineno}: {node.value!r} may be imported by its name"


def _call_faults(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    arguments = {
        keyword.arg: keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
        for keyword in call.keywords
    }
    if name.split(".")[-1] in RUNNERS and call.args and name != "re.compile":  # model.eval() has nothing to run
        yield f"{name} runs text"
    if arguments.get("shell", False) is not False:
        yield f"{name} may start a shell"
    if name in SAFE_ARGUMENTS and arguments.get(SAFE_ARGUMENTS[name][0]) is not SAFE_ARGUMENTS[name][1]:
        yield f"{name} needs {SAFE_ARGUMENTS[name][0]}={SAFE_ARGUMENTS[name][1]}"


def _is_pickle(name: str) -> bool:
    return name.split(".")[0] in PICKLES


def _is_faulty(name: str) -> bool:
    return _is_pickle(name) or name in SAFE_ARGUMENTS


def test_a_checkpoint_that_names_code_is_corrupt_and_the_code_does_not_run(tmp_path: Path) -> None:
    path = plant(tmp_path, HEADER, tmp_path / "owned")

    with pytest.raises(checkpoint.CorruptCheckpoint, match=r"step-.*\.ckpt has invalid content"):
        checkpoint.load(path)

    assert not (tmp_path / "owned").exists()


def test_the_same_checkpoint_runs_its_code_when_pickle_loads_it(tmp_path: Path) -> None:
    path = plant(tmp_path, HEADER, tmp_path / "owned")
    payload = path.read_bytes().split(b"\n", 3)[3]
    (tmp_path / "payload").write_bytes(payload)

    torch.load(tmp_path / "payload", weights_only=False)

    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "head",
    [b"", b"{}", b"[]", b"null", b'{"curve": 7}', b"\xff\xfe", b'{"curve": [], "study": {}}', b"[" * 100_000],
    ids=["empty", "no-fields", "list", "null", "odd-curve", "no-unicode", "missing", "deep"],
)
def test_a_checkpoint_with_a_foreign_header_is_corrupt(tmp_path: Path, head: bytes) -> None:
    path = write_checkpoint(tmp_path, head, b"")

    with pytest.raises(checkpoint.CorruptCheckpoint, match="has invalid content"):
        checkpoint.load(path)


def test_a_trial_skips_a_checkpoint_that_names_code_with_a_note_in_its_log(harness: Harness) -> None:
    context = runner.open_training_context(harness.create(budget={"trials": 1, "epochs": 2}))
    owned = harness.folder / "owned"
    plant(harness.dirs.trial("s", 0), replace(HEADER, study=context.study.uid, trial=0), owned)

    row = work(context)

    assert (row.state, row.number, owned.exists()) == ("COMPLETE", 0, False)
    assert [step for step, _ in row.curve] == [1, 2]
    assert "passed over a checkpoint: " in harness.dirs.log("s", 0).read_text()


def plant(folder: Path, header: Header, owned: Path) -> Path:
    """Write a checkpoint with a valid hash whose state makes the folder `owned` when pickle loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": Evil(owned)}, folder / "evil")
    return write_checkpoint(folder, json.dumps(asdict(header)).encode(), (folder / "evil").read_bytes())


def write_checkpoint(folder: Path, head: bytes, payload: bytes) -> Path:
    content = head + b"\n" + payload
    path = folder / "step-00000004-000000000040.ckpt"
    path.write_bytes(checkpoint.MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    return path
