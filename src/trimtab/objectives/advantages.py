"""From rewards and scores to advantages: of answers to the same prompt, of tokens, and of what comes after a token.

Constants all of them, float32. Sums run in float64, so that what is equal has a difference of exactly 0.
"""

import torch
from torch import Tensor

from trimtab.core import TokenBatch

# ---------------------------------------------------------------- answers of a group


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """[R]: for each answer the mean of `values` [R] over the answers of its group; `group` [R] counts from 0."""
    number = int(group.max()) + 1 if len(group) else 0
    total = values.new_zeros(number, dtype=torch.float64).index_add(0, group, values.double())
    return (total / group.bincount(minlength=number))[group].float()


def group_normalised(rewards: Tensor, group: Tensor, scale: bool = True) -> Tensor:
    """(r - mean) / (std + 1e-4) over the answers to the same prompt, the advantage of GRPO (arXiv:2402.03300).

    Args:
        rewards: [R].
        group: [R] which prompt, from 0.
        scale: False for r - mean (Dr. GRPO, arXiv:2503.20783).

    Returns:
        [R]. The std is the unbiased one, as TRL takes it. Exactly 0 where all rewards of a group are equal, and for
        an answer that is alone.
    """
    centred = rewards - group_mean(rewards, group)
    if not scale:
        return centred
    size = group.bincount()[group]
    variance = group_mean(centred.square(), group) * size / (size - 1).clamp(min=1)
    return centred / (variance.sqrt() + 1e-4)


def leave_one_out(rewards: Tensor, group: Tensor) -> Tensor:
    """r minus the mean of the other answers to the same prompt, the advantage of RLOO (arXiv:2402.14740).

    Args:
        rewards: [R].
        group: [R] which prompt, from 0.

    Returns:
        [R]; 0 for an answer that is alone: there is nothing to hold it against.
    """
    size = group.bincount()[group]
    return (rewards - group_mean(rewards, group)) * size / (size - 1).clamp(min=1)


# ---------------------------------------------------------------- scores of tokens


def standardised(scores: Tensor, center: bool) -> Tensor:
    """Scores over their population std, and before that less their mean if `center`; both of all tokens together.

    Args:
        scores: [N].
        center: the paper's equation; the authors' code does not. Without it the scores of a reward model, which have
            no fixed zero, may all have one sign.

    Returns:
        [N]; all 0 if the scores are all alike. Source: Q-RM (arXiv:2505.23363).
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


# ---------------------------------------------------------------- what comes after a token


def suffix_sums(batch: TokenBatch, values: Tensor) -> Tensor:
    """[N]: the sum of `values` [N] over the answer tokens of the same sequence from each one on."""
    return batch.table(values).flip(1).cumsum(1).flip(1)[batch.row, batch.position]


def gae(batch: TokenBatch, rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantages: A_t = d_t + gamma lam A_{t+1}, d_t = r_t + gamma V_{t+1} - V_t (arXiv:1506.02438).

    Args:
        batch: the answers.
        rewards: [N] paid for each token.
        values: [N] of what stands before each token, so that V_{t+1} is the value behind it.
        gamma, lam: discount of rewards, and of what is farther off in the estimate.

    Returns:
        [N]. Nothing follows the last token of an answer: its advantage is r - V, in the longest answer too. With both
        factors 1 and values of 0 these are `suffix_sums` of the rewards.
    """
    rewards, values = batch.table(rewards), batch.table(values)  # [R, T], 0 behind the end
    found, after, value_after = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(rewards.size(1))):
        after = found[:, t] = rewards[:, t] + gamma * value_after - values[:, t] + gamma * lam * after
        value_after = values[:, t]
    return found[batch.row, batch.position]


# ---------------------------------------------------------------- what a token is paid


def kl_penalised(rewards: Tensor, old: Tensor, reference: Tensor, coefficient: float) -> Tensor:
    """R_t - c |log pi_old(y_t) - log pi_ref(y_t)|, [N] all of them.

    The size of the log-ratio is no estimate of a KL divergence, but takes from every token that has moved, whichever
    way. Source: the authors' code of Q-RM (arXiv:2505.23363).
    """
    return rewards - coefficient * (old - reference).abs()


def at_last(batch: TokenBatch, values: Tensor) -> Tensor:
    """[N]: `values` [N] at the last token of each answer, and 0 before it."""
    return torch.where(batch.position + 1 == batch.lengths[batch.row], values, 0.0)
