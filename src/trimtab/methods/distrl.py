"""DistRL: value differences from a reward model update every likely token, not only the sampled one."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trimtab.core import (
    AdvantageEstimator,
    Candidates,
    Losses,
    Method,
    MethodConfig,
    Objective,
    Plan,
    Reference,
    Requirements,
    RewardModel,
    Rollouts,
    TokenBatch,
)
from trimtab.objectives.advantages import group_mean, suffix_sums, whitened
from trimtab.objectives.policy_gradient import clipped, clipped_surrogate, policy_metrics, ratios
from trimtab.signals.auxiliary import OnlineAnswerReward, OnlinePairReward, OnlinePrefixReward, OnlineReward
from trimtab.signals.reward_model import TokenRewardModel


class Config(MethodConfig):
    beta: float = Field(10.0, gt=0)
    """Scale of the log-ratio of reward model to policy while it is trained online; advantages are normalised later."""
    num_candidates: int = Field(5, ge=1)
    """Number of candidates per position: the policy's most likely tokens, including the sampled one."""
    p_min: float = Field(0.1, ge=0)
    """Minimum probability of a candidate; the sampled token is always kept."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Nucleus bound on the candidates: keep the most likely ones up to this total probability; null: no bound."""
    alpha: float = Field(0.1, ge=0)
    """Coefficient of the loss on candidates."""
    outcome_coef: float = 1.0
    """Weight of the group-normalised outcome reward in the sampled token's advantage."""
    gae_coef: float = 0.05
    """Weight of the whitened sum of later token rewards (reward model). 0.05 in the authors' config, 1 in the paper."""
    td_norm: Literal["batch", "prompt_group"] = "batch"
    """What value differences are normalised over: the whole batch, or the completions of one prompt (the paper)."""
    epsilon: float = Field(0.2, gt=0)
    """Lower clip range of the sampled token's probability ratio, and the clip range (both sides) of a candidate's."""
    epsilon_high: float = Field(0.28, gt=0)
    """Upper clip range of the sampled token's probability ratio."""
    dual_clip: float = Field(3.0, gt=1)
    """Dual clip: above this ratio, a token with a negative advantage gets no gradient."""
    kl: float = Field(0.0, ge=0)
    """Coefficient of the KL to the initial policy, over the candidates plus one bin for all other tokens."""
    kl_threshold: float = Field(5.0, ge=0)
    """For kl: log-ratios with a smaller absolute value count as 0."""
    min_accuracy: float = Field(0.0, ge=0, lt=1)
    """Prompts with a lower share of correct completions are left out of the update, as if never sampled. 0.01 in the
    authors' configuration."""
    max_accuracy: float = Field(1.0, gt=0, le=1)
    """Prompts with a higher share of correct completions are left out too. 0.99 in the authors' configuration."""
    online: Literal["frozen", "before", "after"] = "before"
    """Whether the reward model is trained on the outcomes of each batch of rollouts (relative to the policy that
    sampled them), and whether before or after it is used for their advantages."""
    online_learning_rate: float = Field(2e-6, gt=0)
    """Learning rate of the reward model when it is trained online."""
    online_loss: Literal["ipvrm", "implicit_prm", "dpo_rm"] = "ipvrm"
    """Its online loss: on the outcome at every prefix (with beta), on the whole completion, or on pairs of a correct
    and an incorrect completion of a prompt, summed (the last two with the beta of its own training)."""
    margin: float | None = Field(None, ge=0)
    """Margin by which a value must clear 0, for ipvrm and implicit_prm; null: 5 for ipvrm, none for implicit_prm."""
    adaptive: bool | Literal["margin", "weight"] = True
    """For ipvrm and implicit_prm: scale margins by prompt difficulty, and give correct and incorrect completions of a
    group half the weight each; true for both, or name one."""

    @property
    def filters(self) -> bool:
        """Whether some prompts may be left out of the update."""
        return self.min_accuracy > 0 or self.max_accuracy < 1

    @model_validator(mode="after")
    def _leaves_prompts(self) -> "Config":
        if self.min_accuracy > self.max_accuracy:
            raise ValueError(
                f"min_accuracy is {self.min_accuracy} and max_accuracy {self.max_accuracy}: no prompt lies between; "
                "swap them"
            )
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.kl > 0, "a kl above 0", "kl_threshold")
        moved = self.alpha > 0 and self.p_min < 1
        self.only(moved or self.kl > 0, "a candidate loss (alpha above 0, p_min below 1) or a kl above 0",
                  "num_candidates")  # fmt: skip
        self.only(moved and self.num_candidates > 1, "a loss on several candidates (alpha above 0, p_min below 1)",
                  "top_p")  # fmt: skip
        self.only(self.alpha > 0 and self.num_candidates > 1, "a loss on several candidates (alpha above 0)",
                  "p_min")  # fmt: skip
        self.only(self.gae_coef != 0, "a gae_coef other than 0", "td_norm")
        self.only(self.gae_coef != 0 or self.outcome_coef != 0, "a gae_coef or outcome_coef other than 0",
                  "epsilon_high")  # fmt: skip
        learns = "a reward model trained online (online)"
        self.only(self.online != "frozen", learns, "beta", "online_learning_rate", "online_loss", "margin", "adaptive")
        self.only(self.online_loss == "ipvrm", "online_loss: ipvrm", "beta")
        self.only(self.online_loss != "dpo_rm", "online_loss ipvrm and implicit_prm", "margin", "adaptive")
        return self


