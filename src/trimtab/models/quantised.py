"""Models whose weights are stored in few bits, by whatever method transformers loads them with."""

from types import MethodType
from typing import Any

from transformers import PreTrainedModel

from trimtab.common.errors import UserError


class QuantisedError(UserError):
    """A quantised model in a role that its weights cannot have."""


def is_quantised(model: Any) -> bool:
    """Whether a model computes with quantised weights; one that was unpacked while it was loaded is an ordinary one."""
    return bool(getattr(model, "is_quantized", False))


def method_of(model: Any) -> str:
    """The name of the method."""
    config = getattr(model.config, "quantization_config", None)
    found = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(found, "value", found) or "quantised")


def keep_place(model: PreTrainedModel) -> None:
    """Let `.to` leave the model where and as its loader has put it: packed weights have one dtype, and several
    libraries refuse to move them; one that is spread over devices stays spread."""
    if is_quantised(model) or getattr(model, "hf_device_map", None) is not None:
        model.to = MethodType(lambda self, *_, **__: self, model)  # type: ignore[method-assign]


def check_policy(model: PreTrainedModel, lora: bool, name: str) -> None:
    """Packed weights get no gradients: adapters can be trained beside them, where the method lets one through.

    Raises:
        QuantisedError: if it is to be trained otherwise.
    """
    if not is_quantised(model):
        return
    kind = method_of(model)
    if not lora:
        raise QuantisedError(
            f"models.policy: {name} is quantised ({kind}), and such weights cannot be trained; set models.lora to "
            "train adapters beside them, or take the model in its own precision"
        )
    if not getattr(getattr(model, "hf_quantizer", None), "is_trainable", True):
        raise QuantisedError(
            f"models.policy: {name} is quantised by {kind}, which lets no gradient through to adapters; take a "
            "checkpoint of another method (bitsandbytes, gptq), or the model in its own precision"
        )
