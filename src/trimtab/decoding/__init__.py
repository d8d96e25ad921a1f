"""One decoding strategy a file: a function of the file's name for `model.generate(..., custom_generate=)`."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The strategies there are, without importing them."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if not path.stem.startswith("_"))


def summary(name: str) -> str:
    """The first line of the strategy's docstring, without importing it."""
    return (ast.get_docstring(ast.parse((_FOLDER / f"{name}.py").read_text())) or "").partition("\n")[0]


def load(name: str) -> Callable[..., Any]:
    """The function of the file called `name`."""
    return getattr(importlib.import_module(f"trimtab.decoding.{name}"), name)
