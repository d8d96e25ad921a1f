"""Read a recipe file as a tree of plain values."""

from pathlib import Path
from typing import Any

import yaml

from trimtab.common.files import DataError, read_text
from trimtab.common.yaml_text import Loader
from trimtab.runs.recipe import RecipeError


def read_tree(path: Path) -> dict[str, Any]:
    """The contents of a recipe file.

    Raises:
        RecipeError: if it is not valid YAML, or not a mapping.
    """
    try:
        tree = yaml.load(read_text(path), Loader)
    except DataError as error:
        raise RecipeError(str(error)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}:{at} is not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds a {type(tree).__name__}, expected keys and values")
    return tree
