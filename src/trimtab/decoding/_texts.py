"""Generating texts for prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from trimtab.data.tokens import Prompt, encode_prompts
from trimtab.decoding._config import generate
from trimtab.models.probing import eval_mode


class GeneratedText(NamedTuple):
    """A generated text, without special tokens."""

    text: str
    num_tokens: int


@torch.no_grad()
def generate_texts(
    policy: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    *,
    plain: bool = False,
    own: bool = False,
    each: Callable[[list[int]], Mapping[str, Any]] | None = None,
    **options: Any,
) -> list[GeneratedText]:
    """Completions of chat prompts (plain ones if `plain` or without a chat template), greedy unless `options` of
    `policy.generate` say otherwise; `own` and `each` as in `_config.generate`."""
    inputs = encode_prompts(tokenizer, prompts, plain)
    given: Any = inputs.to(next(policy.parameters()).device)
    with eval_mode(policy):
        output = generate(policy, tokenizer, given, max_new_tokens, own=own, each=each, **options)
    answers = output[:, given["input_ids"].size(1) :]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    special = torch.tensor(tokenizer.all_special_ids, device=answers.device)
    return [GeneratedText(text, n) for text, n in zip(texts, (~torch.isin(answers, special)).sum(dim=1).tolist())]
