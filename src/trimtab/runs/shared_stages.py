"""Stages that several recipes share: a finished one with the same signature is reused instead of trained again.

A stage `use: NAME` is written to `NAME`, next to the output of the recipe that uses it, so that all recipes with the
same parent folder find it. If a different run is there (another recipe, other rows, models or code), it is left alone,
and the stage is trained in the recipe's own folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from trimtab.common.terminal import say
from trimtab.common.workdir import different
from trimtab.runs.folder import is_finished, other_keys, other_lines, stored_recipe
from trimtab.runs.job import load_job
from trimtab.runs.models_key import OTHERS, is_teacher, rename_models
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import Recipe, dump
from trimtab.runs.stages import beside


def place(recipes: Sequence[Recipe], console: Console) -> None:
    """Decide by the stored recipes which folder each used stage has, and update the stages that start from it."""
    for number, recipe in enumerate(recipes):
        if not is_shared(recipe):
            continue
        assert recipe.used is not None
        folder = Path(recipe.output)
        if (Path(recipe.used.own) / "recipe.yaml").is_file():  # it was trained there before
            to_own_folder(recipes, number)
        elif (folder / "recipe.yaml").is_file() and (other := _another(folder, recipe)):
            to_own_folder(recipes, number, other, console)


def is_shared(recipe: Recipe) -> bool:
    """Whether it is a used stage in the folder shared by all users of its recipe."""
    return recipe.used is not None and recipe.used.shared and recipe.output != recipe.used.own


def is_reusable(recipe: Recipe) -> bool:
    """Whether the folder of a used stage holds a finished run of the same recipe."""
    folder = Path(recipe.output)
    return is_shared(recipe) and (folder / "recipe.yaml").is_file() and is_finished(folder)


def reused(recipes: Sequence[Recipe], number: int, shared: Shared, console: Console) -> bool:
    """Whether the finished run of a used stage is what the recipe would produce now; otherwise the stage moves.

    Rows and models are loaded to compare their fingerprints.
    """
    recipe = recipes[number]
    folder = Path(recipe.output)
    job = load_job(recipe, shared, Console(quiet=True))
    if other := other_lines(folder, job.signature, read=_by_content):
        to_own_folder(recipes, number, f"{folder} was trained with {different(*other[0])}", console)
        return False
    say(console, f"{folder} is already finished, with the same recipe, rows, models and code: reused")
    return True


def to_own_folder(recipes: Sequence[Recipe], number: int, why: str = "", console: Console | None = None) -> None:
    """Move a used stage to a folder of this recipe, and later stages start from there; a used stage among them is no
    longer the shared run, and moves too."""
    recipe = recipes[number]
    assert recipe.used is not None
    old, recipe.output = recipe.output, recipe.used.own
    if console is not None:
        say(console, f"{why}; {recipe.used.title} is trained again in {recipe.output}")
    for later in range(number + 1, len(recipes)):
        was, now = f"{old}/model", f"{recipe.output}/model"
        roles = rename_models(recipes[later].models, lambda name: now if name == was else name)  # noqa: B023
        if roles and is_shared(recipes[later]):
            to_own_folder(recipes, later, f"{recipes[later].output} starts from {old}", console)


def _another(folder: Path, recipe: Recipe) -> str:
    """How a folder's run differs from a recipe, in words; empty if it is the same."""
    stored, asked = (_movable(one) for one in (stored_recipe(folder / "recipe.yaml"), yaml.safe_load(dump(recipe))))
    other = other_keys(stored, asked)
    if not other:
        return ""
    key, was, now = other[0]
    return f"{folder} holds a run of another recipe ({key} is {was} there and {now} here)"


def _movable(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree without its folder, with neighbouring runs as @NAME, so that moved runs compare equal."""
    near = f"{beside(str(tree.get('output')))}/"
    models = {
        role: f"@{name[len(near) :]}" if str(name).startswith(near) else name for role, name in tree["models"].items()
    }
    return {**tree, "models": models, "output": None, "minutes": None}


def _by_content(key: str, value: str) -> str:
    """Of a line that names a model only the fingerprint, without its path."""
    return value.rpartition(" ")[2] if key in ("policy", *OTHERS) or is_teacher(key) else value
