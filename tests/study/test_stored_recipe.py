"""A stored study keeps the values of its recipe, with another speed, other rules, and on other machines."""

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from search.errors import SpecError
from search.spec import recipe as recipes
from search.spec import study_spec
from search.spec.derived_specs import ablation_spec, single_trial_spec
from search.spec.parameters import DEFAULTS
from search.spec.recipe import USUAL, RecipeInputs
from search.spec.study_spec import StudySpec
from search.storage import attr_keys, queries
from search.storage.rdb import Storage
from search.storage.tables import STUDY_ATTRS
from search.study import stored_study
from search.study.stored_study import StoredStudy
from tests.harness import DATA

TEXT = """
question = "auto"
[data]
source = "folder"
path = "/photos"
image_size = "auto"
[budget]
hours = 1.0
[final]
test_time_augmentation = "auto"
[space]
width = { low = "auto / 2", high = "auto * 2" }
learning_rate = "auto"
"""


def write(text: str = TEXT) -> StudySpec:
    """The study of a file, before its images are known."""
    return study_spec.build(tomllib.loads(text))


def inputs(**compute: float) -> RecipeInputs:
    return USUAL.model_copy(update={"compute": USUAL.compute.model_copy(update=compute)})


def create(url: str, text: str = TEXT, made_for: RecipeInputs = USUAL) -> StoredStudy:
    spec = study_spec.with_recipe(write(text), made_for)
    return stored_study.open_or_create(Storage(url, create=True), spec, name="s", data=DATA)


def check(url: str, text: str = TEXT) -> StudySpec:
    """The spec of the same command once more."""
    return stored_study.check(Storage(url), write(text), name="s")[0]


def comparable(spec: StudySpec) -> Mapping[str, Any]:
    return {"space": spec.space, "points": spec.points, "data": spec.data, "question": spec.question}


