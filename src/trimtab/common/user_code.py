"""The user's own code, outside trimtab and installed packages: a run's numbers depend on it too."""

import ast
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from trimtab.common import fingerprint
from trimtab.common.errors import UserError, looked_in

_LIBRARIES = (sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_INSTALLED = tuple(Path(one) for one in (*_LIBRARIES, Path(__file__).parents[1]))
_PACKAGES = {"site-packages", "dist-packages"}
"""package folders, including the user's and Debian's, which sysconfig does not name"""


@lru_cache(4096)
def installed(file: str | Path) -> bool:
    """Whether a file or folder belongs to an installed package."""
    path = Path(file)
    return not _PACKAGES.isdisjoint(path.parts) or any(path.is_relative_to(one) for one in _INSTALLED)


_LOADED: set[str] = set()
"""files of users that were imported here"""


def failed_in(error: BaseException) -> str | None:
    """One line for an exception that came through a user's file; None if it did not."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _LOADED]
    if not frames:
        return None
    text = " ".join(str(error).split())[:300]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {type(error).__name__}: {text}"


def load(place: str, what: str, name: str, form: str, mistake: type[UserError]) -> ModuleType:
    """Import FILE.py or package.module; a file is executed again. It may import its neighbours, like a script.

    Args:
        what, name: for messages: "reward", "own.py:worth".
        form: for messages, the form of such a name: "FILE.py:FUNCTION".
    """
    path = Path(place).expanduser()
    beside = str((path.parent if place.endswith(".py") else Path()).resolve())
    if beside not in sys.path:
        sys.path.append(beside)
    if place.endswith(".py") and not path.is_file():
        raise mistake(f"there is no file {path}{looked_in(path)}; write your own {what} as {form}")
    try:
        module = _run(path, what) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        raise mistake(f"{what} {name}: importing {place} raised {raised(error)}") from error
    if not installed(str(module.__file__)):
        _LOADED.add(str(module.__file__))
    return module


def _run(path: Path, what: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{what}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look it up there
    spec.loader.exec_module(module)
    return module


def raised(error: Exception) -> str:
    """An exception in one line, with the last line of the user's code that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if not frame.filename.startswith("<")]
    own = [frame for frame in frames if not installed(frame.filename)]
    said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    return f"{said} ({own[-1].filename}, line {own[-1].lineno})" if own else said


def files(modules: Iterable[ModuleType | None]) -> list[Path]:
    """The files of these modules and of their imports outside installed packages, sorted.

    Imports are found in the source, including those inside functions; other files that they read are not.
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
    """The differences between two results of `described`, in words."""
    one, other = (dict(part.rsplit(" ", 1) for part in text.split(", ") if " " in part) for text in (before, now))
    said = [f"{name} was edited" for name in one if name in other and one[name] != other[name]]
    said += [f"{name} is no longer used" for name in one.keys() - other.keys()]
    said += [f"{name} is new" for name in other.keys() - one.keys()]
    return ", ".join(sorted(said)) or f"was {before} and is {now}"


def of_models(models: Iterable[Any]) -> list[Path]:
    """The code files shipped with models (trust_remote_code)."""
    remote = {type(part).__module__ for model in models for part in (model, getattr(model, "config", None))}
    named = [sys.modules.get(name) for name in remote if name.startswith("transformers_modules.")]
    return [path for one in named if one is not None for path in Path(str(one.__file__)).parent.glob("*.py")]


def _imported(path: Path) -> Iterator[Path]:
    """Files of the modules that a file imports, as far as they can be found without running anything."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # imported, but not Python source
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
