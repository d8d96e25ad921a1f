"""DeRa: mix the logits of a reference and an aligned model while decoding.

    z = (1 - s) z_reference + s z_aligned,  next token ~ softmax(z)

s is the strength: per token, it approximates alignment with 1/s times the KL penalty that was used. Two sets of weights
are in memory; `realign` does the same with one model and an identity layer.

    reference.generate(**inputs, custom_generate=dera, aligned=aligned_model, strength=0.5)

Paper: decoding-time realignment (arXiv:2402.02992).
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from trimtab.common.errors import UserError
from trimtab.decoding._own_cache import CheckedStream, own_cache
from trimtab.decoding._streams import Dial, Strength, check_settings, decode, mix
from trimtab.models.identity_layer import unwrapped


def dera(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    aligned: nn.Module | None = None,
    strength: Strength = 1.0,
    streamer: BaseStreamer | None = None,
    **inputs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Decode at a strength between, or beyond, two models. Called by `model.generate`.

    Args:
        model: the reference.
        input_ids: [B, T]; like everything that follows, passed by `generate`.
        aligned: a model with the same tokens, in eval mode; may be wrapped. With `model` itself in a PeftModel, the
            reference is the model without that adapter. If heads are padded to different lengths, ids beyond the
            shorter one are never chosen.
        strength: a number, [B], a schedule [S, B] or [S, 1], or a function of the new token's index; see `Dial`.
        streamer: gets the new tokens; for use with `functools.partial`, as in `realign`.
    """
    if aligned is None:
        raise UserError("dera needs the aligned model: generate(..., custom_generate=dera, aligned=MODEL, strength=S)")
    other = unwrapped(aligned)
    own, vocab = _vocab(model), min(_vocab(model), _vocab(other))
    if int(input_ids.max()) >= vocab:
        raise UserError(
            f"the prompt has the token id {int(input_ids.max())}, and reference and aligned model share {vocab} ids; "
            "choose an aligned model that has this token"
        )
    check_settings(generation_config, inputs)
    dial = Dial(strength, input_ids.size(0), generation_config.num_return_sequences or 1)
    others = own_cache(other, inputs, generation_config, int(dial.aligned.sum()))
    own_part = _without_adapter(model, aligned)
    streams = [
        (needed, weight, CheckedStream(of, needed.nonzero()[:, 0].to(input_ids.device), generation_config, given))
        for needed, weight, of, given in (
            (dial.original, lambda now: 1 - now, model, inputs),
            (dial.aligned, lambda now: now, other, others),
        )
        if needed.any()
    ]

    def next_logits(step: int, input_ids: Tensor) -> Tensor:
        now = dial(step)
        parts = []
        for needed, weight, stream in streams:
            with own_part() if needed is dial.original else nullcontext():
                parts.append((stream.rows, weight(now)[needed], stream(input_ids)[:, :vocab]))
        return F.pad(mix(input_ids.size(0), parts), (0, own - vocab), value=-torch.inf)

    return decode(
        input_ids, next_logits, logits_processor=logits_processor, stopping_criteria=stopping_criteria,
        generation_config=generation_config, streamer=streamer,
    )  # fmt: skip


def _without_adapter(model: Any, aligned: nn.Module) -> Callable[[], Any]:
    """A context in which `model` is the reference even if PEFT has added the adapter of `aligned` to it: PEFT changes
    the model in place, so both would be the aligned one."""
    if unwrapped(aligned) is not model or not any(hasattr(module, "lora_A") for module in model.modules()):
        return nullcontext
    if not hasattr(aligned, "disable_adapter"):
        raise UserError(
            "reference and aligned model are the same object, with an adapter: pass aligned=PeftModel(...), whose "
            "adapter can be disabled, or load the reference again"
        )
    return aligned.disable_adapter  # type: ignore[return-value]


def _vocab(model: Any) -> int:
    """Rows of the head."""
    return model.config.get_text_config().vocab_size
