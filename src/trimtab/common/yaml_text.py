"""YAML as recipes use it: 3e-4 is a number, and a duplicate key is an error."""

import re
from pathlib import Path
from typing import Any

import yaml

from trimtab.common.errors import UserError
from trimtab.common.files import DataError, read_text


class YamlError(UserError):
    """A KEY=VALUE word whose value cannot be parsed."""


class Loader(yaml.SafeLoader):
    """YAML in which 3e-4 is a number; plain PyYAML requires 3.0e-4."""


def _unique(loader: Any, node: Any) -> dict:
    """A mapping without duplicate keys, of which YAML readers silently take the last."""
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark)
        seen.add(key.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_tree(path: Path, mistake: type[UserError]) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        tree = yaml.load(read_text(path), Loader)
    except DataError as error:
        raise mistake(str(error)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" line {mark.line + 1}" if mark else ""
        raise mistake(f"{path}:{at} is not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(tree, dict):
        raise mistake(f"{path} holds a {type(tree).__name__}, expected keys and values")
    return tree


def parse_value(word: str, value: str) -> Any:
    """Parse the value of a KEY=VALUE word as in a recipe."""
    try:
        return yaml.load(value, Loader)
    except yaml.YAMLError as error:
        raise YamlError(f"{word!r}: the value is not valid YAML") from error
