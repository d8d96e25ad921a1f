"""Code besides trimtab's and that of installed packages: what a run's numbers depend on and no recipe holds."""

import ast
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from trimtab.common import fingerprint

_LIBRARIES = (sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_INSTALLED = tuple(Path(one) for one in (*_LIBRARIES, Path(__file__).parents[1]))
_PACKAGES = {"site-packages", "dist-packages"}
"""folders of packages, also of the user's own and of Debian's, which sysconfig does not name"""


def installed(file: str | Path) -> bool:
    """Whether a file, or a folder, is of a kind that a user has not written."""
    path = Path(file)
    return not _PACKAGES.isdisjoint(path.parts) or any(path.is_relative_to(one) for one in _INSTALLED)


def files(modules: Iterable[ModuleType | None]) -> list[Path]:
    """The files of these modules, and of what they import from outside of installed packages, sorted.

    What they import is found in their text, also where it is imported inside a function; what they read otherwise is
    not.
    """
    found: set[Path] = set()
    waiting = [Path(name) for one in modules if (name := getattr(one, "__file__", None))]
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += [other for other in _imported(path) if not installed(other)]
    return sorted(found)


def described(paths: Iterable[Path]) -> str:
    """Each file with the fingerprint of what it holds: "helpers.py 1f0e..., own.py 77ab..."."""
    return ", ".join(f"{path.name} {fingerprint.of_files([path])}" for path in sorted(set(paths)))


def changes(before: str, now: str) -> str:
    """What differs between two of `described`, in words."""
    one, other = (dict(part.rsplit(" ", 1) for part in text.split(", ") if " " in part) for text in (before, now))
    said = [f"{name} was edited" for name in one if name in other and one[name] != other[name]]
    said += [f"{name} is used no more" for name in one.keys() - other.keys()]
    said += [f"{name} is new" for name in other.keys() - one.keys()]
    return ", ".join(sorted(said)) or f"was {before} and is {now}"


def of_models(models: Iterable[Any]) -> list[Path]:
    """The files of models whose classes came with them (trust_remote_code)."""
    remote = {type(part).__module__ for model in models for part in (model, getattr(model, "config", None))}
    named = [sys.modules.get(name) for name in remote if name.startswith("transformers_modules.")]
    return [path for one in named if one is not None for path in Path(str(one.__file__)).parent.glob("*.py")]


def _imported(path: Path) -> Iterator[Path]:
    """Files of the modules that a file imports, as far as they are found without running anything."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # it was imported, so that it is no text of Python
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = path.parents[max(node.level - 1, 0)] if node.level else None
            if above is not None:
                parts = node.module.split(".") if node.module else []
                yield from _lying([above.joinpath(*parts), *(above.joinpath(*parts, a.name) for a in node.names)])
                continue
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _of_name(name, path.parent)


def _of_name(name: str, beside: Path) -> Iterator[Path]:
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded:
        yield Path(loaded)
        return
    if name.partition(".")[0] in sys.stdlib_module_names:
        return
    places = [beside, *(Path(one) for one in sys.path if one and not installed(one))]
    yield from list(_lying(place.joinpath(*name.split(".")) for place in places))[:1]


def _lying(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if path.is_file():
                yield path
