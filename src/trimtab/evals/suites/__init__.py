"""One suite a file, found by its name."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.common import by_file
from trimtab.common.errors import check_known, check_settings
from trimtab.evals import SuiteError

if TYPE_CHECKING:
    from trimtab.evals.suite import Suite

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The suites there are, without importing them."""
    return by_file.names(_FOLDER)


def summary(name: str) -> str:
    """What it is, in a line; nothing is imported."""
    return by_file.summary(_FOLDER, name)


def check_name(name: str) -> None:
    """Whether there is such a suite, without importing it.

    Raises:
        SuiteError: with the nearest name.
    """
    check_known(name, names(), "suite", "there are", SuiteError)


def load(name: str) -> "Suite":
    """The suite of the file called `name`.

    Raises:
        SuiteError: with the nearest name.
    """
    check_name(name)
    return importlib.import_module(f"trimtab.evals.suites.{name}").SUITE


def check(name: str, settings: Mapping[str, Any]) -> Any:
    """The settings of a suite, with its defaults.

    Raises:
        SuiteError: naming the setting, what it is, and what may be meant.
    """
    return check_settings(load(name).options, settings, f"suite {name}", f"{name}.", SuiteError)