def candidate_mask(held: Candidates, last: Tensor, p_min: float, top_p: float | None = None) -> Tensor:
    """Which candidates get a loss: bool [N, K].

    Args:
        held: with the sampled token in slot 0, which is always kept.
        last: [N] bool, the last token of its completion, where none is kept: an alternative there has no value.
        p_min, top_p: see `Config`.
    """
    probability = held.logprobs.exp()
    mask = probability > p_min
    if top_p is not None:
        order = probability.argsort(dim=1, descending=True, stable=True)
        within = probability.gather(1, order).cumsum(1) <= top_p
        within[:, 0] = True
        mask &= torch.zeros_like(mask).scatter(1, order, within)
    mask[:, 0] = True
    return mask & ~last[:, None]


def _std(values: Tensor, group: Tensor) -> Tensor:
    """The population std of the group of each value, at least 1e-6."""
    return group_mean((values - group_mean(values, group)).square(), group).sqrt().clamp(min=1e-6)


class TokenValues(AdvantageEstimator):
    """A_t(c) = beta (log phi(c) - log pi_old(c)), the value difference of each candidate; 0 at the last token.

    Candidates get A_t(c) / sigma_V with sigma_V the standard deviation of the prefix values sum_{i<=t} A_i of all
    tokens. The sampled token gets outcome_coef G + gae_coef W_t: G the reward minus its group's mean over the
    population std, W_t the whitened sum from t on of (A_i - mean) / sigma_V.

    The loss of candidates is a mean over the probability that they cover, not over tokens: "candidate_scale" is tokens
    over covered probability, both of all rollouts given here; exact if these make one update, else correct on average.

    Prompts whose share of correct completions is out of bounds do not count: "token_weight" is 0 at their tokens, and
    scaled up at the others, so that a mean over all tokens is a mean over these.
    """

    def __init__(self, config: Config):
        self.config, self.candidates = config, config.num_candidates
        reference = {"reference"} if config.kl else set()
        self.needs = frozenset({"reward_model"} | reference)
        weight = {"token_weight"} if config.filters else set()
        self.provides = frozenset({"advantages", "candidates", "candidate_scale"} | reference | weight)

    def __call__(self, rollouts: Rollouts) -> dict:
        held, signals = rollouts.candidates, rollouts.signals
        assert held is not None
        found = self._filtered(rollouts, held) if self.config.filters else self._advantages(rollouts)
        return found | ({"reference": Candidates(held.ids, signals["reference"])} if self.config.kl else {})

    def _filtered(self, rollouts: Rollouts, held: Candidates) -> dict:
        correct = (rollouts.rewards > 0).float() if rollouts.outcome is None else rollouts.outcome
        share = group_mean(correct, rollouts.group)
        kept = (share >= self.config.min_accuracy) & (share <= self.config.max_accuracy)
        tokens = rollouts.of_token(kept)
        nothing = torch.zeros_like(held.logprobs)  # [N, K]
        advantages, scale, of_candidates, mask = nothing[:, 0], nothing[:, 0], nothing, nothing.bool()
        if tokens.any():
            found, where = self._advantages(rollouts.pick(kept)), (tokens.nonzero()[:, 0],)
            advantages = advantages.index_put(where, found["advantages"])
            scale = scale.index_put(where, found["candidate_scale"])
            of_candidates = of_candidates.index_put(where, found["candidates"].advantages)
            mask = mask.index_put(where, found["candidates"].mask)
        return {
            "advantages": advantages,
            "candidates": Candidates(held.ids, held.logprobs, of_candidates, mask),
            "candidate_scale": scale,
            "token_weight": tokens * (len(tokens) / tokens.sum().clamp(min=1)),
        }

    def _advantages(self, rollouts: Rollouts) -> dict:
        config, batch, held = self.config, rollouts.batch, rollouts.candidates
        assert held is not None
        last = batch.position + 1 == batch.lengths[batch.row]
        values = config.beta * (rollouts.signals["reward_model"] - held.logprobs)
        values = values.masked_fill(last[:, None], 0.0)  # [N, K]
        everywhere = torch.zeros_like(batch.row)
        spread = self._spread(batch, values[:, 0], everywhere)
        norm = everywhere if config.td_norm == "batch" else rollouts.of_token(rollouts.group)
        difference = (values[:, 0] - group_mean(values[:, 0], norm)) / self._spread(batch, values[:, 0], norm)
        outcome = (rollouts.rewards - group_mean(rollouts.rewards, rollouts.group)) / _std(
            rollouts.rewards, rollouts.group
        )
        mask = candidate_mask(held, last, config.p_min, config.top_p)
        covered = (held.logprobs.exp() * mask).sum()
        return {
            "advantages": config.outcome_coef * rollouts.of_token(outcome)
            + config.gae_coef * whitened(suffix_sums(batch, difference)),
            "candidates": Candidates(held.ids, held.logprobs, values / spread[:, None], mask),
            "candidate_scale": torch.full_like(spread, len(batch)) / covered.clamp(min=1e-12),
        }

    @staticmethod
    def _spread(batch: TokenBatch, values: Tensor, group: Tensor) -> Tensor:
        """[N]: the std of prefix values over the tokens of the same group; 1 if there is only one."""
        return torch.where(group.bincount()[group] > 1, _std(batch.prefix_sum(values), group), 1.0)


