"""The dial in a model's config: which of its layers was inserted, and which strengths are sensible.

An exported folder (`trimtab export`) holds it under one key of config.json. Its `generate.py`, the vLLM plugin and the
page read it; none of them imports trimtab, so the version says whether they understand it.
"""

import json
from collections.abc import Mapping
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
        DialError: if it has none, or one of another version.
    """
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(KEY)
    except (OSError, ValueError) as error:
        raise DialError(f"{folder} is no folder of a model with a dial: {path.name} cannot be read") from error
    if not isinstance(found, Mapping):
        raise DialError(f"{folder} has no dial; write a folder that has one with: trimtab export RUN FOLDER")
    if found.get("version") != VERSION:
        raise DialError(
            f"{folder}: its dial has version {found.get('version')}, and this trimtab reads version {VERSION}; export "
            "the run again"
        )
    known = {name: found[name] for name in DialConfig.__dataclass_fields__ if name in found}
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return DialConfig(**made)
