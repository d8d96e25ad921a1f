"""The recipes that come with trimtab."""

from pathlib import Path

from trimtab.common.errors import nearest
from trimtab.runs.recipe import RecipeError


def recipe_folder() -> Path:
    """Where the recipes that come with trimtab lie."""
    here = Path(__file__).parents[1] / "recipes"  # inside a wheel
    return here if here.is_dir() else Path(__file__).parents[3] / "recipes"


def shipped() -> list[str]:
    """Names of the recipes that come with trimtab."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def find(path: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that comes with trimtab.

    Raises:
        RecipeError: naming the nearest one.
    """
    path = Path(path)
    if path.is_file():
        return path
    file = recipe_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        said = nearest(path.stem, shipped(), f"recipes that come with trimtab: {', '.join(shipped())}")
        raise RecipeError(f"there is no recipe {path}; {said}")
    return file
