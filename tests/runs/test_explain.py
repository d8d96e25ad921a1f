"""Any key of a recipe is explained: type, default, help, and where it stands."""

from io import StringIO

import pytest
from rich.console import Console

from trimtab.commands.show_key import show_keys
from trimtab.common.yaml_text import read_tree
from trimtab.runs.explain import all_keys, explain, used_by
from trimtab.runs.recipe import RecipeError
from trimtab.runs.shipped import recipe_folder, shipped


def test_a_key_is_explained_by_type_default_and_help():
    (found,) = explain("models.teacher_cache")
    assert (found.kind, found.default) == ("off | memory | disk", "off")
    assert "in main memory" in found.help
    (rate,) = explain("training.learning_rate", ["kd"])
    assert (rate.kind, rate.default, rate.help) == ("float", "2e-05", "The initial learning rate for AdamW.")
    (epochs,) = explain("training.num_train_epochs")
    assert epochs.default == "1"  # TRL's is 3
    (both,) = explain("training.learning_rate")
    assert "2e-05" in both.default
    assert "1e-06" in both.default
    (precision,) = explain("training.bf16")
    assert precision.default == "false"  # ours, where TRL's is another
    assert "Off unless a recipe asks for it" in precision.help


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("training", ["training.max_steps"]),
        ("options", ["options.divergence"]),
        ("models", ["models.teacher", "models.policy.layers"]),
        ("models.policy", ["models.policy.from"]),
        ("models.lora", ["models.lora.r"]),
        ("data", ["data.train"]),
        ("eval", ["eval.every", "eval.suites.NAME.limit"]),
        ("eval.suites.geomrel", ["eval.suites.NAME.limit"]),
        ("stages", ["stages.use", "stages.name"]),
        ("reward", ["reward.correct"]),
    ],
)
def test_a_section_is_explained_with_its_keys_and_nothing_else(section, keys):
    console = Console(file=StringIO(), width=200)
    show_keys(section, None, console)
    head, _, table = console.file.getvalue().partition("what it does")
    said = head.splitlines()
    assert said[0] in (section, "eval.suites.NAME")
    assert len(said[3].strip()) > 10, head  # its help
    listed = [line.split()[0] for line in table.splitlines()[1:] if line and line[0] != " "]
    assert set(keys) <= set(listed)
    assert {name.split(".")[0] for name in listed} == {section.split(".")[0]}


def test_the_keys_of_one_method_are_its_options_and_its_training_arguments():
    console = Console(file=StringIO(), width=200)
    show_keys(None, "psft", console)
    listed = {line.split()[0] for line in console.file.getvalue().splitlines()[1:] if line[0] != " "}
    assert {name.split(".")[0] for name in listed} == {"options", "training"}
    assert "training.num_generations" not in listed


def test_defaults_are_those_of_a_recipe():
    said = {one.key: one.default for one in all_keys()}
    assert said["output"] == "runs/NAME, for the recipe NAME.yaml"
    assert said["stages"] == "none"
    assert said["models.policy.layers"] == "required if models.policy is a mapping"
    assert said["options.weight"] == "one"
    assert not {"True", "False", "None"} & set(said.values())
    assert not [one.key for one in all_keys() if "%%" in one.help]


def test_an_option_is_explained_for_one_method_or_for_all_that_have_it():
    (one,) = explain("options.epsilon", ["psft"])
    assert (one.of, one.default) == ("psft", "0.28")
    assert {"psft", "ppo"} <= {each.of for each in explain("options.epsilon")}


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ("max_steps", "training.max_steps"),
        ("lr", "training.learning_rate"),
        ("eval.suites.gsm8k.limit", "eval.suites.NAME.limit"),
        ("models.lora.r", "models.lora.r"),
        ("models.policy.layers", "models.policy.layers"),
        ("stages.use", "stages.use"),
        ("seeds", "seeds"),
        ("models", "models"),
    ],
)
def test_a_key_is_found_as_people_write_it(asked, key):
    assert explain(asked)[0].key == key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("models.teacher_cach", "did you mean 'models.teacher_cache'"),
        ("trainin.max_steps", "did you mean 'training.max_steps'"),
        ("learnig_rate", "did you mean 'training.learning_rate'"),
        ("zzzz", "lists all keys"),
    ],
)
def test_a_key_that_is_not_there_is_refused_with_the_nearest(key, message):
    with pytest.raises(RecipeError, match=message):
        explain(key)


def test_the_recipes_that_use_a_key_are_named():
    assert used_by("models.teacher_cache") == [
        name for name in shipped() if "teacher_cache" in (recipe_folder() / f"{name}.yaml").read_text()
    ]
    assert "demo" in used_by("options.divergence", "kd")
    assert used_by("options.divergence", "psft") == []
    assert "tiny_grpo" in used_by("stages.use")


def test_every_key_of_every_shipped_recipe_is_explained():
    known = {one.key for one in all_keys()}
    for name in shipped():
        tree = read_tree(recipe_folder() / f"{name}.yaml", RecipeError)
        for run in [tree, *(tree.get("stages") or ())]:
            for section in ("models", "data", "eval", "options", "training"):
                keys = {f"{section}.{key}" for key in run.get(section) or {}} - {"models.student"}
                assert keys <= known, name
    assert not [one.key for one in all_keys() if not one.help and one.key.count(".") < 2 and "." in one.key]


def test_show_prints_an_explanation_and_a_list(capsys):
    console = Console(file=StringIO(), width=200)
    show_keys("options.epsilon", "psft", console)
    show_keys(None, "psft", console)
    text = console.file.getvalue()
    assert "type     float | null" in text
    assert "default  0.28" in text
    assert "tiny_psft" in text
    assert "training.max_steps" in text
    assert "options.refresh" in text
    assert "options.gamma" not in text
    with pytest.raises(Exception, match="did you mean 'psft'"):
        show_keys("options.epsilon", "psf", console)


def test_the_command_line_shows_keys_and_the_schema(trimtab):
    status, said, _ = trimtab("show", "train", "models.teacher_cache")
    assert (status, "off | memory" in said) == (0, True)
    status, _, said = trimtab("show", "train", "models.teacher_cach")
    assert (status, "did you mean 'models.teacher_cache'" in said) == (2, True)
    status, _, said = trimtab("show", "kd", "models.teacher")
    assert (status, "trimtab show train models.teacher" in said) == (2, True)
    status, said, _ = trimtab("schema")
    assert status == 0
    assert said == (recipe_folder() / "schema.json").read_text(encoding="utf-8")
