"""Write docs/reference/python.md: the names that `import trimtab` and `trimtab.core` export, from their docstrings."""

import importlib
import inspect
import re
import sys
from types import ModuleType
from typing import Any

from pages import DOCS, command, prose, written_by

PAGE = DOCS / "reference" / "python.md"
MODULES = {
    "trimtab": "What a script needs to load, train and evaluate.",
    "trimtab.agents": "What a script needs to let small models work on tasks with tools.",
    "trimtab.gym": "What a script and an evaluator need to let agents do research on this machine.",
    "trimtab.core": "What a method and its tests need: the batch, the reduction, the plan and the engine.",
}
HEADER = """\
# Python

{comment}

These names are public. Others may move or change between two versions without a word in the changelog.
"""


def page() -> str:
    parts = [HEADER.format(comment=written_by(__file__, "the docstrings in src/trimtab"))]
    seen: set[str] = set()
    for path, what in MODULES.items():
        module = importlib.import_module(path)
        names = [name for name in getattr(module, "__all__", ()) if not name.startswith("_") and name not in seen]
        seen |= set(names)
        if names:
            parts += [f"## {path}\n\n{what}\n", *(_entry(module, path, name) for name in names)]
    return "\n".join(parts)


def _entry(module: ModuleType, path: str, name: str) -> str:
    thing = getattr(module, name)
    head = f"### {name}\n"
    if inspect.ismodule(thing):  # a folder that can be called
        thing = inspect.unwrap(thing)  # pyright: ignore[reportArgumentType]
    text = prose(thing.__doc__ if callable(thing) else _comment(module, name))
    if not callable(thing):
        shown = repr(thing) if isinstance(thing, (int, float, str)) else ""
        return f"{head}\n```text\n{path}.{name}{' = ' + shown if shown else ''}\n```\n\n{text}\n"
    parts = [head, f"```text\n{_signature(path, name, thing)}\n```\n", text + "\n"]
    if inspect.isclass(thing):
        parts += [_method(key, one) for key, one in vars(thing).items() if _shown(key, one)]
    return "\n".join(parts)


def _shown(key: str, thing: Any) -> bool:
    inner = getattr(thing, "__func__", getattr(thing, "fget", thing))
    return not key.startswith("_") and inspect.isfunction(inner) and bool(inner.__doc__)


def _method(name: str, thing: Any) -> str:
    if isinstance(thing, property):
        return f"- **`.{name}`**: {_indented(prose(thing.__doc__))}\n"
    inner = getattr(thing, "__func__", thing)
    return f"- **`.{_call(name, inner)}`**: {_indented(prose(inner.__doc__))}\n"


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ").replace("\n    \n", "\n\n")


def _signature(path: str, name: str, thing: Any) -> str:
    return f"{path}.{_call(name, thing)}"


def _call(name: str, thing: Any) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    text = re.sub(r"(?<![\w.])(?:\w+\.)+(?=[A-Za-z_]\w*)", "", str(signature))
    text = (
        re.sub(r"<[\w ]*?(\w+)(?: object)? at 0x[0-9a-f]+>|<factory>", r"\1", text).replace("''", '""').replace("'", "")
    )
    return name + text.replace("(self, ", "(").replace("(self)", "()").replace("(cls, ", "(")


def _comment(module: ModuleType, name: str) -> str:
    """The string under a constant, where it is defined."""
    for one in (module, *(m for m in sys.modules.values() if (m.__name__ or "").startswith("trimtab"))):
        if (path := getattr(one, "__file__", None)) is None:
            continue
        found = re.search(
            rf'(?m)^{name}\b[^\n]*\n"""(.+?)"""', inspect.getsource(one) if path.endswith(".py") else "", re.S
        )
        if found:
            return found[1]
    return ""


if __name__ == "__main__":
    sys.exit(command(PAGE, page, __file__))
