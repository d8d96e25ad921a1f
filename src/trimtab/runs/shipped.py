"""The shipped recipes."""

from pathlib import Path

from trimtab.common.errors import nearest
from trimtab.runs.recipe import RecipeError


def recipe_folder() -> Path:
    """Folder of the shipped recipes."""
    here = Path(__file__).parents[1] / "recipes"  # inside a wheel
    return here if here.is_dir() else Path(__file__).parents[3] / "recipes"


def shipped() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def find(path: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a shipped one.

    Raises:
        RecipeError: naming the nearest one.
    """
    path = Path(path)
    if path.is_file():
        return path
    file = recipe_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        hint = nearest(path.stem, shipped(), f"shipped recipes: {', '.join(shipped())}")
        raise RecipeError(f"there is no recipe {path}; {hint}")
    return file
