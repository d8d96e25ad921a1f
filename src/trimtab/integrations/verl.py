"""Advantages and losses under the names that verl looks up: VERL_USE_EXTERNAL_MODULES=trimtab.integrations.verl.

verl has padded tensors [B, T] of the responses with a mask, ours are flat [N]: `tokens` and `padded` go from one to the
other, and a token whose mask is 0 (padding, what a tool wrote) is in no sum, mean or standard deviation. verl divides,
with its `loss_agg_mode` and the counts of the whole batch.

verl 0.9.1 hands a registered estimator only `token_level_rewards`, `reward_baselines`, the mask and the uids of the
batch, and a loss the log-probabilities of the sampled tokens. What a method needs besides has to be in one of these
keys; each function says in which.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from verl.trainer.ppo.core_algos import (  # pyright: ignore[reportMissingImports]
    agg_loss,
    register_adv_est,
    register_policy_loss,
)

from trimtab.common.errors import UserError
from trimtab.core import IGNORE, Candidates, Rollouts, TokenBatch
from trimtab.methods import distrl, lco, psft, reinforce
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.policy_gradient import clipped_surrogate, ratios


class VerlError(UserError):
    """A configuration or a batch of verl that a method cannot use."""


# ---------------------------------------------------------------- masks


def tokens(response_mask: Tensor) -> TokenBatch:
    """The response tokens whose mask [B, T] is not 0, in the order of `values[response_mask.bool()]`."""
    labels = torch.where(response_mask.bool(), 0, IGNORE)
    return TokenBatch.from_labels(F.pad(labels, (1, 0), value=IGNORE))


def padded(values: Tensor, response_mask: Tensor) -> Tensor:
    """[B, T] of values [N] of `tokens`, 0 elsewhere."""
    found = values.new_zeros(response_mask.shape)
    found[response_mask.bool()] = values
    return found


def rollouts(rewards: Tensor, response_mask: Tensor, index: Any, **signals: Tensor) -> Rollouts:
    """Responses as our estimators take them.

    Args:
        rewards: [B, T]; a response's reward is their sum.
        index: [B] uids; responses of one prompt have the same.
        signals: [B, T] each.
    """
    mask = response_mask.bool()
    numbers: dict[Any, int] = {}
    group = [numbers.setdefault(uid, len(numbers)) for uid in index]
    of_tokens = {name: value[mask] for name, value in signals.items()}
    totals = (rewards * mask).sum(dim=1)
    return Rollouts(tokens(mask), totals, torch.tensor(group, device=mask.device), of_tokens)


# ---------------------------------------------------------------- advantages


def _both(values: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages and returns, which are the same here."""
    return values, values


def _plain_rewards(config: Any, name: str, why: str) -> None:
    if config is not None and config.get("use_kl_in_reward", False):
        raise VerlError(f"adv_estimator {name}: {why}; set algorithm.use_kl_in_reward=False")


def _q_rm(scores: Tensor, response_mask: Tensor, config: Any, center: bool) -> tuple[Tensor, Tensor]:
    why = "token scores are divided by their standard deviation, which a penalty among them would change"
    _plain_rewards(config, "trimtab_q_rm", why)
    mask = response_mask.bool()
    estimator = reinforce.ScoreAdvantages(reinforce.Config.model_validate({"token_reward": "tokens", "center": center}))
    found = estimator(rollouts(scores, mask, range(len(mask)), token_scores=scores))["advantages"]
    return _both(padded(found, mask))


@register_adv_est("trimtab_q_rm")
def q_rm(token_level_rewards: Tensor, response_mask: Tensor, config: Any = None, **_: Any) -> tuple[Tensor, Tensor]:
    """Scores over their standard deviation over all response tokens; at a response's last token their mean.

    The policy loss is verl's "gpg", -A log pi, as in our method reinforce with token_reward: tokens.

    Args:
        token_level_rewards: [B, T] score of each token by a Q-RM reward model (the batch's `rm_scores`).

    Source: Q-RM (arXiv:2505.23363), the authors' code, which does not centre.
    """
    return _q_rm(token_level_rewards, response_mask, config, center=False)


