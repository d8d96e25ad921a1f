"""What of a recipe can be checked in a moment, before torch and transformers are imported: names, files, folders."""

from collections.abc import Sequence
from pathlib import Path

from trimtab.data.sources import check_there as check_rows
from trimtab.mistakes import looked_in
from trimtab.models.places import check_there as check_model
from trimtab.recipe import FROZEN, STORED, Recipe, RecipeError


def check_places(recipes: Sequence[Recipe]) -> None:
    """Look for all that the recipes of one command name.

    Args:
        recipes: in the order of their runs; a model that an earlier one writes need not be there yet.

    Raises:
        ValueError: a subclass that names what is not there.
    """
    made: set[str] = set()
    for recipe in recipes:
        for source in filter(None, (recipe.data.train, recipe.data.heldout)):
            check_rows(source)
        for reward in recipe.reward:
            place = reward.name.rpartition(":")[0]
            if place.endswith(".py") and not Path(place).is_file():
                raise RecipeError(
                    f"reward: there is no file {place}{looked_in(place)}; a reward of your own is FILE.py:FUNCTION"
                )
        for role, name in _models(recipe).items():
            if name not in made:
                check_model(name, f"models.{role}")
        made.add(f"{recipe.output}/model")


def _models(recipe: Recipe) -> dict[str, str]:
    models = recipe.models
    policy = models.policy if isinstance(models.policy, str) else models.policy.source
    named = {"policy": policy, **{role: getattr(models, role) for role in (*FROZEN, "credit")}}
    return {role: name for role, name in named.items() if name not in (None, STORED, "teacher")}
