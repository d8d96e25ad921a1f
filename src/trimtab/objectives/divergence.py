"""Divergences between two distributions over the vocabulary, one value per token.

All take log-probabilities in nats, [N, V], normalised over V: `student_logprobs` with gradient,
`teacher_logprobs` detached here. p is the teacher, q the student.
"""

import math

import torch
from torch import Tensor


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """[N]: sum_v p (log p - log q)."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _mixture(log_p: Tensor, log_q: Tensor, share_of_p: float) -> Tensor:
    """[N, V]: log(share p + (1 - share) q)."""
    return torch.logaddexp(log_p + math.log(share_of_p), log_q + math.log1p(-share_of_p))


def forward_kl(student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """KL(p || q), mode-covering: the student must put mass wherever the teacher does.

    Returns:
        [N] nats, >= 0; 0 where both agree. Gradient at the student's logits: q - p.
    """
    return _kl(teacher_logprobs.detach(), student_logprobs)


def reverse_kl(student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """KL(q || p), mode-seeking: the student must not put mass where the teacher has none.

    Returns:
        [N] nats, >= 0. Gradient at the student's logits: q (log q - log p - KL).
    """
    return _kl(student_logprobs, teacher_logprobs.detach())


def jsd(student_logprobs: Tensor, teacher_logprobs: Tensor, *, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

    Returns:
        [N] nats, in [0, log 2] for beta 0.5. Divided by beta it tends to the forward KL as beta -> 0, divided
        by 1 - beta to the reverse KL as beta -> 1.

    Raises:
        ValueError: if `beta` is not strictly between 0 and 1; at the ends the value is always 0.

    Source: GKD (arXiv:2306.13649), equation 2.
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"beta must lie strictly between 0 and 1, got {beta}; use forward_kl or reverse_kl at the ends"
        )
    log_p, log_q = teacher_logprobs.detach(), student_logprobs
    log_m = _mixture(log_p, log_q, beta)
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def skewed_forward_kl(student_logprobs: Tensor, teacher_logprobs: Tensor, *, skew: float = 0.1) -> Tensor:
    """KL(p || skew p + (1 - skew) q), skew in [0, 1): a forward KL that is bounded by -log(skew) for any student.

    Source: DistiLLM (arXiv:2402.03898). skew 0 is the forward KL.
    """
    log_p = teacher_logprobs.detach()
    return _kl(log_p, _skewed(log_p, student_logprobs, skew))


def skewed_reverse_kl(student_logprobs: Tensor, teacher_logprobs: Tensor, *, skew: float = 0.1) -> Tensor:
    """KL(q || skew q + (1 - skew) p), skew in [0, 1): a reverse KL that is bounded by -log(skew) for any student.

    Source: DistiLLM (arXiv:2402.03898). skew 0 is the reverse KL.
    """
    return _kl(student_logprobs, _skewed(student_logprobs, teacher_logprobs.detach(), skew))


def _skewed(first: Tensor, second: Tensor, skew: float) -> Tensor:
    if not 0 <= skew < 1:
        raise ValueError(f"skew must lie in [0, 1), got {skew}")
    return _mixture(first, second, skew) if skew else second
