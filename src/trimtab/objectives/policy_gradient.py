"""Policy gradients: raise or lower the probability of each token of a completion by its advantage."""

import torch
from torch import Tensor

from trimtab.core import Losses, Objective, TokenBatch
from trimtab.objectives.likelihood import LARGEST_LOG_RATIO, k3


def ratios(logprobs: Tensor, old: Tensor) -> Tensor:
    """pi / pi_old, as `logprobs`; log-ratios are clamped to +-20."""
    return (logprobs - old.detach()).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def clipped_surrogate(
    logprobs: Tensor, old: Tensor, advantages: Tensor, low: float | None, high: float | None, dual: float | None = None
) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A) with r = pi / pi_old, and at most -dual A where A < 0.

    Args:
        logprobs: [N] or [N, K] nats, with gradient.
        old, advantages: of the same shape, constants.
        low, high: clip range of the ratio, below 1 where A < 0 and above 1 where A > 0; None: no clip.
        dual: above this ratio a token with A < 0 has no gradient either; None: no such bound.

    Returns:
        as `logprobs`; -A at r = 1, where the gradient is -A. Log-ratios are clamped to +-20.

    Source: PPO (arXiv:1707.06347), with two bounds as in DAPO (arXiv:2503.14476); dual clip: arXiv:1912.09729.
    """
    ratio, advantages = ratios(logprobs, old), advantages.detach()
    bounded = ratio.clamp(-torch.inf if low is None else 1 - low, torch.inf if high is None else 1 + high)
    values = -torch.minimum(ratio * advantages, bounded * advantages)
    if dual is None:
        return values
    return torch.where(advantages < 0, torch.minimum(values, -dual * advantages), values)


@torch.no_grad()
def clipped(
    logprobs: Tensor, old: Tensor, advantages: Tensor, low: float | None, high: float | None, dual: float | None = None
) -> Tensor:
    """Where `clipped_surrogate` is clipped, so that the token has no gradient: bool, as `logprobs`."""
    ratio = ratios(logprobs, old)
    grown = ratio > (torch.inf if high is None else 1 + high)
    fallen = ratio < (-torch.inf if low is None else 1 - low)
    far = ratio > (torch.inf if dual is None else dual)
    return torch.where(advantages > 0, grown, (fallen | far) & (advantages < 0))


def policy_metrics(logprobs: Tensor, entropy: Tensor, advantages: Tensor) -> dict[str, Tensor]:
    """Metrics common to all policy gradients, [N] each."""
    return {"nll": -logprobs, "entropy": entropy, "advantage": advantages, "zero_advantage": (advantages == 0).float()}


class PolicyGradient(Objective):
    """loss = -min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t) + c r_t KL_t(pi || pi_ref), r_t only if `kl_ratio`

    Reads "advantages" [N] and, if several updates are made on the same completions, "old" [N]; without it the policy
    itself is the old one. Other arguments as in `clipped_surrogate`.

    Args:
        kl: c. The KL is estimated from the sampled token with `k3`.
        kl_ratio: multiply by r_t, which is 1 on-policy but makes the gradient that of the policy's KL divergence
            (arXiv:2512.02556), as TRL does. False: as printed in arXiv:2402.03300.
        kl_max: an estimate above it counts as this much and has no gradient, as in verl; None: no such bound. One token
            that the policy has nearly given up would otherwise outweigh a batch: its estimate is pi_ref / pi.
    """

    ratio = "old"

    def __init__(
        self, low: float | None, high: float | None, *, dual: float | None = None, kl: float = 0.0,
        kl_ratio: bool = True, kl_max: float | None = None,
    ):  # fmt: skip
        self.low, self.high, self.dual = low, high, dual
        self.kl, self.kl_ratio, self.kl_max = kl, kl_ratio, kl_max
        self.needs: frozenset[str] = frozenset({"advantages", *(["reference"] if kl else [])})

    def __call__(self, batch: TokenBatch) -> Losses:
        logprobs, entropy = batch.logprobs_and_entropy()
        advantages = batch.signals["advantages"]
        old = batch.logprobs(of="old") if "old" in batch.signals else logprobs.detach()
        values = clipped_surrogate(logprobs, old, advantages, self.low, self.high, self.dual)
        metrics = policy_metrics(logprobs, entropy, advantages)
        metrics["ratio"] = ratio = ratios(logprobs, old)
        metrics["clip_fraction"] = clipped(logprobs, old, advantages, self.low, self.high, self.dual).float()
        if self.kl:
            kl = k3(logprobs, batch.logprobs(of="reference")).clamp(max=self.kl_max or torch.inf)
            metrics["kl"] = ratio * kl if self.kl_ratio else kl
            values = values + self.kl * metrics["kl"]
        return batch.losses(values, **metrics)


class Reinforce(Objective):
    """loss = -A_t log pi(y_t): the plain policy gradient, without an old policy and without a clip."""

    needs = frozenset({"advantages"})

    def __call__(self, batch: TokenBatch) -> Losses:
        logprobs, entropy = batch.logprobs_and_entropy()
        advantages = batch.signals["advantages"]
        return batch.losses(-advantages * logprobs, **policy_metrics(logprobs, entropy, advantages))


class ValueLoss(Objective):
    """loss = (V_t - R_t)^2, for a model whose "policy" signal is the value [N] of the prefix before each token.

    Under the reduction "token_mean" every token of an update counts the same, as in the authors' code of Q-RM
    (arXiv:2505.23363) and in TRL's and verl's PPO; under "sequence_mean" every completion does.
    """

    needs = frozenset({"returns"})

    def __call__(self, batch: TokenBatch) -> Losses:
        values = batch.logprobs()
        returns = batch.signals["returns"]
        return batch.losses((values - returns).square(), value=values, returns=returns)
