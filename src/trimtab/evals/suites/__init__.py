"""One suite a file, found by its name."""

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trimtab import by_file
from trimtab.evals.suite import Suite, SuiteError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The suites there are, without importing them."""
    return by_file.names(_FOLDER)


def summary(name: str) -> str:
    """What it is, in a line; nothing is imported."""
    return by_file.summary(_FOLDER, name)


def load(name: str) -> Suite:
    """The suite of the file called `name`.

    Raises:
        SuiteError: with the nearest name.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names())}"
        raise SuiteError(f"there is no suite {name!r}; {hint}")
    return importlib.import_module(f"trimtab.evals.suites.{name}").SUITE


def check(name: str, settings: Mapping[str, Any]) -> Any:
    """The settings of a suite, with its defaults.

    Raises:
        SuiteError: naming the setting, what it is, and what may be meant.
    """
    options = load(name).options
    try:
        return options.model_validate(dict(settings))
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        key = str(first["loc"][0]) if first["loc"] else "settings"
        known = list(options.model_fields)
        if first["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"its settings: {', '.join(known) or 'none'}"
            raise SuiteError(f"suite {name} has no setting {key!r}; {hint}") from None
        raise SuiteError(f"{name}.{key} is {first['input']!r}; {first['msg'][0].lower()}{first['msg'][1:]}") from None
