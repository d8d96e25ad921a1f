"""`import trimtab`: what is public, that it is imported late, and that a run from Python is that of the command."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import tiny_folder
import trimtab
from trimtab import agents
from trimtab.runs.parse import parse
from trimtab.runs.run import run


@pytest.mark.parametrize("name", trimtab.__all__)
def test_each_public_name_is_there_and_says_what_it_is(name):
    thing = getattr(trimtab, name)
    assert callable(thing)
    assert thing.__doc__
    assert name in dir(trimtab)


@pytest.mark.parametrize("name", agents.__all__)
def test_each_name_of_agents_is_there_and_says_what_it_is(name):
    assert getattr(agents, name).__doc__
    with pytest.raises(AttributeError, match="module 'trimtab.agents' has no attribute 'no_such'"):
        _ = agents.no_such


def test_nothing_but_public_names_is_offered():
    assert set(dir(trimtab)) == {*trimtab.__all__, "__version__"}


def test_train_shows_its_arguments_though_it_is_a_folder_too():
    import inspect

    assert list(inspect.signature(trimtab.train).parameters) == ["recipe", "resume", "edited", "console", "changes"]
    page = (Path(__file__).parents[1] / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert "trimtab.train(recipe: str | Path, *, resume: bool = False" in page
    for name in ("Result", "RecipeError"):
        assert f"### {name}\n" in page


def test_a_name_that_is_not_public_is_not_there():
    with pytest.raises(AttributeError, match="module 'trimtab' has no attribute 'no_such'"):
        _ = trimtab.no_such


def test_torch_is_not_imported_before_a_name_asks_for_it():
    code = (
        "import sys, trimtab, trimtab.agents; trimtab.UserError; assert 'torch' not in sys.modules; "
        "trimtab.Plan; sys.modules['torch']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_says_that_it_is_typed():
    assert (Path(trimtab.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
def test_a_run_from_python_is_that_of_the_command(tmp_path):
    """The folder of the loops has the same name as the function, and is imported before it is called."""
    files = tiny_folder.lay_out(tmp_path)
    tree = tiny_folder.recipe(files, "sft", models={"student": None, "teacher": None})
    tree["models"] = {"policy": str(files / "teacher")}
    import yaml

    import trimtab.train.rollouts

    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    changes = {"training": {"max_steps": 2, "learning_rate": 1e-5}, "options": {"weight": "probability"}}
    made = trimtab.train(tmp_path / "mine.yaml", output=str(tmp_path / "run"), **changes)
    tree["training"] |= changes["training"]
    plain = run(parse({**tree, **{k: changes[k] for k in ("options",)}, "output": str(tmp_path / "other")}, "x", "x"),
                console=Console(quiet=True))  # fmt: skip
    one, other = (folder / "model" / "model.safetensors" for folder in (made.folder, plain.folder))
    assert one.read_bytes() == other.read_bytes()
    assert made.report.is_file()
    loaded = trimtab.load_recipe(made.folder / "recipe.yaml")
    assert loaded.training["learning_rate"] == 1e-5
    assert isinstance(made, trimtab.Result)
    with pytest.raises(trimtab.RecipeError, match="options of sft has no key 'wieght'; did you mean 'weight'"):
        trimtab.train(tmp_path / "mine.yaml", options={"wieght": "one"})


def test_a_suite_is_asked_from_python(tmp_path):
    files = tiny_folder.lay_out(tmp_path)
    found = trimtab.evaluate(files / "teacher", ["geomrel"], limit=2, out=tmp_path / "eval", max_new_tokens=2)
    assert (found["geomrel"] / "evaluation.json").is_file()
    again = trimtab.evaluate(files / "teacher", "geomrel", limit=2, out=tmp_path / "eval", max_new_tokens=2)
    assert again == found
    with pytest.raises(trimtab.UserError, match="limit"):
        trimtab.evaluate(files / "teacher", ["geomrel"], limit=0)
