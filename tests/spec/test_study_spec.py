"""Study files: parsing, refused files and their messages, stored specs, and differences."""

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import ModelConfig, TrainConfig
from search.errors import SpecError
from search.spec import stored_spec, study_spec
from search.spec.domains import Choice, Fixed, Float, Int, OneOf, Value
from search.spec.parameters import DEFAULTS
from search.spec.study_spec import StudySpec

STUDIES = Path(study_spec.__file__).parents[2] / "studies"
SHIPPED = sorted(STUDIES.glob("*.toml"))

BUDGET = "[budget]\ntrials = 3\nepochs = 1\n"
ONE = BUDGET + "[space]\nwidth = [8, 16]\n"
TWO = ONE + "optimizer = ['sgd', 'adam']\nscheduler = ['none', 'step']\n"
GRID = "[budget]\nepochs = 1\n[search]\nsampler = 'grid'\n"
ROWS = "[budget]\nepochs = 1\n[[compare]]\nname = 'base'\n[[compare]]\n"

SMALL = """
question = "Which?"
[data]
source = "shapes"
[budget]
trials = 20
epochs = 1.5
steps_per_epoch = 2
[space]
width = 8
optimizer = ["sgd", "adam"]
momentum = { low = 0.5, high = 0.9 }
batch_size = { low = 32, high = 128, step = 32 }
ema = { low = 0.0, high = 0.9, step = 0.3 }
learning_rate = { low = 1e-4, high = 1, log = true }
dense_layers = { low = 0, high = 2 }
[space.when.optimizer.sgd]
learning_rate = { low = 0.1, high = 1 }
[space.when.dense_layers.0]
width = [16, 32]
[[try]]
optimizer = "sgd"
learning_rate = 1
"""


ZERO_OR_LOG = "weight_decay = [0, { low = 1e-6, high = 1e-2, log = true }]\n"
MIXED = (
    TWO + ZERO_OR_LOG + "cutout = [0, { low = 2, high = 8, step = 2 }, 12]\n[[try]]\nweight_decay = 3e-4\ncutout = 6\n"
)
MIXED_UNDER_A_CHOICE = TWO + "[space.when.optimizer.adam]\n" + ZERO_OR_LOG


def load(folder: Path, text: str, **overrides: str) -> StudySpec:
    """Load a study file with this text; `budget__epochs` is the override budget.epochs."""
    path = folder / "x.toml"
    path.write_text(text, encoding="utf-8")
    return study_spec.load(path, {key.replace("__", "."): value for key, value in overrides.items()})


