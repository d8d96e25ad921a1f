"""The JSON Schema takes what a recipe may hold, refuses what it may not, and is current."""

import json

import jsonschema
import pytest
import yaml

from trimtab.common.yaml_text import read_tree
from trimtab.runs.parse import load_recipe
from trimtab.runs.recipe import RecipeError, dump
from trimtab.runs.schema import text
from trimtab.runs.shipped import recipe_folder, shipped

FILE = "schema.json"


@pytest.fixture(scope="module")
def check():
    schema = json.loads((recipe_folder() / FILE).read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_the_schema_that_comes_with_the_recipes_is_current():
    assert (recipe_folder() / FILE).read_text(encoding="utf-8") == text(), "trimtab schema > recipes/schema.json"


def test_every_shipped_recipe_and_what_its_dry_run_prints_fits(check):
    for name in shipped():
        for tree in (read_tree(recipe_folder() / f"{name}.yaml", RecipeError), yaml.safe_load(dump(load_recipe(name)))):
            assert not [f"{name}: {list(error.path)} {error.message[:200]}" for error in check.iter_errors(tree)]


def test_every_shipped_recipe_names_the_schema_to_editors():
    for name in shipped():
        lines = (recipe_folder() / f"{name}.yaml").read_text(encoding="utf-8").split("\n")
        assert lines[0].startswith("# ")
        assert lines[1] == f"# yaml-language-server: $schema={FILE}"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"modles": 1}, []),
        ({"method": "kdd"}, ["method"]),
        ({"options": {"divergenc": "forward_kl"}}, ["options"]),
        ({"options": {"divergence": "forward"}}, ["options"]),
        ({"training": {"max_stepz": 3}}, ["training"]),
        ({"training": {"num_generations": 3}}, ["training"]),  # of methods that learn from their own completions
        ({"training": {"max_steps": "many"}}, ["training"]),
        ({"training": {"optim": "adam"}}, ["training"]),
        ({"models": {"teacher": "x"}}, ["models"]),
        ({"data": {"heldout": "x"}}, ["data"]),
        ({"seeds": [1, 1]}, ["seeds"]),
        ({"stages": [{"use": 3}]}, ["stages", 0, "use"]),
        ({"stages": [{"method": "kd", "options": {"x": 1}}]}, ["stages", 0, "options"]),
        ({"stages": [{"name": "a", "output": "b"}]}, ["stages", 0]),
    ],
)
def test_a_mistake_does_not_fit(check, changes, place):
    tree = {**read_tree(recipe_folder() / "tiny_kd.yaml", RecipeError), **changes}
    assert place in [list(error.path) for error in check.iter_errors(tree)]


@pytest.mark.parametrize(
    "changes",
    [
        {"options": None, "eval": None},
        {"method": "mine.py", "options": {"anything": 1}},
        {"method": "package.mine"},
        {"models": {"policy": {"from": "x", "layers": [0, 2]}}},
        {"models": {"student": "x"}},
        {"eval": {"suites": {"gsm8k": None}}},
        {"reward": "exact"},
        {"reward": ["exact", {"name": "math", "incorrect": -1}]},
        {"stages": [{"use": "tiny_policy", "training": {"max_steps": 3}}, {"name": "x"}]},
        {"seeds": [0, 1]},
    ],
)
def test_what_a_recipe_may_hold_fits(check, changes):
    assert not list(check.iter_errors({**read_tree(recipe_folder() / "tiny_kd.yaml", RecipeError), **changes}))
