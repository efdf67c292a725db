"""A new value of a choice cannot fall through: mypy reports every file that must handle it."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.packages import copy_packages, replace

pytestmark = pytest.mark.slow

#: (file, text in it, that text with one more value, that value, files in which mypy then reports an error)
NEW_VALUES = [
    ("search/spec/settings.py", '"random", "grid"]', '"random", "grid", "gp"]', "gp", {"search/study/strategy.py"}),
    ("search/spec/settings.py", '"median", "none"]', '"median", "none", "lazy"]', "lazy", {"search/pruners/asha.py"}),
    (
        "search/spec/settings.py",
        '"balanced_accuracy"]',
        '"balanced_accuracy", "f1"]',
        "f1",
        {"search/trial/final_training.py"},
    ),
    (
        "data/config.py",
        '"cifar10", "folder"]',
        '"cifar10", "folder", "web"]',
        "web",
        {"data/dataset.py"},
    ),
]


def test_a_new_sampler_pruner_metric_or_data_source_is_refused_where_it_is_not_handled(tmp_path: Path) -> None:
    copy_packages(tmp_path)
    for file, old, new, _, _ in NEW_VALUES:
        replace(tmp_path, file, old, new)

    command = [sys.executable, "-m", "mypy", "--no-error-summary", "-p", "search", "-p", "data"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    refused = defaultdict(set)
    for line in result.stdout.splitlines():
        if ": error:" in line and "assert_never" in line:
            for value in re.findall(r"'(\w+)'", line.split("incompatible type")[1].split(";")[0]):
                refused[value].add(line.split(":")[0])
    assert refused == {value: files for *_, value, files in NEW_VALUES}, result.stdout
