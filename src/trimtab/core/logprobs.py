"""Log-probabilities of chosen ids, with a gradient computed in one pass over the vocabulary."""

from typing import Any

import torch
from torch import Tensor


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(logits)[ids]; the backward reuses the log-softmax instead of computing a second softmax."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        # torch's fused kernel, a quarter of the time of its logsumexp on a CPU
        table = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        chosen, entropy = table.gather(-1, ids), None
        if with_entropy:
            probabilities = table.exp()
            entropy = -table.mul_(probabilities).sum(dim=-1)
            table = probabilities  # which spares the backward its exponentials
            ctx.mark_non_differentiable(entropy)
        ctx.save_for_backward(table, ids)
        ctx.dtype, ctx.exponential = logits.dtype, with_entropy
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        grad = grad_outputs[0]  # [N, K]
        table, ids = ctx.saved_tensors
        grad_logits = table.clone() if ctx.exponential else table.exp()
        grad_logits.mul_(-grad.sum(dim=-1, keepdim=True))
        grad_logits.scatter_add_(-1, ids, grad.to(grad_logits.dtype))
        return grad_logits.to(ctx.dtype), None, None


def _token_logprobs(logits: Tensor, ids: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
    wide = ids.unsqueeze(-1) if ids.dim() == 1 else ids
    logprobs, entropy = _TokenLogprobs.apply(logits, wide, with_entropy)  # type: ignore[misc]
    return logprobs.view(ids.shape), entropy


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability, in nats and float32, of each id under the softmax of its row of logits.

    Args:
        logits: [N, V] of any float dtype; the sum over the vocabulary runs in float32.
        ids: [N] or [N, K].

    Returns:
        [N] or [N, K] like `ids`. The gradient at the logits is `sum_k g_k (e_k - softmax)`.
    """
    return _token_logprobs(logits, ids, False)[0]


def token_logprobs_and_entropy(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropy of each row of logits, from one softmax.

    Returns:
        [N] or [N, K] like `ids`, and [N] nats, float32; the entropy has no gradient.
    """
    logprobs, entropy = _token_logprobs(logits, ids, True)
    assert entropy is not None
    return logprobs, entropy
