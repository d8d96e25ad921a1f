"""The documentation of TRL's, transformers' and PEFT's arguments, read from their source without importing them."""

import ast
from dataclasses import dataclass
from functools import cache

from trimtab.train.keys import class_source


@dataclass(frozen=True)
class Argument:
    kind: str
    """its annotation in the source"""
    default: str
    help: str


@cache
def arguments(name: str) -> dict[str, Argument]:
    """Arguments of a config class and its bases; empty if the source is not as expected."""
    made = class_source(name)
    if made is None:
        return {}
    found: dict[str, Argument] = {}
    for base in made.bases:
        found |= arguments(base.id) if isinstance(base, ast.Name) else {}
    for node in made.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default, text = _default(node.value)
            if not text and node.target.id in found:
                text = found[node.target.id].help
            found[node.target.id] = Argument(ast.unparse(node.annotation), default, text)
    return found


def _default(value: ast.expr | None) -> tuple[str, str]:
    """The default and the help of a dataclass field."""
    if not isinstance(value, ast.Call):
        return (ast.unparse(value) if value is not None else "", "")
    given = {word.arg: word.value for word in value.keywords if word.arg}
    default = given.get("default")
    text = ""
    if isinstance(meta := given.get("metadata"), ast.Dict):
        for key, value in zip(meta.keys, meta.values):
            if isinstance(key, ast.Constant) and key.value == "help":
                text = _text(value)
    return (ast.unparse(default) if default is not None else "", " ".join(text.split()).replace("%%", "%"))


def _text(node: ast.expr) -> str:
    """A string, which may be a sum of strings."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ""
