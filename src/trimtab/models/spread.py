"""Spreading a fully loaded model over the available devices."""

from typing import Any

from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory, get_max_memory
from transformers import PreTrainedModel


def spread(model: PreTrainedModel, device_map: str | dict[str, Any]) -> PreTrainedModel:
    """Put a model's layers on the devices, in place; what no GPU has room for stays in memory.

    transformers does this while it reads a checkpoint, before an adapter could be merged.

    Args:
        model: on the CPU.
        device_map: as in transformers; what it puts on disk stays in memory too.
    """
    if isinstance(device_map, str):
        kinds = sorted(model._no_split_modules or ())
        memory = get_max_memory()
        memory["cpu"] = max(memory.get("cpu", 0), 2 * model.get_memory_footprint())  # it is there already
        memory = get_balanced_memory(model, max_memory=memory, no_split_module_classes=kinds)
        device_map = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=kinds)
    device_map = {part: "cpu" if where == "disk" else where for part, where in device_map.items()}
    return dispatch_model(model, device_map=device_map, skip_keys=model._skip_keys_device_placement)  # type: ignore[arg-type,return-value]
