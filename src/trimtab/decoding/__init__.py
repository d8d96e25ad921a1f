"""One decoding strategy a file: a function of the file's name for `model.generate(..., custom_generate=)`."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab import by_file

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The strategies there are, without importing them."""
    return by_file.names(_FOLDER)


def summary(name: str) -> str:
    """The first line of the strategy's docstring, without importing it."""
    return by_file.summary(_FOLDER, name)


def load(name: str) -> Callable[..., Any]:
    """The function of the file called `name`."""
    return getattr(importlib.import_module(f"trimtab.decoding.{name}"), name)
