"""What is found by its file name: there is no registry and no list to edit."""

import ast
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from trimtab.common.errors import UserError, check_known


@dataclass
class Catalogue:
    """The files of a package, one thing each. Files with a leading _ are shared parts and do not count."""

    folder: Path
    package: str
    """its dotted name"""
    what: str
    """what one of them is called: "method\""""
    error: type[UserError]
    others: Callable[[], Iterable[str]] = tuple
    """names that are known besides the files"""

    def names(self) -> list[str]:
        """The names of the files, without importing them."""
        return sorted(path.stem for path in self.folder.glob("*.py") if not path.stem.startswith("_"))

    def known(self) -> list[str]:
        """Those, and the others that are known."""
        return sorted([*self.names(), *self.others()])

    def summary(self, name: str) -> str:
        """What it is, in a line; nothing is imported."""
        return summary(self.folder, name)

    def check_name(self, name: str) -> None:
        """Check that the name is known, without importing anything.

        Raises:
            UserError: of the kind `error`, with the nearest name.
        """
        check_known(name, self.known(), self.what, "there are", self.error)

    def module(self, name: str) -> ModuleType:
        """The module of the file called `name`."""
        return importlib.import_module(f"{self.package}.{name}")


def summary(folder: Path, name: str) -> str:
    """The first line of a file's docstring, without importing it."""
    return (ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) or "").partition("\n")[0]
