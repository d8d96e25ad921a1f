"""Discovery by file name: there is no registry to edit."""

import ast
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from trimtab.common.errors import UserError, check_known


@dataclass
class Catalogue:
    """The modules of a package, one entry each. A leading _ marks shared parts, which do not count."""

    folder: Path
    package: str
    """its dotted name"""
    what: str
    """what an entry is called: "method\""""
    error: type[UserError]
    others: Callable[[], Iterable[str]] = tuple
    """known names besides the files"""

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.py") if not path.stem.startswith("_"))

    def known(self) -> list[str]:
        return sorted([*self.names(), *self.others()])

    def summary(self, name: str) -> str:
        return summary(self.folder, name)

    def check_name(self, name: str) -> None:
        check_known(name, self.known(), self.what, "there are", self.error)

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.package}.{name}")


def summary(folder: Path, name: str) -> str:
    """The first line of a file's docstring, without importing it."""
    return (ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) or "").partition("\n")[0]
