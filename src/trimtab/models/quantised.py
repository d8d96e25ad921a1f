"""Quantised models, with any method that transformers supports."""

from types import MethodType
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig
from transformers.quantizers.base import HfQuantizer

from trimtab.common.errors import UserError

UNPACKED_ON_CPU = "fp8"
"""the method that transformers dequantises without an accelerator"""
SKIPPED = ("modules_to_not_convert", "llm_int8_skip_modules", "skip_modules")
"""names for the layers that are not quantised"""


class QuantisedError(UserError):
    """A quantised model in a role that its weights do not support."""


def is_quantised(model: Any) -> bool:
    """Whether a model computes with quantised weights (it was not dequantised while loading)."""
    return bool(getattr(model, "is_quantized", False))


def method_of(model: Any) -> str:
    """The name of the method."""
    config = getattr(model.config, "quantization_config", None)
    found = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(found, "value", found) or "quantised")


def keep_place(model: PreTrainedModel) -> None:
    """Make `.to` a no-op for a quantised model, which several libraries refuse to move, and for one that is spread over
    devices."""
    if is_quantised(model) or getattr(model, "hf_device_map", None) is not None:
        model.to = MethodType(lambda self, *_, **__: self, model)  # type: ignore[method-assign]


def packing(bits: int, dtype: str) -> BitsAndBytesConfig:
    """How bitsandbytes packs weights: of 4 bits as NF4 that computes in `dtype`, of 8 as LLM.int8."""
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype if dtype != "auto" else None
    )


def packed_away(model: PreTrainedModel, device: str) -> int:
    """Bytes that a quantised checkpoint saves against `model`, which was built from its config without quantisation.

    Bits are the checkpoint's, or those that transformers assumes for device maps; each group of weights also has a
    scale, and in GPTQ's and AWQ's layout a zero.

    Raises:
        QuantisedError: for a method with an unknown number of bits.
    """
    stored = getattr(model.config, "quantization_config", None)
    if not stored:
        return 0
    kind = method_of(model)
    if kind == UNPACKED_ON_CPU and device == "cpu":
        return 0
    try:
        config = AutoQuantizationConfig.from_dict(stored) if isinstance(stored, dict) else stored
        size = _packed_size(config)
    except (ValueError, ImportError) as error:
        raise QuantisedError(f"weights quantised by {kind} are not estimated: {error}") from error
    if size is None or any(one.dim() > 2 for one in model.parameters()):
        why = "transformers does not say how many bits one has" if size is None else "experts are no linear layers"
        raise QuantisedError(f"weights quantised by {kind} are not estimated: {why}")
    skipped = next((getattr(config, name) for name in SKIPPED if getattr(config, name, None)), None)
    whole = HfQuantizer.get_modules_to_not_convert(model, skipped)
    linear = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(name == one or name.endswith(f".{one}") for one in whole)
    ]
    return int(sum(weight.numel() * (weight.element_size() - size) for weight in linear))


def _packed_size(config: Any) -> float | None:
    """Bytes of one packed weight, with its share of its group's scale and zero; None if unknown."""
    bits = getattr(config, "bits", None) or getattr(config, "nbits", None)
    if isinstance(bits, int):
        group = getattr(config, "group_size", None) or 128
        return bits / 8 + ((2 + bits / 8) / group if group > 0 else 0)
    size = AutoHfQuantizer.from_config(config, pre_quantized=True).quantized_element_size
    if size is not None and getattr(config, "load_in_4bit", False):
        return size + (1 / 64 if config.bnb_4bit_use_double_quant else 4 / 64)
    return size


def check_policy(model: PreTrainedModel, lora: bool, name: str) -> None:
    """Check that a quantised policy only trains adapters, by a method that passes gradients to them."""
    if not is_quantised(model):
        return
    kind = method_of(model)
    if not lora:
        raise QuantisedError(
            f"models.policy: {name} is quantised ({kind}), and such weights cannot be trained; set models.lora to "
            "train adapters on top of them, or use the model in full precision"
        )
    if not getattr(getattr(model, "hf_quantizer", None), "is_trainable", True):
        raise QuantisedError(
            f"models.policy: {name} is quantised with {kind}, which does not pass gradients to adapters; use a "
            "checkpoint of another method (bitsandbytes, gptq), or the model in full precision"
        )
