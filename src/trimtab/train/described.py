"""The documentation of TRL's, transformers' and PEFT's arguments, read from their source without importing them."""

import ast
from dataclasses import dataclass
from functools import cache

from trimtab.train.keys import class_source


@dataclass(frozen=True)
class Argument:
    """One argument of a config class."""

    kind: str
    """its declared type, as the source has it"""
    default: str
    help: str


@cache
def arguments(name: str) -> dict[str, Argument]:
    """Arguments of a config class and its bases; nothing where the files are not as expected."""
    made = class_source(name)
    if made is None:
        return {}
    found: dict[str, Argument] = {}
    for base in made.bases:
        found |= arguments(base.id) if isinstance(base, ast.Name) else {}
    for node in made.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default, said = _default(node.value)
            earlier = found.get(node.target.id)
            found[node.target.id] = Argument(
                ast.unparse(node.annotation), default, said or (earlier.help if earlier else "")
            )
    return found


def _default(value: ast.expr | None) -> tuple[str, str]:
    """The default and the help of a dataclass field."""
    if not isinstance(value, ast.Call):
        return (ast.unparse(value) if value is not None else "", "")
    given = {word.arg: word.value for word in value.keywords if word.arg}
    default = given.get("default")
    said = ""
    if isinstance(meta := given.get("metadata"), ast.Dict):
        for key, text in zip(meta.keys, meta.values):
            if isinstance(key, ast.Constant) and key.value == "help":
                said = _text(text)
    return (ast.unparse(default) if default is not None else "", " ".join(said.split()).replace("%%", "%"))


def _text(node: ast.expr) -> str:
    """Of a text that may be joined of several."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ""
