"""Realign: mix the logits of two paths through one network, around its identity layer and through it.

    z = (1 - s) z_original + s z_aligned,  next token ~ softmax(z)

s is the strength: 0 is the original model, 1 the aligned one, values beyond extrapolate. It may differ between
requests and between tokens. Both paths are rows of one batch, with one cache and one set of weights; a request that
needs only one of them (s is always 0, or 1) only has that. Far outside [0, 1] logits grow without bound: use top_p.

    model.generate(**inputs, custom_generate=realign, strength=0.5)

With `merge="embedding"` the layer's output is mixed instead, h = (1 - s) e + s layer(e): one path and half the rows,
the same models at s = 0 and 1, but not a mixture of theirs in between. An experiment; the papers mix logits, or do not
say.

transformers 5.23 does not pass a streamer on to such a function: pass it as
`custom_generate=partial(realign, streamer=...)`, which then gets the new tokens and not the prompt.

Papers: InRa (arXiv:2506.12704), which mixes logits; CLM (arXiv:2503.04346), which does not confirm where it mixes.
"""

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from trimtab.common.errors import UserError
from trimtab.decoding._own_cache import CheckedStream
from trimtab.decoding._streams import Dial, Stream, Strength, check_settings, decode, mix
from trimtab.models.identity_layer import blend, bypass

Merge = Literal["logits", "embedding"]


def realign(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    strength: Strength = 1.0,
    merge: Merge = "logits",
    streamer: BaseStreamer | None = None,
    **inputs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Decode at a strength between, or beyond, the original and the aligned model. Called by `model.generate`.

    Args:
        model: with an identity layer.
        input_ids: [B, T]; like everything that follows, passed by `generate`.
        strength: a number, [B], a schedule [S, B] or [S, 1], or a function of the new token's index; see `Dial`.
        merge: what is mixed. An embedding stays mixed as it was when its token was read: that of new token number t at
            the strength of t + 1, all of the prompt at that of 0.
    """
    check_settings(generation_config, inputs)
    if merge not in get_args(Merge):
        raise UserError(f"merge must be one of {', '.join(get_args(Merge))}, got {merge!r}")
    dial = Dial(strength, input_ids.size(0), generation_config.num_return_sequences or 1)
    loop = partial(
        decode, logits_processor=logits_processor, stopping_criteria=stopping_criteria,
        generation_config=generation_config, streamer=streamer,
    )  # fmt: skip
    if merge == "embedding":
        whole = Stream(model, torch.arange(input_ids.size(0), device=input_ids.device), generation_config, inputs)
        now = torch.zeros(0)

        def one_way(step: int, input_ids: Tensor) -> Tensor:
            nonlocal now
            now = dial(step)
            return whole(input_ids)

        with blend(model, lambda: now):
            return loop(input_ids, one_way)
    aligned, original = (needed.nonzero()[:, 0].to(input_ids.device) for needed in (dial.aligned, dial.original))
    stream = CheckedStream(model, torch.cat([aligned, original]), generation_config, inputs)
    around = torch.tensor([False] * len(aligned) + [True] * len(original), device=input_ids.device)

    def next_logits(step: int, input_ids: Tensor) -> Tensor:
        logits, now = stream(input_ids), dial(step)
        return mix(input_ids.size(0), [
            (original, 1 - now[dial.original], logits[len(aligned) :]),
            (aligned, now[dial.aligned], logits[: len(aligned)]),
        ])  # fmt: skip

    with bypass(model, around):
        return loop(input_ids, next_logits)
