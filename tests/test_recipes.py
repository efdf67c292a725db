"""The README's recipes for additions, followed in a copy of the packages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import PATIENCE_S, toml
from tests.packages import ROOT, copy_packages, replace

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("test_recipes")]  # one copy for all
STRIPES = '''
"""Images of two classes: stripes that lie, and stripes that stand."""

from dataclasses import dataclass

import numpy as np

from data.contents import Contents, DecodingResult, Pixels
from data.preprocessing import Preprocessing
from data.progress import Advance, Say


@dataclass
class Stripes:
    """A source of drawn stripes."""

    side: int
    name: str = "stripes"

    def key(self) -> str:
        return f"stripes-{self.side}"

    def notes(self) -> tuple[str, ...]:
        return ()

    def open(self, say: Say) -> Contents:
        train, test = (np.arange(count, dtype=np.int64) % 2 for count in (400, 40))

        def fill(train_images: Pixels, test_images: Pixels, advance: Advance) -> DecodingResult:
            rng = np.random.default_rng(0)
            for labels, images in ((train, train_images), (test, test_images)):
                for index, label in enumerate(labels):
                    stripes = np.arange(self.side)[:, None, None] % 2 * 200
                    image = rng.integers(0, 50, images.shape[1:]) + stripes
                    images[index] = image if label else image.transpose(1, 0, 2)
                    advance(1)
            return DecodingResult(preprocessing=Preprocessing(side=self.side))

        return Contents(classes=("lying", "standing"), train_labels=train, test_labels=test, fill=fill)
'''

RUN_AND_SHOW = """
import contextlib, sys
from search.cli.main import main
with contextlib.redirect_stdout(sys.stderr):
    code = main(["run", "s.toml", "--workers", "1"])
sys.exit(code or main(["show", "s", "0"]))
"""


def files_of_recipe(heading: str) -> set[str]:
    """The files that a recipe of the README names."""
    text = (ROOT / "README.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"`((?:data|models|search)/[\w/]+\.py)`", text))


def check(copy: Path) -> None:
    """Fail if mypy finds a place that does not handle the addition."""
    command = [sys.executable, "-m", "mypy", "-p", "search", "-p", "data", "-p", "models"]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def run(copy: Path, data: dict[str, object], space: dict[str, object]) -> str:
    """Train one small trial with the packages of the copy, and return the output of `show`."""
    study = {
        "data": {"image_size": 8, "validation": 80, **data},
        "budget": {"trials": 1, "epochs": 1},
        "search": {"pruner": "none"},
        "space": {"conv_layers": 1, "width": [8, 16], "dense_layers": 0, "batch_size": 32, **space},
    }
    (copy / "s.toml").write_text(toml(study))
    environment = os.environ | {"PYTHONPATH": str(copy), "CONVSEARCH_CACHE": str(copy / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", RUN_AND_SHOW],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of `show` for a trial of packages to which an activation and a data source are added."""
    copy = tmp_path_factory.mktemp("copy")
    copy_packages(copy)
    add_activation(copy)
    add_data_source(copy)
    check(copy)
    return run(copy, {"source": "stripes"}, {"activation": "mish"})


def add_activation(copy: Path) -> None:
    replace(copy, "models/config.py", '"gelu", "silu"]', '"gelu", "silu", "mish"]')
    replace(
        copy,
        "models/layers.py",
        '        case "silu":\n            return nn.SiLU()\n',
        '        case "silu":\n            return nn.SiLU()\n        case "mish":\n            return nn.Mish()\n',
    )


def test_an_activation_is_added_in_the_files_that_the_recipe_names(shown: str) -> None:
    assert "mish" in shown
    assert files_of_recipe("How to add an activation") == {"models/config.py", "models/layers.py"}


def add_data_source(copy: Path) -> None:
    (copy / "data" / "sources" / "stripes.py").write_text(STRIPES.lstrip())
    replace(copy, "data/config.py", '"cifar10", "folder"]', '"cifar10", "folder", "stripes"]')
    replace(
        copy,
        "data/dataset.py",
        "from data.sources.shapes import",
        "from data.sources.stripes import Stripes\nfrom data.sources.shapes import",
    )
    replace(
        copy,
        "data/dataset.py",
        "        case _:\n            assert_never(config.source)\n",
        '        case "stripes":\n            return Stripes(config.side)\n'
        "        case _:\n            assert_never(config.source)\n",
    )


def test_a_data_source_is_added_in_the_files_that_the_recipe_names(shown: str) -> None:
    assert "complete" in shown.lower()
    named = files_of_recipe("How to add a data source")
    assert named == {
        "data/config.py",
        "data/sources/shapes.py",
        "data/cache.py",
        "data/dataset.py",
    }