def candidates_kl(logprobs: Tensor, reference: Tensor, threshold: float) -> Tensor:
    """sum_c pi(c) l(c) + pi(rest) l(rest), l = log pi - log pi_ref, where |l| below `threshold` counts as 0.

    Args:
        logprobs: [N, K] of the candidates, with gradient.
        reference: [N, K].

    Returns:
        [N]. All other tokens form one bin, with a probability of at least 1e-5 under either model.
        Source: the authors' code of arXiv:2604.13197.
    """
    rest, other = ((1 - one.exp().sum(dim=1, keepdim=True)).clamp(min=1e-5) for one in (logprobs, reference))
    ratio = torch.cat([logprobs - reference, rest.log() - other.log()], dim=1)
    probability = torch.cat([logprobs.exp(), rest], dim=1)
    return (probability * torch.where(ratio.abs() < threshold, 0.0, ratio)).sum(dim=1)


class DistRL(Objective):
    """loss = w_t (L(r_t, A_t) + alpha s sum_c pi_old(c) L(r_t(c), A_t(c)) + kl KL_t), with L the clipped surrogate, s
    the scale, and w_t 1 or the token's weight.

    Reads "advantages" and "candidate_scale" [N], `Candidates` with advantages and mask, and "old" [N] if given;
    otherwise the policy itself is the old one. Candidates always bring their own old log-probabilities.
    """

    ratio = "old"

    def __init__(self, config: Config):
        self.config, self.needs = config, TokenValues(config).provides

    def __call__(self, batch: TokenBatch) -> Losses:
        config, held = self.config, batch.signals["candidates"]
        logprobs, entropy = batch.logprobs_and_entropy(held.ids)  # [N, K]
        drawn, advantages = logprobs[:, 0], batch.signals["advantages"]
        old = batch.logprobs(of="old") if "old" in batch.signals else drawn.detach()
        sampled = (drawn, old, advantages, config.epsilon, config.epsilon_high, config.dual_clip)
        others = (logprobs, held.logprobs, held.advantages, config.epsilon, config.epsilon, config.dual_clip)
        covered = held.logprobs.exp() * held.mask
        share = covered * batch.signals["candidate_scale"][:, None]
        of_candidates = (share * clipped_surrogate(*others)).sum(dim=1)
        values, further = clipped_surrogate(*sampled) + config.alpha * of_candidates, {}
        if config.kl:
            further["kl"] = candidates_kl(logprobs, batch.signals["reference"].logprobs, config.kl_threshold)
            values = values + config.kl * further["kl"]
        if config.filters:
            values = values * batch.signals["token_weight"]
            further["kept"] = (batch.signals["token_weight"] > 0).float()
        return batch.losses(
            values,
            **further,
            **policy_metrics(drawn, entropy, advantages),
            ratio=ratios(drawn, old),
            clip_fraction=clipped(*sampled).float(),
            candidates=held.mask.sum(dim=1),
            coverage=covered.sum(dim=1),
            candidate_loss=of_candidates,
            candidate_clip_fraction=clipped(*others)[held.mask].float(),
        )


