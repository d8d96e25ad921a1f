"""Running a model on a few tokens, and putting its mode and weights back afterwards."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def eval_mode(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Within, the model is in eval mode (or in training mode)."""
    was_training = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def restored(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters have their values and `requires_grad` back afterwards."""
    before = [(p, p.detach().clone(), p.requires_grad) for p in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values, trained in before:
                parameter.copy_(values)
                parameter.requires_grad_(trained)


def probe_ids(model: Any, rows: int = 1, length: int = 6) -> Tensor:
    """[rows, length] different ids of the model's vocabulary, on its device."""
    ids = torch.arange(rows * length, device=next(model.parameters()).device).view(rows, length)
    return (ids * 37 + 5) % model.config.get_text_config(decoder=True).vocab_size


def probe_logits(model: Any, rows: int = 1, length: int = 6) -> Tensor:
    """[rows, length, V] logits of `probe_ids`, in eval mode; of a model with a scalar head its scores."""
    with eval_mode(model):
        return model(input_ids=probe_ids(model, rows, length), use_cache=False).logits


def reaches(outputs: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """Whether a random linear function of the outputs has a gradient at one of these weights that is not 0."""
    outputs = [output for output in outputs if output.requires_grad]
    if not outputs:
        return False
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(output.shape, generator=generator).to(output) for output in outputs]
    gradients = torch.autograd.grad(outputs, weights, directions, allow_unused=True)
    return any(gradient is not None and int(gradient.count_nonzero()) for gradient in gradients)
