"""YAML as recipes are written: 3e-4 is a number, and a key that occurs twice is a mistake."""

import re
from typing import Any

import yaml

from trimtab.common.errors import UserError


class YamlError(UserError):
    """A word of a command line whose value cannot be read."""


class Loader(yaml.SafeLoader):
    """YAML in which 3e-4 is a number, as everybody expects; PyYAML alone wants 3.0e-4."""


def _unique(loader: Any, node: Any) -> dict:
    """A mapping whose keys occur once: YAML's readers take the last of two in silence."""
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


def parse_value(word: str, value: str) -> Any:
    """The value of a word KEY=VALUE of a command line, as a recipe would read it.

    Raises:
        YamlError: naming the word.
    """
    try:
        return yaml.load(value, Loader)
    except yaml.YAMLError as error:
        raise YamlError(f"{word!r}: the value is no YAML") from error