def online(config: Config, scores: TokenRewardModel) -> OnlineReward:
    """The reward model, trained online on rollouts."""
    assert config.online != "frozen"
    rate, when, prefixes = config.online_learning_rate, config.online, config.online_loss == "ipvrm"
    beta = config.beta if prefixes else scores.spec.beta
    if config.online_loss == "dpo_rm":
        return OnlinePairReward(scores, rate, beta=beta, when=when)
    margin = config.margin if config.margin is not None else 5.0 if prefixes else 0.0
    kind = OnlinePrefixReward if prefixes else OnlineAnswerReward
    return kind(scores, rate, beta=beta, margin=margin, adaptive=config.adaptive, when=when)


def build(config: Config, policy: nn.Module, reward_model: Any, reference: Any = None) -> Plan:
    learning = [] if config.online == "frozen" else [online(config, reward_model.reward_model)]
    read = [reward_model, *([reference] if reference else [])]
    return Plan(DistRL(config), advantages=TokenValues(config), rollout_signals=(*learning, *read))


METHOD = Method(
    paper="arXiv:2604.13197",
    claim="Updates the policy at every likely token at once, from token values that need no extra forward pass.",
    equation="L_t = max(-r_t A_t, -clip(r_t, 1 - epsilon, 1 + epsilon_high) A_t) + alpha times the same of candidates, "
    "weighted by pi_old(c);  A_t(c) = beta log phi(c)/pi_old(c) / sigma_V",
    config=Config,
    build=build,
    requires=lambda config: Requirements(
        models=(RewardModel(candidates="policy"), *([Reference(reads="candidates")] if config.kl else []))
    ),
    loop="rollouts",
)