@register_adv_est("trimtab_q_rm_centered")
def q_rm_centered(
    token_level_rewards: Tensor, response_mask: Tensor, config: Any = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """The same after subtracting the mean of all scores, as in the paper."""
    return _q_rm(token_level_rewards, response_mask, config, center=True)


@register_adv_est("trimtab_distrl")
def distrl_advantages(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Any = None,
    reward_baselines: Tensor | None = None,
    config: Any = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """The sampled tokens' advantages of our method distrl with its defaults: the reward normalised over the responses
    of a prompt, plus 0.05 times the whitened sum of later value differences of an IPVRM reward model.

    Args:
        token_level_rewards: [B, T]; a response's reward is their sum.
        index: [B] uids.
        reward_baselines: [B, T] log phi(y_t) - log pi_old(y_t) in nats, of reward model and sampling policy.

    Source: DistRL (arXiv:2604.13197).
    """
    name = "trimtab_distrl"
    _plain_rewards(config, name, "the reward is that of the whole response, which a penalty would change")
    if reward_baselines is None or reward_baselines.shape != response_mask.shape:
        raise VerlError(
            f'adv_estimator {name}: batch["reward_baselines"] has to hold log phi - log pi_old of each response token, '
            f"of the shape of response_mask {list(response_mask.shape)}; it "
            f"{'is missing' if reward_baselines is None else f'has {list(reward_baselines.shape)}'}"
        )
    if index is None:
        raise VerlError(f"adv_estimator {name}: the batch has no uid, which says which responses are of one prompt")
    mask = response_mask.bool()
    ratio = reward_baselines[mask][:, None]  # [N, 1]
    held = Candidates(torch.zeros_like(ratio, dtype=torch.long), torch.zeros_like(ratio))
    given = replace(rollouts(token_level_rewards, mask, index), signals={"reward_model": ratio}, candidates=held)
    found = distrl.TokenValues(distrl.Config.model_validate({"alpha": 0.0}))(given)["advantages"]
    return _both(padded(found, mask))


@register_adv_est("trimtab_opd")
def opd(token_level_rewards: Tensor, response_mask: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """The log-ratio of teacher and sampling policy at each token, as it is.

    Args:
        token_level_rewards: [B, T] log p(y_t) - log q_old(y_t) in nats. verl computes them if the teacher is its
            reference model, all rewards are 0, and the penalty has kl_penalty "kl" and a fixed coefficient of 1.

    Source: on-policy distillation, as in HPD (arXiv:2604.20244).
    """
    found = token_level_rewards * response_mask
    return found, found


@register_adv_est("trimtab_lco")
def lco_advantages(
    token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """A / beta of our method lco with its defaults: the response's reward over 2, or over 200 where it is not above 0.

    Args:
        token_level_rewards: [B, T]; a response's reward is their sum.

    Source: LCO (arXiv:2603.00963).
    """
    _plain_rewards(config, "trimtab_lco", "the reward is that of the whole response, which a penalty would change")
    mask = response_mask.bool()
    given = rollouts(token_level_rewards, mask, range(len(mask)) if index is None else index)
    nothing = torch.zeros(len(given.batch), 1, device=mask.device)
    given = replace(given, candidates=Candidates(nothing.long(), nothing))
    found = lco.CandidateAdvantages(lco.Config.model_validate({"num_candidates": 1}))(given)
    advantages = found["candidates"].advantages
    assert advantages is not None
    return _both(padded(advantages[:, 0] / found["beta"], mask))


# ---------------------------------------------------------------- losses


def _bounds(config: Any) -> tuple[float, float, float]:
    """Lower and upper clip range, and dual clip."""
    low, high = (config.get(name, None) for name in ("clip_ratio_low", "clip_ratio_high"))
    low, high = (config.clip_ratio if one is None else one for one in (low, high))
    return low, high, config.get("clip_ratio_c", 3.0)


def _reduced(
    values: Tensor, ratio: Tensor, response_mask: Tensor, how: str, config: Any, weights: Tensor | None
) -> tuple[Tensor, dict[str, Any]]:
    """verl's mean of values [B, T], and its metrics."""
    if weights is not None:
        values = values * weights
    loss = agg_loss(loss_mat=values, loss_mask=response_mask, loss_agg_mode=how, **config.global_batch_info)
    inside = ratio.detach()[response_mask.bool()]
    return loss, {"actor/ppo_kl": -inside.log().mean().item(), "actor/ratio": inside.mean().item()}


def _same_shape(name: str, *shapes: Tensor) -> None:
    if len({one.shape for one in shapes}) > 1:
        said = " and ".join(str(list(one.shape)) for one in shapes)
        raise VerlError(f"policy loss {name}: log_prob, old_log_prob and advantages need one shape, not {said}")


@register_policy_loss("trimtab_psft")
def psft_loss(
    old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor,
    loss_agg_mode: str = "token-mean", config: Any = None, rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    """-min(r, 1 + epsilon) of our method psft: epsilon is `clip_ratio_high` (0.28 there), and advantages are not read.

    Args:
        old_log_prob: [B, T] of demonstrations under the snapshot, which is the policy at the beginning of verl's step;
            its number of updates (batch over mini-batch, times ppo_epochs) is that of a window.

    Source: PSFT (arXiv:2508.17784).
    """
    values = psft.psft_values(log_prob, old_log_prob, _bounds(config)[1])
    return _reduced(values, ratios(log_prob, old_log_prob), response_mask, loss_agg_mode, config, rollout_is_weights)


@register_policy_loss("trimtab_lco")
def lco_loss(
    old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor,
    loss_agg_mode: str = "token-mean", config: Any = None, rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    """KL(pi* || pi) of our method lco (kld, target old, outside keep), pi* ~ pi_old exp(advantages).

    Args:
        old_log_prob, log_prob: [B, T] of the sampled tokens, all others are one bin (num_candidates: 1); or [B, T, K]
            of K candidates, the sampled token first, from a worker that gathers them.
        advantages: of the same shape, A / beta, as of the estimator trimtab_lco; with candidates also [B, T], for the
            first of them.

    Source: LCO (arXiv:2603.00963).
    """
    policy, old = (one if one.dim() == 3 else one[..., None] for one in (log_prob, old_log_prob))
    shift = advantages if advantages.dim() == 3 else advantages[..., None]
    if shift.size(-1) == 1:
        shift = F.pad(shift, (0, policy.size(-1) - 1))
    _same_shape("trimtab_lco", policy, old, shift)
    mask = response_mask.bool()
    inside, before, shift = policy[mask], old[mask], shift[mask]  # [N, K]
    target = lco.shifted(torch.cat([before, lco.log_outside(before)], dim=1), shift)
    found = forward_kl(torch.cat([inside, lco.log_outside(inside)], dim=1), target)
    ratio = ratios(policy[..., 0], old[..., 0])
    return _reduced(padded(found, mask), ratio, response_mask, loss_agg_mode, config, rollout_is_weights)


@register_policy_loss("trimtab_hpd")
def hpd_loss(
    old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor,
    loss_agg_mode: str = "token-mean", config: Any = None, rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    """L(r(y_t), w*) + L(r(a_t), w) of our method hpd with several mini-batches, L the clipped surrogate: the bounds are
    `clip_ratio_low` (0.2 there), `clip_ratio_high` (0.28) and `clip_ratio_c` (10).

    Args:
        old_log_prob, log_prob: [B, T, 2] of the label and of the token drawn from the student before the updates, from
            a worker that gathers them; or [B, T] of the label alone (student_sampling: false).
        advantages: of the same shape, the weights w* and w, see `trimtab.methods.hpd.hpd_weights`.

    Source: HPD (arXiv:2604.20244).
    """
    _same_shape("trimtab_hpd", log_prob, old_log_prob, advantages)
    values, ratio = (
        clipped_surrogate(log_prob, old_log_prob, advantages, *_bounds(config)),
        ratios(log_prob, old_log_prob),
    )
    if values.dim() == 3:
        values, ratio = values.sum(dim=-1), ratio[..., 0]
    return _reduced(values, ratio, response_mask, loss_agg_mode, config, rollout_is_weights)


@register_policy_loss("trimtab_distrl")
def distrl_loss(
    old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor,
    loss_agg_mode: str = "token-mean", config: Any = None, rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    """The clipped surrogate of the sampled tokens and of candidates, of our method distrl: the bounds are
    `clip_ratio_low` (0.2 there, for candidates on both sides), `clip_ratio_high` (0.28) and `clip_ratio_c` (3).

    Args:
        old_log_prob, log_prob: [B, T] of the sampled tokens (alpha: 0); or [B, T, K] of K candidates, the sampled token
            first, from a worker that gathers them.
        advantages: [B, T]; with candidates [B, T, K + 1]: the sampled token's, and `folded` ones of the candidates.

    Source: DistRL (arXiv:2604.13197).
    """
    low, high, dual = _bounds(config)
    if log_prob.dim() == 2:
        _same_shape("trimtab_distrl", log_prob, old_log_prob, advantages)
        values, ratio = (
            clipped_surrogate(log_prob, old_log_prob, advantages, low, high, dual),
            ratios(log_prob, old_log_prob),
        )
    else:
        _same_shape("trimtab_distrl", log_prob, old_log_prob, advantages[..., 1:])
        drawn, before = log_prob[..., 0], old_log_prob[..., 0]
        values, ratio = clipped_surrogate(drawn, before, advantages[..., 0], low, high, dual), ratios(drawn, before)
        values = values + clipped_surrogate(log_prob, old_log_prob, advantages[..., 1:], low, low, dual).sum(dim=-1)
    return _reduced(values, ratio, response_mask, loss_agg_mode, config, rollout_is_weights)


def folded(held: Candidates, scale: Tensor, alpha: float = 0.1) -> Tensor:
    """[N, K]: alpha s pi_old(c) A(c), what `distrl_loss` reads of candidates as advantages; 0 for those without a loss.

    The surrogate of c A is c times that of A for every c >= 0, so the weight of a candidate may stand in its advantage.

    Args:
        held: with advantages and mask, of `trimtab.methods.distrl.TokenValues`.
        scale: [N] its "candidate_scale", s.
    """
    assert held.advantages is not None
    assert held.mask is not None
    return alpha * scale[:, None] * held.logprobs.exp() * held.mask * held.advantages
