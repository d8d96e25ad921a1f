"""The shipped recipes."""

from pathlib import Path

from trimtab.common.errors import closest, looked_in
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
    if path.parent != Path() or not file.is_file():
        raise RecipeError(f"there is no recipe {path}; {_instead(path)}")
    return file


def _instead(path: Path) -> str:
    """What a name that is none of a recipe may mean: a file beside it, a run's recipe, or a shipped one."""
    if (path / "recipe.yaml").is_file():
        return f"did you mean {path / 'recipe.yaml'}?"
    beside = sorted(str(one) for pattern in ("*.yaml", "*.yml") for one in path.parent.glob(pattern))
    same = [name for name in beside if Path(name).stem == path.name]
    if close := next(iter(same), None) or closest(str(path), [*beside, *shipped()]) or closest(path.stem, shipped()):
        return f"did you mean {close!r}?"
    return f"trimtab list recipes lists the shipped ones{looked_in(path)}"