def ask(spec: StudySpec, fixed: dict[str, Value]) -> tuple[dict[str, Value], dict[str, object]]:
    """Draw once from a real study with fixed parameters; returns the configuration and the drawn parameters."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(fixed)
    trial = study.ask()
    return study_spec.sample_config(spec, trial), trial.params


def test_a_list_is_a_choice_a_table_a_range_and_a_plain_value_fixed(tmp_path: Path) -> None:
    parameters = load(tmp_path, SMALL).space.parameters

    assert parameters["optimizer"] == Choice(("sgd", "adam"))
    assert parameters["momentum"] == Float(0.5, 0.9)
    assert parameters["dense_layers"] == Int(0, 2)
    assert parameters["batch_size"] == Int(32, 128, step=32)
    assert parameters["ema"] == Float(0.0, 0.9, step=0.3)
    assert parameters["width"] == Fixed(8)
    assert parameters["clip"] == Fixed(DEFAULTS["clip"])


def test_a_list_with_tables_is_one_of_its_values_and_ranges(tmp_path: Path) -> None:
    parameters = load(tmp_path, MIXED).space.parameters

    assert parameters["weight_decay"] == OneOf((0.0, Float(1e-6, 1e-2, log=True)))
    assert parameters["cutout"] == OneOf((0, Int(2, 8, step=2), 12))
    assert load(tmp_path, ONE + "clip = [{ low = 1, high = 2 }]").space.parameters["clip"] == Float(1.0, 2.0)


@pytest.mark.parametrize(("text", "config"), [("0", 0.0), ("3e-4", 3e-4)])
def test_a_point_gives_a_value_that_the_list_holds(tmp_path: Path, text: str, config: float) -> None:
    spec = load(tmp_path, TWO + ZERO_OR_LOG + f"[[try]]\nweight_decay = {text}")

    assert ask(spec, study_spec.fixed_trials(spec)[0])[0]["weight_decay"] == config


def test_a_backbone_beside_networks_of_one_input_channel_has_three(tmp_path: Path) -> None:
    text = BUDGET + "[space]\ninput_channels = 1\nbackbone = ['none', 'resnet18']\n"
    spec = load(tmp_path, text + "[space.when.backbone.resnet18]\ninput_channels = 3")

    channels = [
        study_spec.to_model_configs(spec, ask(spec, {"backbone": name})[0])[0].input_channels
        for name in ("none", "resnet18")
    ]

    assert channels == [1, 3]


@pytest.mark.parametrize("text", ["1e-7", "0.5"])
def test_a_point_outside_of_a_list_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match=rf"weight_decay must be 0.0 or 1e-06 to 0.01, but got {float(text)}"):
        load(tmp_path, TWO + ZERO_OR_LOG + f"[[try]]\nweight_decay = {text}")


def test_a_whole_number_is_accepted_for_a_float_and_becomes_one(tmp_path: Path) -> None:
    spec = load(tmp_path, SMALL)

    learning_rate = spec.space.parameters["learning_rate"]
    assert isinstance(learning_rate, Float)
    assert type(learning_rate.high) is float
    assert type(spec.points[0]["learning_rate"]) is float


def test_steps_divide_all_epochs_equally(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL).budget.steps == 3
    assert load(tmp_path, SMALL, budget__epochs="0.1", budget__steps_per_epoch="30").budget.steps == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # the file and its tables
        ("[budget\n", "cannot be read as TOML: Expected ']' at the end of a table declaration (at line 1, column 8)"),
        ("bugdet = 1\n" + ONE, "bugdet is not known; did you mean 'budget'?"),
        ("question = 3\n" + ONE, "question must be a string, but got 3"),
        ("space = 3\n" + BUDGET, "[space] must be a table, but got 3"),
        ("try = 3\n" + ONE, "[[try]] must be an array of tables, but got 3"),
        # [data]
        (ONE + "[data]\nsorce = 'shapes'", "[data] sorce is not known; did you mean 'source'?"),
        (ONE + "[data]\nimage_size = '32'", "[data] image_size must be a whole number, but got '32'"),
        (ONE + "[data]\nvalidation = nan", "[data] validation must be a finite number, but got nan"),
        (
            ONE + "[data]\nvalidation = true",
            "[data] validation must be a whole number or a number or 'folder' or 'split', but got true",
        ),
        (ONE + "[data]\nsource = 'folder'", '[data] source = "folder" needs path'),
        # [budget]
        ("[budget]\ntrials = 1\nepochs = 0\n", "[budget] epochs must be greater than 0, but got 0"),
        ("[budget]\ntrials = 0\nepochs = 1\n", "[budget] trials must be greater than or equal to 1, but got 0"),
        ("[budget]\ntrials = true\nepochs = 1\n", "[budget] trials must be a whole number, but got true"),
        ("[search]\nsampler = 'grid'\n[space]\nwidth = [8, 16]\n", "[budget] epochs is missing; a grid or comparison"),
        (
            "[budget]\nsteps_per_epoch = 2\n[space]\nwidth = [8, 16]",
            "divides epochs that are given, and not evaluations",
        ),
        ("[budget]\ntrials = 1\nepochs = inf\n", "[budget] epochs must be a finite number, but got inf"),
        ("[budget]\ntrials = 1\nepochs = 1\nhours = 0\n", "[budget] hours must be greater than 0, but got 0"),
        (
            "[budget]\ntrials = 1\nepochs = 0.3\nsteps_per_epoch = 2\n",
            "[budget] epochs x steps_per_epoch must be a whole number of steps, at least 1, but got 0.3 x 2 = 0.6",
        ),
        # [search]
        (
            ONE + "[search]\nsampler = 'tpee'",
            "must be 'tpe', 'nsga2', 'evolution', 'random' or 'grid', but got 'tpee'; did you mean 'tpe'?",
        ),
        (ONE + "[search]\nseed = 1.5", "[search] seed must be a whole number, but got 1.5"),
        (ONE + "[search]\nrepeats = 2", "[search] repeats must be 1 with sampler = 'tpe', but got 2; only a grid"),
        (ONE + "[search]\nfirst_rung = 2", "[search] first_rung must be at most 1, the steps of a trial, but got 2"),
        # [space]
        (BUDGET, "[space] leaves nothing to search; give at least one parameter a list or a range"),
        (BUDGET + "[space]\nlerning_rate = [0.1]", "[space] lerning_rate is not known; did you mean 'learning_rate'?"),
        (BUDGET + "[space.whn.optimizer.sgd]", "[space] whn is not known; did you mean 'when'?"),
        (BUDGET + "[space]\nactivation = ['leaky']", "but got 'leaky'; did you mean 'leaky_relu'?"),
        (
            BUDGET + "[space]\nactivation = []",
            "[space] activation must offer at least one value, but the list is empty",
        ),
        (BUDGET + "[space]\nclip = [1, 1.0]", "[space] clip must offer each value once, but has 1.0 twice"),
        (BUDGET + "[space]\nwidth = [true]", "[space] width must be a whole number, but got true"),
        (BUDGET + "[space]\nflip = [0, 1]", "[space] flip must be true or false or 'alternating', but got 0"),
        (BUDGET + "[space]\nwidth = 1979-05-27", "[space] width must be a whole number, but got 1979-05-27"),
        (BUDGET + "[space]\nclip = [0.1, nan]", "[space] clip must be a finite number, but got nan"),
        (BUDGET + "[space]\nresidual = { low = 0, high = 1 }", "[space] residual cannot be a range; write a list"),
        (
            BUDGET + "[space]\nkernel_size = { low = 3, high = 7 }",
            "[space] kernel_size cannot be a range; write a list",
        ),
        (
            BUDGET + "[space]\ninput_channels = 1\nbackbone = ['none', 'resnet18']",
            "[space] input_channels must be 3 beside backbone 'resnet18', which was pretrained on red, green and blue, "
            "but got 1; write 3, or [space.when.backbone.resnet18] with input_channels = 3",
        ),
        (BUDGET + "[space]\nwidth = { low = 8 }", "[space.width] high is missing"),
        (
            BUDGET + "[space]\nweight_decay = { low = 0, high = 1e-2, log = true }",
            "low above 0 in a logarithmic range, but got low = 0.0; for zero or a log range write weight_decay = "
            "[0, { low = 1e-06, high = 0.01, log = true }]",
        ),
        (
            BUDGET + "[space]\ncutout = [0, { low = 0, high = 8, log = true }]",
            "for zero or a log range write cutout = [0, { low = 1, high = 8, log = true }]",
        ),
        (BUDGET + "[space]\ncutout = { low = 0, high = 1, log = true }", "write cutout = [0, 1]"),
        (
            BUDGET + "[space]\nclip = [0.5, { low = 0.1, high = 1 }]",
            "[space] clip must offer each value once, but has 0.5 alone and in 0.1 to 1.0; leave 0.5 out",
        ),
        (
            BUDGET + "[space]\nclip = [{ low = 0.1, high = 1 }, { low = 0.5, high = 2 }]",
            "[space] clip must have ranges apart from each other, but 0.1 to 1.0 and 0.5 to 2.0 share values",
        ),
        (BUDGET + "[space]\nclip = [0, { low = 1, high = 1 }]", "but got 1.0 for both; to fix it write 1.0"),
        (BUDGET + "[space]\nclip = [0, { low = { low = 1 }, high = 2 }]", "[space.clip] low must be a whole number or"),
        (BUDGET + "[space]\nclip = [0, [1, 2]]", "[space] clip must be a number, but got [1, 2]"),
        (BUDGET + "[space]\nclip = [0, {}]", "[space.clip] low is missing"),
        (BUDGET + "[space]\nresidual = [true, { low = 0, high = 1 }]", "[space] residual cannot be a range"),
        (
            GRID + "[space]\nclip = [0, { low = 1, high = 2 }]",
            "[space] clip is a range without a step, which a grid cannot walk through",
        ),
        (BUDGET + "[space]\nwidth = { low = 8, hihg = 9 }", "[space.width] hihg is not known; did you mean 'high'?"),
        (BUDGET + "[space]\nwidth = { low = 1, high = 9 }", "[space.width] low must be greater than or equal to 4"),
        (BUDGET + "[space]\nwidth = { low = 8.5, high = 9 }", "[space.width] low must be a whole number, but got 8.5"),
        (BUDGET + "[space]\nwidth = { low = 9, high = 8 }", "must have low below high, but got low = 9 and high = 8"),
        (BUDGET + "[space]\nwidth = { low = 8, high = 8 }", "must have low below high, but got 8 for both; to fix it"),
        (BUDGET + "[space]\nwidth = { low = 8, high = 9, step = 0.5 }", "[space.width] step must be a whole number"),
        (BUDGET + "[space]\nwidth = { low = 8, high = 9, step = 0 }", "[space.width] step must be greater than 0"),
        (BUDGET + "[space]\nwidth = { low = 8, high = 30, step = 8 }", "the last value would be 24"),
        (BUDGET + "[space]\nema = { low = 0.0, high = 0.9, log = true }", "[space] ema must have low above 0 in a log"),
        (
            BUDGET + "[space]\nema = { low = 0.1, high = 0.9, log = 1 }",
            "[space.ema] log must be true or false, but got 1",
        ),
        (
            BUDGET + "[space]\nclip = { low = 0.1, high = inf }",
            "[space.clip] high must be a finite number, but got inf",
        ),
        # [space.when]
        (TWO + "[space.when.optimzer.sgd]", "[space.when] optimzer is not known; did you mean 'optimizer'?"),
        (TWO + "[space.when.optimizer.sdg]", "[space.when.optimizer.sdg] optimizer must be 'sgd', 'muon', 'adam'"),
        (TWO + "[space.when.optimizer.sgd]\nwith = 8", "[space.when.optimizer.sgd] with is not known; did you mean"),
        (
            TWO + "[space.when.optimizer.sgd]\nlearning_rate = { low = 0.1, high = 11 }",
            "[space.when.optimizer.sgd.learning_rate] high must be less than or equal to 10, but got 11",
        ),
        (TWO + "[space.when]\noptimizer = 3", "[space.when.optimizer] must be a table, but got 3"),
        (TWO + "[space.when.pool.max]", "[space.when.pool] pool is not in [space], so it decides nothing"),
        (
            TWO + "[space.when.optimizer.sgd]\nclip = 1\n[space.when.scheduler.step]\nclip = 2",
            "[space.when] clip may have ranges of its own under one parameter, not optimizer and scheduler",
        ),
        (
            TWO + "[space.when.optimizer.sgd]\nscheduler = 'none'\n[space.when.scheduler.step]\noptimizer = 'sgd'",
            "[space.when] parameters decide about each other in a circle: optimizer > scheduler > optimizer",
        ),
        # [[try]]
        (TWO + "[[try]]\nwidth = 9", "[[try]] 1 width must be 8 or 16, but got 9"),
        (TWO + "[[try]]\n[[try]]\nwith = 9", "[[try]] 2 with is not known; did you mean 'width'?"),
        (TWO + "[[try]]\nclip = 9", "[[try]] 1 clip is fixed at 0.0 by [space], but got 9.0; give it a list there"),
        (TWO + "[[try]]\nwidth = [8]", "[[try]] 1 width must be a whole number, but got [8]"),
        (GRID + "[[try]]\nwidth = 8", "[[try]] 1 has no place in a grid or comparison, which runs all its cells"),
        # grid and [[compare]]
        (GRID + "[space]\nclip = { low = 0, high = 1 }", "[space] clip is a range without a step"),
        (
            GRID.replace("epochs", "trials = 3\nepochs"),
            "[budget] trials must be at most 1, the cells there are, but got 3",
        ),
        (
            ROWS[: ROWS.rindex("[[")],
            "[[compare]] must have at least 2 rows, a base and what differs from it, but got 1",
        ),
        (ROWS + "name = 'base'", "[[compare]] 2 name must be unlike all others, but 'base' is there twice"),
        (ROWS + "name = ' '", "[[compare]] 2 name must describe the row in a word or two, but got ' '"),
        (ROWS + "nam = 'b'", "[[compare]] 2 nam is not known; did you mean 'name'?"),
        (ROWS + "name = 'b'\nwidht = 8", "[[compare]] 2 widht is not known; did you mean 'width'?"),
        (ROWS + "name = 'b'\nwidth = [8]", "[[compare]] 'b' width must be a whole number, but got [8]"),
        (ROWS + "name = 'b'\nwarmup = 0.1", "[[compare]] 'b' warmup has no meaning with scheduler = 'one_cycle'"),
        (ROWS + "name = 'b'\n[space]\nwidth = [8, 9]", "[space] width must be a plain value beside [[compare]]"),
        (
            ROWS + "name = 'b'\n[space]\npool = 'max'\n[space.when.pool.max]\nwidth = 8",
            "[space.when] has no place beside [[compare]], where every value is fixed; leave it out",
        ),
        (
            ROWS + "name = 'b'\n[search]\nsampler = 'tpe'",
            "[search] sampler must be 'grid' beside [[compare]], but got 'tpe'",
        ),
        (
            ROWS + "name = 'b'\n[search]\npruner = 'asha'",
            "[search] pruner must be 'none' beside [[compare]], but got 'asha'",
        ),
    ],
    ids=lambda case: case[-60:] if case.startswith("[") else "",
)
def test_an_invalid_study_file_is_refused_with_location_rule_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        load(tmp_path, text)

    assert str(refused.value).startswith(str(tmp_path / "x.toml"))
    assert message in str(refused.value)


def test_a_data_error_keeps_its_own_message(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refused:
        load(tmp_path, ONE, data__validation="0")

    assert str(refused.value).endswith(": [data] validation must be at least 1 image, but got 0")


def test_the_first_rung_has_no_upper_limit_without_a_pruner(tmp_path: Path) -> None:
    assert load(tmp_path, ONE, search__first_rung="9", search__pruner="none").search.first_rung == 9


def test_patience_is_shorter_with_a_known_point_than_with_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL).search.patience == 12
    assert load(tmp_path, SMALL, **{"try": "[]"}).search.patience == 48
    assert load(tmp_path, SMALL, **{"try": "[]"}, search__patience="5").search.patience == 5


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\x89PNG\r\n\x1a\n")

    with pytest.raises(SpecError, match=r"x\.toml: byte 0x89 \(at line 1, column 1\) is not UTF-8; save"):
        study_spec.load(tmp_path / "x.toml")


def test_overrides_are_toml_values_and_bare_words_are_strings(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        SMALL,
        budget__epochs="4",
        search__sampler="random",
        space__width="{ low = 8, high = 16 }",
        space__dense_layers__high="3",
        question="What else?",
        space__when__optimizer__sgd__learning_rate="[0.5, 1.0]",
    )

    assert spec.budget.epochs == 4.0
    assert spec.search.sampler == "random"
    assert spec.space.parameters["width"] == Int(8, 16)
    assert spec.space.parameters["dense_layers"] == Int(0, 3)
    assert spec.question == "What else?"
    assert spec.space.when["optimizer", "sgd"]["learning_rate"] == Choice((0.5, 1.0))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("budget.trals", "4", "x.toml --set budget.trals=4: [budget] trals is not known; did you mean 'trials'?"),
        ("budget.epochs", "many", "[budget] epochs must be a number, but got 'many'"),
        ("space.width.low.x", "1", "space.width.low.x cannot be set, because width is not a table"),
        ("budget.epochs", "1\ntrials = 9", '[budget] epochs must be a number, but got "1\\ntrials = 9"'),
    ],
    ids=["unknown", "no number", "no table", "two lines"],
)
def test_a_wrong_override_is_named_in_the_error(tmp_path: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        load(tmp_path, SMALL, **{key.replace(".", "__"): value})

    assert message in str(refused.value)


def test_a_choice_may_be_narrowed_without_changing_its_dependent_ranges(tmp_path: Path) -> None:
    spec = load(tmp_path, SMALL, space__optimizer="sgd", space__dense_layers="1")

    values, asked = ask(spec, {})

    assert values["optimizer"] == "sgd"
    assert set(asked) == {"learning_rate[sgd]", "momentum", "batch_size", "ema"}


def test_points_are_the_first_trials_under_their_optuna_names(tmp_path: Path) -> None:
    assert study_spec.fixed_trials(load(tmp_path, SMALL)) == ({"optimizer": "sgd", "learning_rate[sgd]": 1.0},)


def test_drawn_values_make_a_complete_configuration(tmp_path: Path) -> None:
    spec = load(tmp_path, SMALL)
    point: dict[str, Value] = {"optimizer": "adam", "learning_rate": 0.01, "dense_layers": 0, "width[0]": 32}
    point |= {"batch_size": 64, "ema": 0.9}

    values, asked = ask(spec, point)
    model, train, augment = study_spec.to_model_configs(spec, values)

    assert asked == point
    assert set(values) == set(DEFAULTS)
    assert model == ModelConfig(width=32, dense_layers=0)
    assert train == TrainConfig(optimizer="adam", learning_rate=0.01, batch_size=64, ema=0.9)
    assert not augment.flip


def test_a_grid_has_as_many_trials_as_cells_and_each_is_drawn_as_queued(tmp_path: Path) -> None:
    spec = load(
        tmp_path, GRID + "repeats = 2\n[space]\nwidth = [8, 16]\noptimizer = ['sgd', 'adam']\nmomentum = [0, 0.9]"
    )

    cells = study_spec.fixed_trials(spec)

    assert spec.budget.trials == len(cells) == 12
    assert cells[0] == {"repeat": 0, "width": 8, "optimizer": "sgd", "momentum": 0.0}
    for cell in cells:
        values, asked = ask(spec, cell)
        assert asked == cell
        assert values["repeat"] == cell["repeat"]
        study_spec.to_model_configs(spec, values)


def test_a_comparison_runs_each_row_in_each_repeat_with_its_values(tmp_path: Path) -> None:
    text = ROWS + "name = 'no momentum'\nmomentum = 0\n[space]\nwidth = 16\nmomentum = 0.5\n[search]\nrepeats = 3\n"
    spec = load(tmp_path, text)

    cells = study_spec.fixed_trials(spec)
    drawn = [ask(spec, cell) for cell in cells]
    trained = [study_spec.to_model_configs(spec, values) for values, _ in drawn]

    assert (spec.budget.trials, spec.search.sampler, spec.search.pruner) == (6, "grid", "none")
    assert cells[:3] == (
        {"repeat": 0, "row": "base"},
        {"repeat": 0, "row": "no momentum"},
        {"repeat": 1, "row": "base"},
    )
    assert [asked for _, asked in drawn] == list(cells)
    assert [train.momentum for _, train, _ in trained] == [0.5, 0.0] * 3
    assert all(model.width == 16 for model, _, _ in trained)
    assert drawn[1][0]["momentum"] == 0.0


def test_a_row_may_make_a_parameter_relevant_with_its_base_value(tmp_path: Path) -> None:
    text = ROWS + "name = 'sgd'\noptimizer = 'sgd'\n[space]\noptimizer = 'adam'\nmomentum = 0.5\n"
    spec = load(tmp_path, text)

    values, _ = ask(spec, {"row": "sgd"})

    assert study_spec.to_model_configs(spec, values)[1] == TrainConfig(optimizer="sgd", momentum=0.5)
    assert values["repeat"] == 0


def test_a_budget_smaller_than_the_number_of_cells_is_accepted(tmp_path: Path) -> None:
    assert load(tmp_path, ROWS + "name = 'b'\nwidth = 8", budget__trials="1").budget.trials == 1


@pytest.mark.parametrize(
    ("text", "schema"),
    [(SMALL, 1), (TWO, 1), (ROWS + "name = 'b'\nwidth = 8", 1), (MIXED, 2), (MIXED_UNDER_A_CHOICE, 2)],
    ids=["search", "plain", "comparison", "zero or log", "zero or log under a choice"],
)
def test_a_spec_dumped_as_json_is_restored_unchanged(tmp_path: Path, text: str, schema: int) -> None:
    spec = load(tmp_path, text)

    stored = json.loads(json.dumps(stored_spec.dump(spec), allow_nan=False))

    assert stored["schema"] == schema  # older versions do not read lists with ranges, and refuse schema 2
    assert stored_spec.restore(stored) == spec
    assert study_spec.fixed_trials(stored_spec.restore(stored)) == study_spec.fixed_trials(spec)
    assert stored_spec.difference(stored_spec.restore(stored), spec) == []


def test_a_dump_includes_every_default(tmp_path: Path) -> None:
    stored = stored_spec.dump(load(tmp_path, SMALL))

    assert set(DEFAULTS) < set(stored["space"])
    assert stored["search"]["reduction"] == 3
    assert stored["search"]["rung_updates"] == 24


def test_a_study_of_an_older_version_has_defaults_for_missing_keys(tmp_path: Path) -> None:
    spec = load(tmp_path, SMALL)
    stored = stored_spec.dump(spec)
    for table, key in (("space", "cutout"), ("search", "reduction"), ("data", "test_share"), ("budget", "max_macs")):
        del stored[table][key]
    del stored["compare"]

    assert stored_spec.restore(stored) == spec


@pytest.mark.parametrize("table", ["budget", "search", "data", "space"])
def test_a_study_of_a_newer_version_is_refused(tmp_path: Path, table: str) -> None:
    stored = stored_spec.dump(load(tmp_path, SMALL))
    stored[table]["brand_new"] = 1

    with pytest.raises(SpecError, match=rf"a newer convsearch wrote the stored study \(\[{table}\] brand_new"):
        stored_spec.restore(stored)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    stored = stored_spec.dump(load(tmp_path, SMALL)) | {"schema": 3}

    with pytest.raises(SpecError, match="schema 3, but this convsearch reads 2; upgrade convsearch"):
        stored_spec.restore(stored)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("search.seed", "1", "[search] seed: 0 -> 1"),
        ("budget.max_macs", "5", "[budget] max_macs: nothing -> 5"),
        ("space.width", "[8, 16]", "[space] width: 8 -> [8, 16]"),
        ("space.momentum.high", "0.8", "[space] momentum: { low = 0.5, high = 0.9 } -> { low = 0.5, high = 0.8 }"),
        ("space.when.optimizer.adam.clip", "1", "[space.when.optimizer.adam] clip: nothing -> 1.0"),
        ("try", "[]", "[[try]] 1: { optimizer = 'sgd', learning_rate = 1.0 } -> nothing"),
        ("data.validation", "50", "[data] validation: nothing -> 50"),
    ],
    ids=lambda case: case if "." in case else "",
)
def test_a_difference_names_table_key_and_both_values(tmp_path: Path, key: str, value: str, line: str) -> None:
    stored = load(tmp_path, SMALL)

    new = load(tmp_path, SMALL, **{key.replace(".", "__"): value})

    assert stored_spec.difference(stored, new) == [line]


def test_budget_question_and_the_path_of_the_images_may_change(tmp_path: Path) -> None:
    text = SMALL.replace('"shapes"', '"folder"\npath = "here"')
    stored = load(tmp_path, text)

    new = load(tmp_path, text, budget__trials="9", budget__hours="1", question="Why?", data__path="there.zip")

    assert new != stored
    assert stored_spec.difference(stored, new) == []


def test_the_order_of_keys_in_a_file_changes_nothing(tmp_path: Path) -> None:
    first = GRID + "[space]\nwidth = [8, 16]\nactivation = ['relu', 'elu']"
    second = GRID + "[space]\nactivation = ['relu', 'elu']\nwidth = [8, 16]"

    assert study_spec.fixed_trials(load(tmp_path, first)) == study_spec.fixed_trials(load(tmp_path, second))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_study_loads_has_a_question_and_can_be_drawn(path: Path) -> None:
    spec = study_spec.load(path)

    first = next(iter(study_spec.fixed_trials(spec)), {})
    values, asked = ask(spec, first)

    assert spec.question.endswith("?")
    assert first.items() <= asked.items()
    study_spec.to_model_configs(spec, values)


def test_a_study_file_is_read_without_torch_and_optuna() -> None:
    code = "import sys, search.spec.study_spec; print(sorted({'torch', 'optuna', 'sqlalchemy'} & set(sys.modules)))"

    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert process.stdout.strip() == "[]"


@given(epochs=st.integers(1, 400), steps_per_epoch=st.sampled_from([1, 2, 4, 5, 10]))
def test_steps_are_epochs_times_steps_per_epoch_or_refused(epochs: int, steps_per_epoch: int) -> None:
    tables = {"budget": {"trials": 1, "epochs": epochs / 10, "steps_per_epoch": steps_per_epoch}}

    if epochs * steps_per_epoch % 10:
        with pytest.raises(SpecError, match="whole number of steps"):
            study_spec.build(tables)
    else:
        assert study_spec.build(tables).budget.steps == epochs * steps_per_epoch // 10
