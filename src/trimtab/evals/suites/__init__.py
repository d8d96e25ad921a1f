"""One suite a file, found by its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.common import by_file
from trimtab.common.errors import check_settings
from trimtab.evals import SuiteError

if TYPE_CHECKING:
    from trimtab.evals.suite import Suite

_FILES = by_file.Catalogue(Path(__file__).parent, __name__, "suite", SuiteError)
names, summary, check_name = _FILES.names, _FILES.summary, _FILES.check_name


def load(name: str) -> "Suite":
    """The suite of the file called `name`.

    Raises:
        SuiteError: with the nearest name.
    """
    check_name(name)
    return _FILES.module(name).SUITE


def check(name: str, settings: Mapping[str, Any]) -> Any:
    """The settings of a suite, with its defaults.

    Raises:
        SuiteError: naming the setting, what it is, and what may be meant.
    """
    return check_settings(load(name).options, settings, f"suite {name}", f"{name}.", SuiteError)
