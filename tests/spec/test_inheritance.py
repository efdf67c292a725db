"""Inheritance of study files: what a file takes from its base, what it changes, and where a fault stands."""

import json
from pathlib import Path

import pytest

from search.errors import SpecError
from search.spec import search_space, stored_spec, study_file, study_spec
from search.spec.domains import Choice, Fixed, Float, Int
from search.spec.parameters import DEFAULTS
from search.spec.study_spec import StudySpec

BASE = """
question = "Which?"
checkpoints = "/backup"
[data]
source = "folder"
path = "photos"
[budget]
trials = 20
epochs = 6
hours = 2.0
[search]
seed = 7
[final]
epochs = 20
top = 3
[space]
width = { low = 8, high = 32, step = 8 }
optimizer = ["sgd", "adam", "adamw"]
learning_rate = { low = 1e-4, high = 1, log = true }
weight_decay = [0.0, 1e-4]
[space.when.optimizer.sgd]
learning_rate = { low = 0.1, high = 1 }
[space.when.optimizer.adamw]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
weight_decay = [0.01, 0.1]
[[try]]
optimizer = "sgd"
learning_rate = 0.5
[[try]]
width = 16
"""


def load(folder: Path, own: str, overrides: dict[str, str] | None = None, *, base: str = BASE) -> StudySpec:
    """Load a file with this text on top of a base."""
    (folder / "base.toml").write_text(base)
    (folder / "own.toml").write_text('base = "base"\n' + own)
    return study_spec.load(folder / "own.toml", overrides)


def refuse(folder: Path, own: str, overrides: dict[str, str] | None = None, *, base: str = BASE) -> str:
    """Load a file that is refused; returns the message without the folder."""
    with pytest.raises(SpecError) as refused:
        load(folder, own, overrides, base=base)
    return str(refused.value).replace(f"{folder}/", "")


def test_a_file_that_only_names_its_base_is_the_same_study(tmp_path: Path) -> None:
    own = load(tmp_path, "")

    assert own == study_spec.load(tmp_path / "base.toml")
    assert own.has_trials


def test_a_file_changes_the_keys_that_it_gives_and_inherits_all_others(tmp_path: Path) -> None:
    own = load(tmp_path, 'question = "Mine?"\n[budget]\nepochs = 3\n[search]\nsampler = "random"\n[final]\ntop = 1\n')

    assert own.question == "Mine?"
    assert own.checkpoints == "/backup"
    assert own.data.path == "photos"
    assert (own.budget.trials, own.budget.epochs, own.budget.hours) == (20, 3.0, 2.0)
    assert (own.search.sampler, own.search.seed) == ("random", 7)
    assert own.final is not None
    assert (own.final.epochs, own.final.top) == (20.0, 1)
    assert len(own.points) == 2


def test_a_range_or_list_of_the_space_is_replaced_whole(tmp_path: Path) -> None:
    own = load(tmp_path, "[space]\nwidth = { low = 8, high = 24 }\nweight_decay = [0.0]\nclip = [0, 1]\n")

    assert own.space.parameters["width"] == Int(8, 24)  # without the step of the base
    assert own.space.parameters["weight_decay"] == Choice((0.0,))
    assert own.space.parameters["clip"] == Choice((0.0, 1.0))
    assert own.space.parameters["optimizer"] == Choice(("sgd", "adam", "adamw"))


def test_ranges_under_a_choice_merge_key_by_key(tmp_path: Path) -> None:
    own = load(
        tmp_path,
        "[space.when.optimizer.adamw]\nlearning_rate = [0.01]\n[space.when.optimizer.adam]\nlearning_rate = [0.02]\n",
    )

    assert own.space.when == {
        ("optimizer", "sgd"): {"learning_rate": Float(0.1, 1.0)},
        ("optimizer", "adamw"): {"learning_rate": Choice((0.01,)), "weight_decay": Choice((0.01, 0.1))},
        ("optimizer", "adam"): {"learning_rate": Choice((0.02,))},
    }


