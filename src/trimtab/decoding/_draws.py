"""Sampling with numbers that belong to a row and a position, so that no token depends on what else is drawn."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor
from transformers.generation.configuration_utils import GenerationMode

from trimtab.core.draws import inverse_cdf
from trimtab.models.masters import inner

Uniform = Callable[[Tensor, int], Tensor]
"""rows [n] of a batch and the index of the new token -> [n] numbers in [0, 1)"""


def are_drawn(config: GenerationConfig) -> bool:
    """Whether one token a row is sampled at a time, from its own distribution."""
    one = (config.num_return_sequences or 1) == 1
    return one and config.get_generation_mode() == GenerationMode.SAMPLE


class Drawn(LogitsProcessor):
    """The last processor: leaves the one token of each row that its number draws.

    Args:
        width: of the prompts.
    """

    def __init__(self, uniform: Uniform, width: int):
        self.uniform, self.width = uniform, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        rows = torch.arange(len(scores), device=scores.device)
        tokens = inverse_cdf(scores.float().softmax(dim=-1), self.uniform(rows, input_ids.size(1) - self.width))
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


@contextmanager
def drawing(model: Any, uniform: Uniform, width: int) -> Iterator[None]:
    """Within, `generate` samples with these numbers. A processor that is passed would come before temperature and
    top-p, so it is put behind those that `generate` makes."""
    one = inner(model)
    make = one._get_logits_processor

    def made(*args: Any, **kwargs: Any) -> Any:
        return type(found := make(*args, **kwargs))([*found, Drawn(uniform, width)])

    one._get_logits_processor = made
    try:
        yield
    finally:
        del one._get_logits_processor  # the class's own is behind it
