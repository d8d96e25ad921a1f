"""One training system a file. A method is found by its file name: there is no list to edit."""

import ast
import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.core.plan import Method

_FOLDER = Path(__file__).parent


class UnknownMethod(ValueError):
    """A name that no file in this folder has."""


def names() -> list[str]:
    """The methods there are, without importing them."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if not path.stem.startswith("_"))


def summary(name: str) -> str:
    """The first line of the method's docstring, without importing it."""
    return (ast.get_docstring(ast.parse((_FOLDER / f"{name}.py").read_text())) or "").partition("\n")[0]


def load(name: str) -> "Method":
    """The METHOD of the file called `name`.

    Raises:
        UnknownMethod: with the nearest name.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known methods: {', '.join(names())}"
        raise UnknownMethod(f"there is no method {name!r}; {hint}")
    return importlib.import_module(f"trimtab.methods.{name}").METHOD