def change_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a later version may."""
    monkeypatch.setattr(recipes, "MAX_WIDTH", 40)
    monkeypatch.setattr(recipes, "MAX_SIDE", 40)
    monkeypatch.setattr(recipes, "LEARNING_RATES", {**recipes.LEARNING_RATES, "muon": 0.7})


def test_a_study_that_is_not_stored_has_no_recipe_yet(url: str) -> None:
    Storage(url, create=True)
    assert write().is_provisional
    assert check(url).is_provisional


def test_the_same_file_has_the_values_of_the_first_run(url: str) -> None:
    slow = inputs(macs_per_second=1e9)
    stored = create(url, made_for=slow)
    again = check(url)
    assert not again.is_provisional
    assert comparable(again) == comparable(stored.spec)
    assert comparable(again) != comparable(write())
    assert stored_study.load(Storage(url), "s").spec == stored.spec


def test_rules_of_a_later_version_change_no_stored_study(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = create(url)
    change_rules(monkeypatch)
    assert comparable(study_spec.with_recipe(write(), USUAL)) != comparable(stored.spec)
    again = check(url)
    assert comparable(again) == comparable(stored.spec)
    opened = stored_study.open_or_create(Storage(url), again, name="s", data=DATA)
    assert (opened.uid, opened.spec.space) == (stored.uid, stored.spec.space)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hours = 1.0", "hours = 2.0"),
        ("hours = 1.0", "hours = 1.0\ntrials = 7"),
        ('path = "/photos"', 'path = "/moved"'),
        ('test_time_augmentation = "auto"', 'test_time_augmentation = "none"'),
        ('test_time_augmentation = "auto"', 'test_time_augmentation = "auto"\nshare = 0.3'),
        ('question = "auto"', 'question = "Which of my photos is it?"'),
    ],
)
def test_what_may_change_in_the_file_may_change_beside_a_recipe(
    url: str, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    stored = create(url)
    change_rules(monkeypatch)
    text = TEXT.replace(old, new)
    again = check(url, text)
    assert (again.space, again.points) == (stored.spec.space, stored.spec.points)
    assert again.data.image_size == stored.spec.data.image_size
    assert again.question == ("Which of my photos is it?" if "photos is" in new else stored.spec.question)
    assert stored_study.open_or_create(Storage(url), again, name="s", data=DATA).uid == stored.uid


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('learning_rate = "auto"', 'learning_rate = "auto * 2"', "learning_rate"),
        ('learning_rate = "auto"', "learning_rate = 0.5", "learning_rate"),
        ('image_size = "auto"', "image_size = 17", "image_size"),
        ('width = { low = "auto / 2"', "width = { low = 4", "width"),
    ],
)
def test_a_changed_file_is_refused_with_the_difference(url: str, old: str, new: str, message: str) -> None:
    create(url)
    with pytest.raises(SpecError, match=message) as caught:
        check(url, TEXT.replace(old, new))
    assert "auto" not in str(caught.value).replace("--name", "")


def test_a_file_that_says_the_same_in_other_words_is_the_same_study(url: str) -> None:
    stored = create(url)
    rate = stored.spec.space.parameters["learning_rate"].single_value
    assert comparable(check(url, TEXT.replace('learning_rate = "auto"', f"learning_rate = {rate}"))) == comparable(
        stored.spec
    )


def test_a_study_that_was_begun_with_plain_values_goes_on_with_them(url: str) -> None:
    plain = (
        TEXT.replace('"auto / 2"', "8").replace('"auto * 2"', "16").replace('image_size = "auto"', "image_size = 20")
    )
    plain = (
        plain.replace('learning_rate = "auto"', "")
        .replace('test_time_augmentation = "auto"', "")
        .replace('question = "auto"', "")
    )
    spec = write(plain)
    assert spec.template is None
    stored_study.open_or_create(Storage(url, create=True), spec, name="s", data=DATA)
    again = check(url)
    assert not again.is_provisional
    assert (again.space, again.points, again.data) == (spec.space, spec.points, spec.data)
    assert check(url, TEXT.replace("hours = 1.0", "hours = 2.0")).budget.hours == 2.0


def test_a_database_without_a_stored_recipe_keeps_its_values(url: str) -> None:
    """As an older version wrote it, or a copy of a study without this attribute."""
    stored = create(url)
    storage = Storage(url)
    storage.write(
        lambda connection: connection.execute(sa.delete(STUDY_ATTRS).where(STUDY_ATTRS.c.key == attr_keys.RECIPE))
    )
    assert stored_study.load(storage, "s").spec == stored.spec
    assert queries.study(storage.engine, "s").recipe == {}


def test_another_machine_that_creates_the_study_at_once_gets_the_recipe_of_the_first(url: str) -> None:
    first = create(url)
    other = study_spec.with_recipe(write(), inputs(macs_per_second=1e8))
    assert comparable(other) != comparable(first.spec)
    second = stored_study.open_or_create(Storage(url), other, name="s", data=DATA)
    assert (second.uid, second.spec.space, second.spec.points) == (first.uid, first.spec.space, first.spec.points)


def test_the_settings_are_stored_with_their_reasons_and_the_inputs_of_the_recipe(url: str) -> None:
    create(url)
    record = queries.study(Storage(url).engine, "s")
    assert RecipeInputs.model_validate(record.recipe["inputs"]) == USUAL
    assert record.recipe["settings"]["learning_rate"].keys() == {"value", "reason"}
    assert record.question.startswith("Which CNN tells 10 classes apart best")


def test_a_study_without_a_recipe_stores_none(url: str) -> None:
    spec = study_spec.build({"budget": {"epochs": 1}, "space": {"width": [8, 16]}})
    stored_study.open_or_create(Storage(url, create=True), spec, name="s", data=DATA)
    assert queries.study(Storage(url).engine, "s").recipe == {}


def test_a_study_made_from_another_is_not_filled_again(url: str) -> None:
    stored = create(url)
    repeated = single_trial_spec(stored.spec, DEFAULTS, question="Again?", seed=1)
    compared = ablation_spec(stored.spec, {"one": DEFAULTS}, question="Best?", seed=1, repeats=2)
    for spec in (repeated, compared):
        assert (spec.template, spec.recipe, spec.is_provisional) == (None, None, False)