def test_a_key_of_the_space_ends_its_inherited_ranges_under_choices(tmp_path: Path) -> None:
    own = load(
        tmp_path,
        "try = []\n[space]\nlearning_rate = 0.2\n[space.when.optimizer.adam]\nlearning_rate = 0.3\n",
    )

    assert own.space.parameters["learning_rate"] == Fixed(0.2)
    assert own.space.when == {
        ("optimizer", "adamw"): {"weight_decay": Choice((0.01, 0.1))},
        ("optimizer", "adam"): {"learning_rate": Fixed(0.3)},
    }


def test_inherited_ranges_under_a_choice_that_is_gone_are_named(tmp_path: Path) -> None:
    narrow = load(tmp_path, 'try = []\n[space]\noptimizer = ["sgd", "adam"]\n')

    assert search_space.ineffective_tables(narrow.space) == (
        "[space.when.optimizer] 'adamw': without effect, because [space] optimizer offers no such value",
    )
    assert search_space.ineffective_tables(load(tmp_path, "").space) == ()


def test_points_and_rows_replace_the_inherited_ones_whole(tmp_path: Path) -> None:
    compared = "[budget]\nepochs = 1\n[[compare]]\nname = 'a'\n[[compare]]\nname = 'b'\nwidth = 8\n"
    others = "[[compare]]\nname = 'c'\n[[compare]]\nname = 'd'\nflip = true\n"

    assert load(tmp_path, "[[try]]\nwidth = 8\n").points == ({"width": 8},)
    assert load(tmp_path, "try = []\n").points == ()
    assert [row.name for row in load(tmp_path, others, base=compared).rows] == ["c", "d"]
    assert load(tmp_path, "compare = []\n[space]\nwidth = [8, 16]\n", base=compared).rows == ()


def test_removed_keys_and_tables_are_at_their_defaults(tmp_path: Path) -> None:
    own = load(
        tmp_path,
        'remove = ["final", "checkpoints", "budget.hours", "space.weight_decay", "space.when.optimizer.adamw"]\n',
    )

    assert (own.final, own.checkpoints, own.budget.hours) == (None, None, None)
    assert own.budget.trials == 20
    assert own.space.parameters["weight_decay"] == Fixed(DEFAULTS["weight_decay"])
    assert list(own.space.when) == [("optimizer", "sgd")]


def test_a_removed_table_is_replaced_by_the_one_of_the_file(tmp_path: Path) -> None:
    own = load(tmp_path, 'remove = ["space", "try"]\n[space]\npool = ["max", "avg"]\n')

    assert own.space.parameters == {key: Fixed(value) for key, value in DEFAULTS.items()} | {
        "pool": Choice(("max", "avg"))
    }
    assert own.space.when == {}


def test_a_value_with_a_point_can_be_removed(tmp_path: Path) -> None:
    base = BASE + '[space.when.weight_decay."0.0"]\nema = 0.5\n'

    assert ("weight_decay", 0.0) in load(tmp_path, "", base=base).space.when
    assert ("weight_decay", 0.0) not in load(
        tmp_path, 'remove = ["space.when.weight_decay.0.0"]\n', base=base
    ).space.when


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ('remove = ["budget.hors"]', "own.toml: remove has 'budget.hors', which the base does not have; did you mean "),
        ('remove = ["zzz"]', "own.toml: remove has 'zzz', which the base does not have"),
        ("remove = 'final'", "own.toml: remove must be a list of keys, such as ['final', 'budget.hours'], but got "),
        ("remove = [1]", "own.toml: remove must be a list of keys, such as ['final', 'budget.hours'], but got [1]"),
        ('remove = ["space.optimizer"]', "[space.when.optimizer] optimizer is not in [space], so it decides nothing"),
    ],
    ids=["nearly a key", "unknown", "string", "number", "control"],
)
def test_a_wrong_removal_is_refused(tmp_path: Path, own: str, message: str) -> None:
    assert message in refuse(tmp_path, own)


