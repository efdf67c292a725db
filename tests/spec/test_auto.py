"""search/spec/auto.py: the value "auto" in a study file."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from search.errors import SpecError
from search.spec import auto, stored_spec, study_spec
from search.spec.domains import Value
from search.spec.recipe import USUAL, Recipe, Setting, conv_layers_for
from search.spec.study_spec import StudySpec

#: A recipe of round numbers; with another optimizer it has another learning rate.
VALUES: dict[str, Value] = {
    "image_size": 32,
    "width": 64,
    "batch_size": 32,
    "conv_layers": 2,
    "optimizer": "muon",
    "learning_rate": 0.1,
    "momentum": 0.6,
    "flip": "alternating",
    "crop": 4,
    "dropout_conv": 0.0,
    "dense_layers": 0,
    "dense_units": 128,
    "label_smoothing": 0.4,
    "search_images": 5_000,
}
FOLDER = '[data]\nsource = "folder"\npath = "photos"\n'


def recipe_of(given: Mapping[str, Value]) -> Recipe:
    values = {**VALUES, **given}
    rate = 0.1 if values["optimizer"] == "muon" else 0.004
    values = {**values, "learning_rate": given.get("learning_rate", rate)}
    return {key: Setting(value=value, reason="made up") for key, value in values.items()}


def fill(text: str) -> dict[str, Any]:
    return auto.fill(tomllib.loads(text), recipe_of)


def space(line: str) -> Any:
    """The filled value of the only key of [space]."""
    (value,) = fill(f"[space]\n{line}\n")["space"].values()
    return value


def build(text: str) -> StudySpec:
    tables = tomllib.loads(text)
    if isinstance(tables.setdefault("space", {}), dict) and "compare" not in tables:
        tables["space"].setdefault("activation", ["relu", "gelu"])  # something to search
    return study_spec.build(tables, recipe=USUAL)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('width = "auto"', 64),
        ('width = " auto "', 64),
        ('width = "auto * 1.5"', 96),
        ('width = "auto/2"', 32),
        ('width = "auto + 3"', 67),
        ('width = "auto - 3"', 61),
        ('width = "auto / 3"', 21),  # rounded
        ('width = "image_size"', 32),
        ('cutout = "image_size / 4"', 8),
        ('learning_rate = "auto / 3"', 0.03333),
        ('conv_layers = "auto - 9"', 1),  # the least
        ('conv_layers = "auto * 9"', 8),  # the most
        ('label_smoothing = "auto * 9"', 0.5),
        ('flip = "auto"', "alternating"),
        ('optimizer = ["auto", "sgd"]', ["muon", "sgd"]),
        ('optimizer = ["sgd", "auto", "muon"]', ["sgd", "muon"]),  # each once
        ('width = ["auto / 2", "auto", 64]', [32, 64]),
        ('dropout_conv = ["auto", { low = 0.1, high = 0.2 }]', [0.0, {"low": 0.1, "high": 0.2}]),
        ('width = { low = "auto / 2", high = "auto * 2" }', {"low": 32, "high": 128}),
        ('width = { low = "auto / 2", high = "auto" }', {"low": 32, "high": 64}),
        (
            'learning_rate = { low = "auto / 5", high = "auto * 5", log = true }',
            {"low": 0.02, "high": 0.5, "log": True},
        ),
        ('conv_layers = { low = "auto - 5", high = "auto - 1" }', 1),  # a range of one value
        ('crop = { low = 0, high = "auto * 2" }', {"low": 0, "high": 8}),
        ('precision = "auto"', "auto"),  # a value of its own
        ('precision = ["auto", "float32"]', ["auto", "float32"]),
    ],
)
def test_a_value_of_the_space_refers_to_the_recipe(line: str, value: object) -> None:
    filled = space(line)
    assert filled == value
    assert type(filled) is type(value)


@pytest.mark.parametrize("low", [4, 7, 10, 33, "auto / 2"])
def test_a_range_with_a_step_holds_the_value_of_the_recipe(low: object) -> None:
    table = auto.fill({"space": {"width": {"low": low, "high": "auto * 1.6", "step": 8}}}, recipe_of)["space"]["width"]
    assert table["low"] <= 64 <= table["high"]
    assert (64 - table["low"]) % 8 == (table["high"] - 64) % 8 == 0
    assert table["low"] >= (low if isinstance(low, int) else 32)
    assert table["high"] <= 102


def test_a_choice_has_the_recipe_that_goes_with_it() -> None:
    filled = fill(
        '[space]\noptimizer = ["auto", "sgd"]\nlearning_rate = "auto"\n'
        '[space.when.optimizer.sgd]\nlearning_rate = "auto"\n'
    )
    assert filled["space"]["learning_rate"] == 0.1
    assert filled["space"]["when"] == {"optimizer": {"sgd": {"learning_rate": 0.004}}}


def test_plain_values_of_the_file_change_the_values_that_go_with_them() -> None:
    assert fill('[space]\noptimizer = "adam"\nlearning_rate = "auto"\n')["space"]["learning_rate"] == 0.004


def test_a_search_without_points_begins_at_the_recipe_in_the_parameters_that_it_searches() -> None:
    filled = fill('[space]\nwidth = ["auto", 8]\noptimizer = ["auto", "sgd"]\ncrop = 1\nbatch_size = "auto"\n')
    assert filled["try"] == [{"width": 64, "optimizer": "muon"}]


def test_a_point_is_the_recipe_with_changes_and_with_what_goes_with_them() -> None:
    text = '[space]\noptimizer = ["auto", "sgd"]\nlearning_rate = { low = 0.001, high = 1.0 }\nwidth = ["auto", 8]\n'
    point = '[[try]]\nbase = "auto"\noptimizer = "sgd"\nwidth = "auto / 8"\n'
    (filled,) = fill(text + point)["try"]
    assert filled == {"optimizer": "sgd", "learning_rate": 0.004, "width": 8}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("width = [8, 48, 128]", 48),
        ("width = [8, 16]", 16),
        ("width = { low = 8, high = 32 }", 32),
        ("width = { low = 100, high = 200 }", 100),
        ("width = { low = 8, high = 100, step = 20 }", 48),
        ("width = [8, { low = 70, high = 90 }]", 70),
        ("flip = [false, true]", False),
        ('flip = [true, "alternating"]', "alternating"),
        ('activation = ["relu", "gelu"]', None),  # not in this recipe
    ],
)
def test_the_first_point_has_the_values_of_the_space_nearest_to_the_recipe(line: str, value: object) -> None:
    assert [*fill(f'[space]\n{line}\nbatch_size = "auto"\n')["try"][0].values()] == [value] * (value is not None)


def test_a_value_that_the_space_does_not_have_takes_others_with_it() -> None:
    rates = "learning_rate = { low = 0.05, high = 1.0 }"
    text = f'[space]\noptimizer = ["sgd", "adam"]\n{rates}\ncrop = "auto"\n'
    assert fill(text)["try"] == [{"optimizer": "sgd", "learning_rate": 0.05}]
    when = "[space.when.optimizer.sgd]\nlearning_rate = { low = 0.001, high = 0.01 }\n"
    assert fill(text + when)["try"] == [{"optimizer": "sgd", "learning_rate": 0.004}]
    fixed = "[space.when.optimizer.sgd]\nlearning_rate = 0.3\n"
    assert fill(text + fixed)["try"] == [{"optimizer": "sgd"}]


def test_a_point_without_a_base_has_its_own_values_only() -> None:
    assert fill('[space]\nwidth = ["auto", 8]\ncrop = [0, 4]\n[[try]]\nwidth = "auto"\n')["try"] == [{"width": 64}]


def test_a_point_leaves_out_what_has_no_meaning_beside_its_other_values() -> None:
    text = "[space]\ndense_layers = [0, 1]\ndense_units = { low = 8, high = 512 }\n"
    assert fill(f'{text}[[try]]\nbase = "auto"\n')["try"] == [{"dense_layers": 0}]
    filled = fill(f'{text}[[try]]\nbase = "auto"\ndense_layers = 1\n')["try"]
    assert filled == [{"dense_layers": 1, "dense_units": 128}]


def test_rows_of_a_comparison_refer_to_the_recipe() -> None:
    filled = fill('[space]\nwidth = "auto"\n[[compare]]\nname = "narrow"\nwidth = "auto / 2"\n')
    assert filled["compare"] == [{"name": "narrow", "width": 32}]
    assert filled["try"] == []


def test_a_comparison_of_the_recipe_is_a_study() -> None:
    spec = build(
        f'{FOLDER}[budget]\nepochs = 1\n[[compare]]\nname = "narrow"\nwidth = "auto / 2"\n'
        '[[compare]]\nname = "usual"\nwidth = "auto"\n'
    )
    narrow, usual = (row.values["width"] for row in spec.rows)
    assert isinstance(narrow, int)
    assert isinstance(usual, int)
    assert narrow < usual


def test_sizes_of_images_come_from_the_recipe_and_other_tables_have_their_defaults() -> None:
    filled = fill(
        FOLDER + 'image_size = "auto"\nsearch_images = "auto"\nfit = "auto"\nvalidation = "auto"\n'
        '[budget]\nepochs = "auto"\ntrials = 3\n[search]\nsampler = "auto"\n[final]\nshare = "auto"\n'
        '[space]\nwidth = "auto"\n'
    )
    assert filled["data"] == {
        "source": "folder",
        "path": "photos",
        "image_size": 32,
        "search_images": 5_000,
        "fit": "auto",
    }
    assert filled["budget"] == {"trials": 3}
    assert (filled["search"], filled["final"]) == ({}, {})


@pytest.mark.parametrize(
    "text",
    [
        '[data]\nsource = "shapes"\nvalidation = "auto"\n',
        '[budget]\nepochs = "auto"\ntrials = 3\n',
        '[search]\nsampler = "auto"\n',
        '[budget]\nhours = 0.1\n[final]\nshare = "auto"\n',
    ],
)
def test_auto_outside_of_the_space_is_the_default(text: str) -> None:
    line = next(line for line in text.splitlines() if "auto" in line)
    assert build(text) == build(text.replace(line, ""))


@pytest.mark.parametrize(
    "text",
    [
        '[data]\nsource = "folder"\npath = "photos"\nfit = "auto"\ndepth = "auto"\nimage_size = 32\n',
        '[space]\nprecision = "auto"\nwidth = [16, 32]\n',
        '[space]\nprecision = ["auto", "float32"]\n[[try]]\nprecision = "auto"\n',
        "[space]\nwidth = [16, 32]\n[[try]]\nwidth = 32\n",
    ],
)
def test_a_file_without_a_value_of_a_recipe_is_as_before(text: str) -> None:
    spec = build(text)
    assert spec.template is None
    assert spec.recipe is None
    assert len(spec.points) == text.count("[[try]]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[space]\nwidth = "auto ** 2"\n', r"\[space\] width"),
        ('[space]\nwidth = "auto * "\n', r"\[space\] width"),
        ('[space]\nwidth = "2 * auto"\n', r"\[space\] width"),
        ('[space]\nwidth = "auto / 0"\n', r"\[space\] width .*'auto / 0'"),
        (f'[space]\nwidth = "auto * {"9" * 400}"\n', r"\[space\] width"),
        (f'[space]\nclip = "image_size * {"9" * 400}"\n', r"\[space\] clip"),
        ('[space]\nflip = "auto * 2"\n', r"\[space\] flip needs a number"),
        ('[space]\nbackbone = "auto"\n', r"\[space\] backbone has no value in a recipe"),
        ('[space]\nwitdh = "auto"\n', r"witdh.*did you mean .*width"),
        ('[space]\nwitdh = "image_size / 4"\n', r"witdh.*did you mean .*width"),
        ('[space]\nwidth = ["auto", 8]\n[[try]]\nbase = "cifar10"\n', r'\[\[try\]\] 1 base must be "auto"'),
        ('[space]\nwidth = ["auto", 8]\n[[try]]\nwidth = "auto * x"\n', r"\[\[try\]\]"),
        ('[space]\nwidth = "auto"\n[space.when]\noptimizer = "auto"\n', r"\[space.when.optimizer\]"),
        ('space = "auto"\n', r"\[space\]"),
        ('[space]\nwidth = "auto"\n[data]\nsource = "auto2"\n', r"\[data\] source"),
        ('[data]\nsource = "folder"\npath = "photos"\nimage_size = "auto / 0"\n', r"\[data\] image_size"),
    ],
)
def test_a_value_without_a_meaning_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(text)


def test_a_study_of_a_recipe_has_plain_values_and_can_be_stored() -> None:
    spec = build(FOLDER + 'image_size = "auto"\n[space]\nwidth = ["auto", 8]\nlearning_rate = "auto"\n')
    stored = stored_spec.dump(spec)
    assert {key for key, value in stored["space"].items() if value == "auto"} <= {"precision"}
    assert stored_spec.restore(stored) == spec


def test_a_value_in_the_data_goes_with_the_others() -> None:
    small, usual = (build(f'{FOLDER}image_size = {size}\n[space]\nconv_layers = "auto"\n') for size in (16, 64))
    layers = [int(str(spec.space.parameters["conv_layers"].single_value)) for spec in (small, usual)]
    assert layers[0] < layers[1]


def test_the_size_of_the_images_may_be_a_part_of_that_of_the_recipe() -> None:
    whole, half = (
        build(f'{FOLDER}image_size = "{size}"\n[space]\nconv_layers = "auto"\n') for size in ("auto", "auto / 2")
    )

    assert half.data.side == whole.data.side / 2
    layers = [spec.space.parameters["conv_layers"].single_value for spec in (whole, half)]
    assert layers == [conv_layers_for(whole.data.side), conv_layers_for(half.data.side)]
    assert layers[0] != layers[1]


def test_a_number_of_search_images_of_the_file_is_part_of_the_recipe() -> None:
    spec = build(FOLDER + 'image_size = "auto"\nsearch_images = 77\n[space]\nwidth = "auto"\n')
    assert spec.data.search_images == 77
    made = study_spec.settings(spec)
    assert "search_images" not in made or made["search_images"].value == 77


def test_the_question_names_the_classes() -> None:
    text = 'question = "auto"\n' + FOLDER + '[space]\nwidth = "auto"\n'
    assert "10 classes" in build(text).question
    assert study_spec.question_of(("cat", "dog")) == "Which CNN tells 'cat' from 'dog' best?"
    assert study_spec.build(tomllib.loads(text + "crop = [0, 2]\n")).question == study_spec.QUESTION


def test_an_override_may_be_auto_or_replace_it(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(FOLDER + '[space]\nwidth = "auto"\noptimizer = "adam"\ncrop = [0, 2]\n')
    assert study_spec.load(file, {"space.width": "16"}).space.parameters["width"].single_value == 16
    spec = study_spec.load(file, {"space.optimizer": "auto", "space.width": '"auto / 2"'})
    assert spec.is_provisional
    assert spec.space.parameters["optimizer"].single_value == "muon"


def test_the_example_of_the_handbook_is_a_study() -> None:
    text = (Path(__file__).parents[2] / "studies" / "README.md").read_text()
    example = text.split("**Values that fit the images.**")[1].split("```toml\n")[1].split("```")[0]
    spec = study_spec.build(tomllib.loads(example), recipe=USUAL)
    assert spec.template is not None
    assert len(spec.points) == 1
