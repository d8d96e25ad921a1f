"""What is found by its file name: there is no registry and no list to edit."""

import ast
from pathlib import Path


def names(folder: Path) -> list[str]:
    """The files of `folder`, without importing them; those with a leading _ are shared parts and do not count."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def summary(folder: Path, name: str) -> str:
    """The first line of the file's docstring, without importing it."""
    return (ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) or "").partition("\n")[0]
