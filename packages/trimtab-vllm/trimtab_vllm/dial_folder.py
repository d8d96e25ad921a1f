"""What the config of a folder with a dial says, and which models have one here. Knows nothing of vLLM.

`trimtab export` writes, under `trimtab_dial` of config.json,

    {"version": 1, "recommended": [0.0, 1.5], "limits": [-10.0, 10.0], "default": 1.0, "layers": [0], "merge": "logits"}

and more, of which only the version must be there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab_vllm.xargs import is_number, shown

KEY = "trimtab_dial"
MARK = "trimtab_identity_layer"
"""of a model as it was trained, with the layer and without what an export adds"""
VERSION = 1
FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""model types that are served with a dial, and their architectures"""
LIMITS = (-10.0, 10.0)
"""beyond which a strength is refused where the folder names no limits: logits grow with it without bound"""


@dataclass(frozen=True)
class DialFolder:
    recommended: tuple[float, float] | None
    """range in which the dial was measured to work"""
    limits: tuple[float, float] = LIMITS
    default: float = 1.0


def read(said: Any) -> DialFolder:
    """What stands under `trimtab_dial`.

    Raises:
        ValueError: if it is of another version, or not of its form.
    """
    if not isinstance(said, Mapping):
        raise ValueError(f"{KEY} of config.json must be a mapping, got {shown(said)}; export the folder again")
    if said.get("version") != VERSION:
        raise ValueError(
            f"{KEY} of config.json has version {shown(said.get('version'))}, and this trimtab-vllm reads version "
            f"{VERSION}; export the folder again, or install the trimtab-vllm that belongs to it"
        )
    for key, served in (("merge", "logits"), ("layers", [0])):
        if said.get(key, served) != served:
            raise ValueError(f"vLLM serves a dial with {key} {shown(served)}, and this folder has {shown(said[key])}")
    recommended, limits = (_range(said, key) for key in ("recommended", "limits"))
    default = said.get("default", 1.0)
    if not is_number(default):
        raise ValueError(f"{KEY}.default of config.json must be a number, got {shown(default)}")
    return DialFolder(recommended, limits or LIMITS, float(default))


def _range(said: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    value = said.get(key)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(is_number, value)) or value[0] > value[1]:
        raise ValueError(f"{KEY}.{key} of config.json must be two numbers, the smaller one first, got {shown(value)}")
    return float(value[0]), float(value[1])


def check_family(model_type: str, architecture: str) -> None:
    """Raise a ValueError for a model that cannot be served with its dial."""
    if FAMILIES.get(model_type) != architecture:
        raise ValueError(
            f"this folder has a dial, and vLLM serves a dial for {', '.join(FAMILIES)}, not for {architecture} "
            f"({model_type}); `transformers serve --trust-remote-code` takes the folder as it is"
        )
