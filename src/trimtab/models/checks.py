"""Whether a checkpoint matches its config: no tensor is missing, unexpected or of another shape."""

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models.folder import shown

LOGGER = logging.getLogger("trimtab")
MASKS = re.compile(
    r"(^|\.)(attn|attention|self_attn)\.(bias|masked_bias)$|(^|\.)(inv_freq|position_ids|num_batches_tracked)$"
)
"""computed tables that older versions of transformers stored"""
EXTRAS = {
    r"(^|\.)v_head\.|(^|\.)value_head\.": "a value head",
    r"^(score|classifier)\.": "a score head",
    r"(^|\.)mtp\b|(^|\.)mtp_|(^|\.)nextn": "multi-token prediction layers",
    r"(^|\.)(vision|visual|image|audio|speech|video)[a-z_]*\.|(^|\.)(multi_modal|mm|multimodal)_projector\.": (
        "vision or audio parts"
    ),
}
"""parts beside a language model in the same folder, without which it computes the same"""


class BrokenModel(UserError):
    """A checkpoint that does not match its config: the model would run with untrained weights."""


def check_tensors(
    model: PreTrainedModel,
    info: Mapping[str, Any],
    name: str,
    *,
    needs_head: bool = True,
    supplied: Collection[str] = (),
) -> list[str]:
    """Check the loading info of a model against its parameters.

    Args:
        info: transformers' loading info; tied weights, and what the class lists as optional, are not in it.
        supplied: names of tensors that come from elsewhere.
        needs_head: False if the output head is replaced, so that it may be missing.

    Returns:
        Notes for the user: parts beside the language model that were left out.

    Raises:
        BrokenModel: naming the first tensors that are missing, unexpected, or of another shape.
    """
    what = f"the model {name}"
    if mismatched := sorted(info["mismatched_keys"]):
        key, stored, wanted = mismatched[0]
        first = f"{key} is {'x'.join(map(str, stored))} in the weights and {'x'.join(map(str, wanted))} by the config"
        others = f" (and {len(mismatched) - 1} more differ)" if len(mismatched) > 1 else ""
        raise BrokenModel(f"{what}: {first}{others}; fix config.json, or use the folder that the weights came with")
    head = _names_of(model, model.get_output_embeddings()) if not needs_head else set()
    if missing := sorted(set(info["missing_keys"]) - head - set(supplied)):
        raise BrokenModel(
            f"{what} lacks {_count(missing)} that its config asks for: {shown(missing)}; they would be initialised "
            "randomly. Use the complete folder, or fix config.json"
        )
    over = sorted(key for key in info["unexpected_keys"] if not _is_computed(model, key))
    parts = {key: _extra(model, key) for key in over}
    if unknown := [key for key in over if parts[key] is None]:
        raise BrokenModel(
            f"{what} has {_count(unknown)} that its config does not ask for: {shown(unknown)}; without them the output "
            "would differ. Fix config.json, or remove them from the weights"
        )
    kinds = {kind: [key for key in over if parts[key] == kind] for kind in parts.values()}
    return [f"{what}: {kind} left out ({_count(keys)}: {shown(keys)})" for kind, keys in kinds.items()]


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) > 1)}"


def _names_of(model: PreTrainedModel, module: nn.Module | None) -> set[str]:
    if module is None:
        return set()
    own = {id(parameter) for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in own}


def _is_computed(model: PreTrainedModel, key: str) -> bool:
    """A table that the model makes itself: a buffer that is not stored, or one of an older version."""
    buffers = {name for name, _ in model.named_buffers()}
    return MASKS.search(key) is not None or any(name == key or name.endswith(f".{key}") for name in buffers)


def _extra(model: PreTrainedModel, key: str) -> str | None:
    """What an unexpected tensor belongs to, or None where it could change what the model computes."""
    for pattern, kind in EXTRAS.items():
        if found := re.search(pattern, key):
            path = key[: found.end()].rstrip(".")
            if not any(name == path or name.endswith(f".{path}") for name, _ in model.named_modules()):
                return kind
    config = model.config.get_text_config()
    more = getattr(config, "num_nextn_predict_layers", None) or 0
    layers = getattr(config, "num_hidden_layers", 0)
    found = re.search(r"(^|\.)layers\.(\d+)\.", key)
    if found and layers <= int(found[2]) < layers + more:
        return "multi-token prediction layers"
    return None
