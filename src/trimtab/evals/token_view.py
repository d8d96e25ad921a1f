"""What a model says step by step: of the tokens that strategies would keep, and of a sentence that comes again."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from trimtab import decoding
from trimtab.data.tokens import coder, prompt_ids
from trimtab.decoding._config import as_processors, config_of
from trimtab.evals.continuations import candidates

SHOWN = 12
"""candidates of a step that the token view keeps"""


@torch.no_grad()
def choices(
    model: PreTrainedModel, tokenizer: Any, prompt: str, ids: Sequence[int], names: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each step of a text: the most probable tokens, and which strategies would have kept each.

    Returns:
        [{"token", "p", "entropy", "kept": {strategy: count}, "top": [[token, p, [strategy, ...], chosen], ...]}]
    """
    start = prompt_ids(tokenizer, prompt, "the prompt", plain=True)
    whole = torch.tensor([[*start, *ids]], device=model.device)
    logits = model(input_ids=whole, use_cache=False).logits[0, len(start) - 1 : -1].float()
    made = {}
    for name, options in names.items():
        how = decoding.arguments(name, tokenizer, model=model, **options)
        config = config_of(model, tokenizer, how, len(ids), own=name == decoding.MODEL)
        if (config.num_beams or 1) == 1:  # a search keeps texts, not tokens
            given = {
                "input_ids": whole[:, : len(start)],
                "attention_mask": torch.ones_like(whole[:, : len(start)]),
            }
            bare, processors = as_processors(model, config, given)
            made[name] = (LogitsProcessorList([*processors, *how.get("logits_processor", ())]), bool(bare.do_sample))
    steps = []
    for t, token in enumerate(ids):
        scores = logits[t : t + 1]
        p = scores[0].softmax(-1)
        before = whole[:, : len(start) + t]
        keep = {
            name: candidates(processors(before, scores), samples)[0] for name, (processors, samples) in made.items()
        }
        top = p.topk(min(SHOWN, len(p)))
        shown = list(zip(top.indices.tolist(), top.values.tolist()))
        if token not in top.indices.tolist():
            shown.append((token, p[token].item()))
        steps.append(
            {
                "token": tokenizer.decode([token]),
                "p": p[token].item(),
                "entropy": -torch.xlogy(p, p).sum().item(),
                "kept": {name: int(mask.sum()) for name, mask in keep.items()},
                "top": [
                    [tokenizer.decode([v]), q, [name for name, mask in keep.items() if mask[v]], v == token]
                    for v, q in shown
                ],
            }
        )
    return steps


@torch.no_grad()
def repeat_sentence(
    model: PreTrainedModel, tokenizer: Any, sentences: Iterable[str], times: int, processors: Mapping[str, Any]
) -> dict[str, Tensor]:
    """How probable is a sentence after 1, 2, ... repetitions of it?

    Args:
        sentences: each is written `times` times in a row.
        processors: name -> None for the model itself, or a function that makes a `LogitsProcessor` anew.

    Returns:
        name -> [S, times] mean probability of the sentence's tokens in its k-th repetition, after the processor.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in processors}
    begun = coder(tokenizer)
    for sentence in sentences:
        ids = begun.ids(" " + sentence.strip())
        whole = torch.tensor([[*begun.first, *ids * times]], device=model.device)
        skip = whole.size(1) - len(ids) * times
        logits = model(input_ids=whole, use_cache=False).logits[0].float()
        for name, make in processors.items():
            processor = make() if make is not None else None
            values = []
            for t in range(max(skip, 1), whole.size(1)):
                scores = logits[t - 1 : t]
                if processor is not None:
                    scores = processor(whole[:, :t], scores)
                values.append(scores.softmax(-1)[0, whole[0, t]].item())
            padded = [math.nan] * (len(ids) * times - len(values)) + values
            found[name].append(torch.tensor(padded).view(times, len(ids)).nanmean(dim=1).tolist())
    return {name: torch.tensor(values) for name, values in found.items()}
