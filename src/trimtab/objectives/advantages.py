"""From rewards and scores to advantages: within a group of completions, of tokens, and over what follows a token.

All are float32 constants. Sums run in float64, so that equal values have a difference of exactly 0.
"""

import torch
from torch import Tensor

from trimtab.core import TokenBatch

# ---------------------------------------------------------------- completions of a group


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """[R]: for each completion the mean of `values` [R] over its group; `group` [R] counts from 0."""
    number = int(group.max()) + 1 if len(group) else 0
    total = values.new_zeros(number, dtype=torch.float64).index_add(0, group, values.double())
    return (total / group.bincount(minlength=number))[group].float()


def group_normalised(rewards: Tensor, group: Tensor, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """(r - mean) / (std + eps) over the completions of the same prompt, the advantage of GRPO (arXiv:2402.03300).

    Args:
        rewards, group: [R]; groups count from 0.
        scale: False for r - mean (Dr. GRPO, arXiv:2503.20783).
        eps: 1e-4 as in TRL, 1e-6 as in verl.

    Returns:
        [R]. The std is unbiased, as in TRL. Exactly 0 if all rewards of a group are equal, or it has one completion.
    """
    centred = rewards - group_mean(rewards, group)
    if not scale:
        return centred
    size = group.bincount()[group]
    variance = group_mean(centred.square(), group) * size / (size - 1).clamp(min=1)
    return centred / (variance.sqrt() + eps)


def leave_one_out(rewards: Tensor, group: Tensor) -> Tensor:
    """r minus the mean of the other completions of the same prompt, the advantage of RLOO (arXiv:2402.14740).

    Args:
        rewards, group: [R]; groups count from 0.

    Returns:
        [R]; 0 in a group of one, which has no baseline.
    """
    size = group.bincount()[group]
    return (rewards - group_mean(rewards, group)) * size / (size - 1).clamp(min=1)


# ---------------------------------------------------------------- scores of tokens


def standardised(scores: Tensor, center: bool) -> Tensor:
    """Scores divided by their population std over all tokens, after subtracting their mean if `center`.

    Args:
        scores: [N].
        center: as in the paper; the authors' code does not centre, so that all scores may have the same sign.

    Returns:
        [N]; all 0 if all scores are equal. Source: Q-RM (arXiv:2505.23363).
    """
    exact = scores.double()
    centred = exact - exact.mean()
    std = centred.square().mean().sqrt()
    if len(scores) == 0 or std <= 1e-6 * exact.abs().amax():
        return torch.zeros_like(scores)
    return ((centred if center else exact) / std).float()


def whitened(values: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8) over all of `values` [N], the variance unbiased; 0 for a single one."""
    exact = values.double()
    centred = exact - exact.mean()
    variance = centred.square().sum() / max(len(values) - 1, 1)
    return (centred / (variance + 1e-8).sqrt()).float()


# ---------------------------------------------------------------- what follows a token


def suffix_sums(batch: TokenBatch, values: Tensor) -> Tensor:
    """[N]: the sum of `values` [N] from each answer token to the end of its sequence."""
    return batch.table(values).flip(1).cumsum(1).flip(1)[batch.row, batch.position]


def gae(batch: TokenBatch, rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation: A_t = d_t + gamma lam A_{t+1}, d_t = r_t + gamma V_{t+1} - V_t
    (arXiv:1506.02438).

    Args:
        rewards: [N] of each token.
        values: [N] of the prefix before each token.
        gamma, lam: discount of rewards, and of later terms of the estimate.

    Returns:
        [N]; r - V at the last token of a completion. With both factors 1 and values of 0 these are `suffix_sums` of the
        rewards.
    """
    rewards, values = batch.table(rewards), batch.table(values)  # [R, T], 0 after the end
    found, after, value_after = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(rewards.size(1))):
        after = found[:, t] = rewards[:, t] + gamma * value_after - values[:, t] + gamma * lam * after
        value_after = values[:, t]
    return found[batch.row, batch.position]


def kl_penalised(rewards: Tensor, old: Tensor, reference: Tensor, coefficient: float) -> Tensor:
    """R_t - c |log pi_old(y_t) - log pi_ref(y_t)|, all [N].

    The absolute log-ratio is not an estimate of a KL divergence; it penalises every token that has moved, in either
    direction. Source: the authors' code of Q-RM (arXiv:2505.23363).
    """
    return rewards - coefficient * (old - reference).abs()


def at_last(batch: TokenBatch, values: Tensor) -> Tensor:
    """[N]: `values` [N] at the last token of each completion, and 0 before it."""
    return torch.where(batch.position + 1 == batch.lengths[batch.row], values, 0.0)
