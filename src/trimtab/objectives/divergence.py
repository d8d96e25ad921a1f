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


def akl(student_logprobs: Tensor, teacher_logprobs: Tensor, *, mu: float = 0.5) -> Tensor:
    """h/(h + t) KL(p || q) + t/(h + t) KL(q || p), with h and t the sums of |p - q| over the teacher's head and tail.

    The head is the teacher's most likely id and those after it, in the order of p, until their cumulative probability
    is above `mu`. The two shares are constants, 1/2 each where both sums are 0.

    Returns:
        [N] nats, >= 0; 0 where both agree.

    Raises:
        ValueError: if `mu` does not lie in [0, 1].

    Source: AKL (arXiv:2404.02657), as its released code draws the line: an id with which the cumulative probability
    exceeds mu is of the tail, but the first is always of the head.
    """
    if not 0 <= mu <= 1:
        raise ValueError(f"mu must lie in [0, 1], got {mu}")
    log_p = teacher_logprobs.detach()
    with torch.no_grad():
        p, order = log_p.exp().sort(dim=-1, descending=True, stable=True)
        apart = (p - student_logprobs.exp().gather(-1, order)).abs()
        in_head = p.cumsum(dim=-1) <= mu
        in_head[..., 0] = True
        head, total = (apart * in_head).sum(dim=-1), apart.sum(dim=-1)
        share = torch.where(total > 0, head / total, 0.5)
    return share * _kl(log_p, student_logprobs) + (1 - share) * _kl(student_logprobs, log_p)


def todi(student_logprobs: Tensor, teacher_logprobs: Tensor, *, beta: float = 1.0) -> Tensor:
    """sum_v a p log(p/q) + (1 - a) q log(q/p), a = sigmoid(beta log(p/q)) of each id, a constant.

    Where the student gives an id too little it is raised as by the forward KL, where too much lowered as by the
    reverse KL.

    Returns:
        [N] nats, each id's part >= 0; 0 where both agree.

    Raises:
        ValueError: if `beta` is negative or not finite.

    Source: ToDi (arXiv:2505.16297); beta 0 is half the sum of both KLs.
    """
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and not negative, got {beta}")
    log_p, log_q = teacher_logprobs.detach(), student_logprobs
    excess = log_p - log_q
    share = torch.sigmoid(beta * excess.detach())
    return ((share * log_p.exp() - (1 - share) * log_q.exp()) * excess).sum(dim=-1)


EXCLUDED = -1e4
"""log-probabilities below it are of ids that a model excludes"""


def abkl(student_logprobs: Tensor, teacher_logprobs: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """-1/(alpha beta) sum_v [p^alpha q^beta - alpha/(alpha + beta) p^(alpha + beta) - beta/(alpha + beta) q^(...)].

    At alpha = 0, beta = 0 or alpha + beta = 0 it is the limit: (1, 0) is the forward KL, (0, 1) the reverse KL, (1, 1)
    half the squared distance, (0, 0) half the squared distance of the logarithms. Exponents very near 0 leave rounding
    errors of 1e-7/|alpha beta|. Where exponents are negative or both 0, an id that one side excludes would make it
    infinite, and is left out.

    Returns:
        [N] >= 0; 0 where both agree.

    Raises:
        ValueError: if an exponent is not finite.

    Source: ABKD (arXiv:2505.04560), equation of the alpha-beta divergence.
    """
    if not (math.isfinite(alpha) and math.isfinite(beta)):
        raise ValueError(f"alpha and beta must be finite, got {alpha} and {beta}")
    log_p, log_q = teacher_logprobs.detach(), student_logprobs
    if min(alpha, beta) < 0 or alpha == beta == 0:
        kept = (log_p > EXCLUDED) & (log_q > EXCLUDED)
        log_p, log_q = log_p.where(kept, 0.0), log_q.where(kept, 0.0)
    return _ab_terms(log_p, log_q, alpha, beta).sum(dim=-1)


def _ab_terms(log_p: Tensor, log_q: Tensor, alpha: float, beta: float) -> Tensor:
    """[N, V]: the part of each id, 0 where log p = log q."""
    both = alpha + beta
    if alpha == beta == 0:
        return 0.5 * (log_p - log_q).square()
    if both == 0:
        return (alpha * (log_q - log_p) + torch.expm1(alpha * (log_p - log_q))) / alpha**2
    # powers of the larger of the two are taken out: none overflows, and differences of near ones keep their digits
    larger = torch.maximum(log_p, log_q).detach()
    to_p, to_q = log_p - larger, log_q - larger
    power = torch.exp(both * larger)
    if beta == 0:
        return power * (alpha * (log_p - log_q) * torch.exp(alpha * to_p) + _less(alpha, to_q, to_p)) / alpha**2
    if alpha == 0:
        return power * (beta * (log_q - log_p) * torch.exp(beta * to_q) + _less(beta, to_p, to_q)) / beta**2
    ends = (alpha * torch.expm1(both * to_p) + beta * torch.expm1(both * to_q)) / both
    return power * (ends - torch.expm1(alpha * to_p + beta * to_q)) / (alpha * beta)


def _less(power: float, one: Tensor, other: Tensor) -> Tensor:
    """exp(power one) - exp(power other)"""
    return torch.expm1(power * one) - torch.expm1(power * other)
