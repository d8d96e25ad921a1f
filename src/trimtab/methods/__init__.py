"""One training system a file. A method is found by its file name: there is no list to edit."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab import by_file
from trimtab.mistakes import nearest

if TYPE_CHECKING:
    from trimtab.core.plan import Method

_FOLDER = Path(__file__).parent


class UnknownMethod(ValueError):
    """A name that no file in this folder has."""


def names() -> list[str]:
    """The methods there are, without importing them."""
    return by_file.names(_FOLDER)


def summary(name: str) -> str:
    """The first line of the method's docstring, without importing it."""
    return by_file.summary(_FOLDER, name)


def load(name: str) -> "Method":
    """The METHOD of the file called `name`.

    Raises:
        UnknownMethod: with the nearest name.
    """
    if name not in names():
        hint = nearest(name, names(), f"known methods: {', '.join(names())}")
        raise UnknownMethod(f"there is no method {name!r}; {hint}")
    return importlib.import_module(f"trimtab.methods.{name}").METHOD