def test_removals_need_a_base(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("remove = ['final']")

    with pytest.raises(SpecError, match=r"x\.toml: remove takes keys of a base out, and this file names none; add"):
        study_spec.load(tmp_path / "x.toml")


def test_overrides_apply_to_the_merged_study(tmp_path: Path) -> None:
    own = load(tmp_path, "[budget]\nepochs = 3\n", {"budget.epochs": "4", "final.top": "2", "space.width.high": "16"})

    assert own.budget.epochs == 4.0
    assert own.final is not None
    assert own.final.top == 2
    assert own.space.parameters["width"] == Int(8, 16, step=8)
    assert study_spec.load(tmp_path / "base.toml").space.parameters["width"] == Int(8, 32, step=8)


@pytest.mark.parametrize("key", study_file.INHERITANCE)
def test_what_a_file_inherits_cannot_be_overridden(tmp_path: Path, key: str) -> None:
    assert f"{key} cannot be set, because" in refuse(tmp_path, "", {key: "x"})


@pytest.mark.parametrize(
    ("base", "own", "message"),
    [
        (
            BASE.replace("width", "widht"),
            "[budget]\nepochs = 3",
            "own.toml: base base.toml: [space] widht is not known; did you mean 'width'?",
        ),
        (BASE + "[bugdet]\n", "", "own.toml: base base.toml: bugdet is not known; did you mean 'budget'?"),
        ("[budget\n", "", "own.toml: base base.toml cannot be read as TOML: Expected ']'"),
        ("# " + "x" * 100_000, "", "own.toml: base base.toml: a study file has at most 100 kB; is this one?"),
        (BASE, "[space]\nwidht = 8", "own.toml (with base base.toml): [space] widht is not known"),
        (BASE, "[bugdet]", "own.toml: bugdet is not known; did you mean 'budget'?"),
        (BASE, "[data]\nsource = 'shapes'", "own.toml (with base base.toml): [data] path has a meaning only with"),
        (
            BASE,
            "[space]\nwidth = [8, 24]",
            "own.toml (with base base.toml): [[try]] 2 width must be 8 or 24, but got 16; [[try]] is inherited: give "
            "its tables anew, or try = [] at the top of the file for none",
        ),
        (BASE, "[[try]]\nwidth = 9", "own.toml (with base base.toml): [[try]] 1 width must be 8 to 32 in steps of 8, "),
    ],
    ids=["base", "top of base", "no toml", "size", "own", "top", "source", "inherited point", "own point"],
)
def test_a_fault_is_reported_with_the_file_that_has_it(tmp_path: Path, base: str, own: str, message: str) -> None:
    assert refuse(tmp_path, own, base=base).startswith(message)


def test_a_fault_of_an_override_is_reported_with_it(tmp_path: Path) -> None:
    assert refuse(tmp_path, "", {"budget.epochs": "x"}) == (
        "own.toml (with base base.toml) --set budget.epochs=x: [budget] epochs must be a number, but got 'x'"
    )


def test_a_point_of_the_file_itself_is_not_called_inherited(tmp_path: Path) -> None:
    assert refuse(tmp_path, "[[try]]\nwidth = 9").endswith("but got 9")
    assert refuse(tmp_path, "", {"try": "[{ width = 9 }]"}).endswith("but got 9")


def test_a_stored_study_is_complete_and_names_no_base(tmp_path: Path) -> None:
    own = load(tmp_path, "[budget]\nepochs = 3\n")
    (tmp_path / "base.toml").unlink()

    stored = stored_spec.dump(own)

    assert not set(study_file.INHERITANCE) & set(stored)
    assert stored_spec.restore(json.loads(json.dumps(stored))) == own
