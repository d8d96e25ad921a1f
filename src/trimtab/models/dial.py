"""The dial in a model's config: which of its layers was inserted, and which strengths are sensible.

An exported folder (`trimtab export`) holds it under one key of config.json. Its `generate.py`, the vLLM plugin and the
page read it; none of them imports trimtab, so the version says whether they understand it.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab import __version__
from trimtab.common.errors import UserError

KEY = "trimtab_dial"
VERSION = 1
LIMITS = (-10.0, 10.0)
"""strengths beyond are refused; the papers' largest is 10"""
RECOMMENDED = (0.0, 1.0)
"""as long as nobody has measured more: between two trained models"""


class DialError(UserError):
    """A model without a dial, or with one of another version."""


@dataclass(frozen=True)
class DialConfig:
    """What an exported folder says about its dial."""

    modules: tuple[str, ...]
    """the inserted layers, as `get_submodule` finds them"""
    layers: tuple[int, ...] = (0,)
    """their numbers; all others are those of the original model, in its order"""
    merge: str = "logits"
    """what is mixed: z = (1 - s) z_original + s z_aligned"""
    default: float = 1.0
    """the strength of a request that names none"""
    recommended: tuple[float, float] = RECOMMENDED
    """[low, high]; strengths outside are warned about"""
    limits: tuple[float, float] = LIMITS
    """[low, high]; strengths outside are refused"""
    method: str | None = None
    """that trained the layer"""
    base: str | None = None
    """the name of the original model"""
    version: int = VERSION
    trimtab: str = __version__

    def tree(self) -> dict[str, Any]:
        """The value of the key, as JSON has it."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in found.items() if value is not None}


def read_dial(folder: Path) -> DialConfig:
    """The dial of an exported folder.

    Raises:
        DialError: if it has none, one of another version, or one that is not of its form.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DialError(f"{folder} is no folder of a model with a dial: {path.name} cannot be read") from error
    if not isinstance(config, Mapping) or KEY not in config:
        raise DialError(f"{folder} has no dial; write a folder that has one with: trimtab export RUN FOLDER")
    found = config[KEY]
    if not isinstance(found, Mapping):
        raise DialError(f"{folder}: {KEY} of config.json is no mapping; export the run again")
    if found.get("version") != VERSION:
        raise DialError(
            f"{folder}: its dial has version {found.get('version')}, and this trimtab reads version {VERSION}; export "
            "the run again"
        )
    for name, (holds, form) in FORMS.items():
        if (name in found or name == "modules") and not holds(found.get(name)):
            raise DialError(
                f"{folder}: {KEY}.{name} of config.json must be {form}, got {str(found.get(name))[:60]}; export the "
                "run again"
            )
    known = {name: found[name] for name in DialConfig.__dataclass_fields__ if name in found}
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    made = DialConfig(**given)
    low, high = made.limits
    if beyond := [one for one in (*made.recommended, made.default) if not low <= one <= high]:
        raise DialError(
            f"{folder}: {KEY} of config.json names strength {beyond[0]:g}, beyond its own limits, {low:g} to {high:g}; "
            "export the run again"
        )
    return made


def is_number(value: Any) -> bool:
    """Whether it is a finite number that a float holds; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_span(value: Any) -> bool:
    """Whether it is a range, as JSON has it."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "modules": (_is_names, "a list of names"),
    "layers": (lambda value: value == [0], "[0]"),
    "merge": (lambda value: value == "logits", "logits"),
    "default": (is_number, "a finite number"),
    "recommended": (is_span, "two finite numbers, the smaller one first"),
    "limits": (is_span, "two finite numbers, the smaller one first"),
    "method": (lambda value: isinstance(value, str), "a text"),
    "base": (lambda value: isinstance(value, str), "a text"),
}
"""what a dial of this version may hold: key -> whether a value is of its form, and that form in words"""
