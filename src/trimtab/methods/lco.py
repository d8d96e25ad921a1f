"""LCO: regress to the closed-form optimum of a KL-regularised step, convex in the logits, instead of a ratio loss."""

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
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
    Requirements,
    RewardModel,
    Rollouts,
    TokenBatch,
)
from trimtab.objectives.advantages import group_normalised
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.policy_gradient import policy_metrics, ratios

Target = Literal["old", "current", "rho"]
Outside = Literal["remove", "keep"]


class Config(MethodConfig):
    loss: Literal["kld", "mse", "logcosh"] = "kld"
    """Forward KL from the target, or the squared or log-cosh difference of raw logits."""
    advantage: Literal["sparse", "completed", "q_rm", "dpo_rm"] = "sparse"
    """sparse: the completion's reward at the sampled token. completed: the same, and for all other tokens the advantage
    that makes the mean 0. q_rm: each candidate's log-probability under `models.reward_model`. dpo_rm: its log-ratio
    between the reward model and that model's reference."""
    target: Target = "old"
    """What the target is built on: the policy that sampled the completions; the current policy, so that the target
    moves with it (the authors' code for mse and logcosh); or rho, the current probability times `rho_up` or
    `rho_down` (the predecessor)."""
    beta: float = Field(2.0, gt=0)
    """The target is the old distribution times exp(A / beta)."""
    neg_beta_scale: float = Field(100.0, gt=0)
    """Multiplies beta where the reward is not above 0, for a softer target; for sparse and completed."""
    agreement_scale: float = Field(100.0, gt=0)
    """Multiplies beta where policy and reward model are both confident; for q_rm and dpo_rm with mse or logcosh."""
    agreement_threshold: float = Field(-0.02, lt=0)
    """Log-probability (nats) of the sampled token above which a model counts as confident."""
    num_candidates: int = Field(5, ge=1)
    """Number of candidates per position whose old log-probabilities are kept, including the sampled token."""
    candidates: Literal["model", "policy"] = "model"
    """Whose most likely tokens the candidates are; for q_rm and dpo_rm."""
    outside: Outside = "keep"
    """For kld: tokens that are not candidates keep their probability in the target (as one bin), or get none (the
    released code). keep is closer to a target over all tokens, and its gradient is 0 where no token has an advantage;
    remove is convex, and moves probability onto the candidates whatever their advantages."""
    rewards: Literal["plain", "group"] = "plain"
    """Rewards as they are, or normalised over the completions of a prompt; for sparse and completed."""
    rho_up: float = Field(1.2, gt=1)
    """Multiplies the sampled token's probability where the reward is above 0; for target rho."""
    rho_down: float = Field(0.8, gt=0, lt=1)
    """Multiplies it where the reward is not above 0; for target rho."""
    rho_ceiling: float = Field(0.99, gt=0, lt=1)
    """No probability is raised above this; for target rho."""
    rho_floor: float = Field(0.8, ge=0, le=1)
    """A probability that would fall below this stays as it is; at the released 0.8, only 1 itself is ever lowered. For
    target rho."""

    @property
    def dense(self) -> bool:
        """Whether every candidate has an advantage of its own."""
        return self.advantage in ("q_rm", "dpo_rm")

    @property
    def halves(self) -> bool:
        """Whether tokens with a positive reward and the others are averaged separately."""
        return self.target == "rho" or self.advantage == "completed"

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.loss != "kld" and (self.target == "rho" or self.advantage == "completed"):
            what = "target rho" if self.target == "rho" else "advantage completed"
            raise ValueError(f"{what} is a distribution, which loss {self.loss} does not compare; set loss: kld")
        if self.target == "rho" and self.advantage != "sparse":
            raise ValueError(f"target rho reads rewards, not advantage {self.advantage}; set advantage: sparse")
        if self.dense and self.num_candidates < 2:
            raise ValueError(f"advantage {self.advantage} compares candidates: num_candidates must be 2 or more")
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(not self.dense, "advantages sparse and completed", "neg_beta_scale", "rewards")
        self.only(self.dense, "advantages q_rm and dpo_rm", "candidates")
        sure = self.dense and self.loss != "kld"
        self.only(sure, "advantages q_rm and dpo_rm with mse or logcosh", "agreement_scale", "agreement_threshold")
        self.only(self.agreement_scale != 1, "an agreement_scale other than 1", "agreement_threshold")
        self.only(self.loss == "kld" and self.target != "rho", "kld with targets old and current", "outside")
        self.only(self.target != "rho", "targets old and current", "beta", "neg_beta_scale")
        self.only(self.target == "rho", "target: rho", "rho_up", "rho_down", "rho_ceiling", "rho_floor")
        moved = self.target == "old" or (self.target == "current" and self.outside == "remove")
        several = self.dense or (self.loss == "kld" and moved)
        self.only(several, "losses on single candidates: advantages q_rm and dpo_rm, or kld with target old",
                  "num_candidates")  # fmt: skip
        return self


# ---------------------------------------------------------------- targets


def log_outside(logprobs: Tensor) -> Tensor:
    """[N, 1]: log(1 - sum_c p_c) of log-probabilities [N, K]; a smaller mass than 1e-12 counts as 1e-12."""
    inside = logprobs.double().logsumexp(dim=1, keepdim=True)
    return (-torch.expm1(inside)).clamp(min=1e-12).log().float()


def shifted(base: Tensor, shift: Tensor) -> Tensor:
    """The target pi_old exp(A / beta), normalised: log-probabilities of the same bins.

    Args:
        base: [N, K] log-probabilities of the candidates, or [N, K + 1] with all other tokens as the last bin.
        shift: [N, K] A / beta of the candidates. Other tokens have no shift; without their bin, no probability either.
    """
    return (base + F.pad(shift, (0, base.size(1) - shift.size(1)))).log_softmax(dim=1)


class Rho(NamedTuple):
    """Bounds of `scaled_by_rho`; the defaults are the released ones."""

    up: float = 1.2
    down: float = 0.8
    ceiling: float = 0.99
    floor: float = 0.8


RELEASED = Rho()


def scaled_by_rho(base: Tensor, positive: Tensor, rho: Rho = RELEASED) -> Tensor:
    """The target in which the first bin has rho times its probability, and the others share the rest as before.

    Args:
        base: [N, K + 1] log-probabilities of all bins, the sampled token first.
        positive: [N] bool: rho is `up`, but no probability rises above `ceiling`; else rho is `down`, but a probability
            that would fall below `floor` stays.
    """
    log_p = base[:, :1]  # probabilities themselves may underflow
    raised = (log_p + math.log(rho.up)).clamp(max=math.log(rho.ceiling))
    lowered = torch.where(rho.down * log_p.exp() < rho.floor, log_p, log_p + math.log(rho.down))
    wanted = torch.where(positive[:, None], raised, lowered)
    others = base[:, 1:].log_softmax(dim=1)
    return torch.cat([wanted, others + torch.log1p(-wanted.exp().clamp(max=1 - 1e-7))], dim=1)


def log_cosh(difference: Tensor) -> Tensor:
    """log cosh d, as |d| + log(1 + e^(-2|d|)) - log 2, which is finite for every d."""
    size = difference.abs()
    return size + F.softplus(-2 * size) - math.log(2)


# ---------------------------------------------------------------- advantages


def completed(advantages: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
    """The advantage A (1 - pi) of the sampled token, and that of all others, -pi A (1 - pi) / max(1 - pi, 0.1).

    Their mean under pi is 0 where pi is at most 0.9. There their difference is A, as for A on the sampled token alone.

    Args:
        advantages, probability: [N] of the sampled tokens.
    """
    known = advantages * (1 - probability)
    return known, -probability * known / (1 - probability).clamp(min=0.1)


def over_std(scores: Tensor) -> Tensor:
    """(scores - mean) / (std + 1e-6) over the K candidates of each place, the std unbiased.

    Args:
        scores: [N, K], K at least 2.

    Returns:
        [N, K], 0 where all are equal. Always centred: other tokens that keep their probability have an advantage of
        0, which is only comparable to centred scores; and where they have no probability, a constant changes nothing.
    """
    exact = scores.double()
    centred = exact - exact.mean(dim=1, keepdim=True)
    return (centred / (exact.std(dim=1, keepdim=True) + 1e-6)).float()


class CandidateAdvantages(AdvantageEstimator):
    """The advantage of each candidate: A as `Candidates.advantages`, 0 where unknown, and "beta" [N].

    For losses that average positive tokens and the others separately, "token_weight" [N] is the number of tokens over
    that of their half, times |reward| for rho: in the mean over tokens of all rollouts given here, each half then has
    its own mean.
    """

    def __init__(self, config: Config):
        self.config, self.candidates = config, config.num_candidates
        raw = config.loss != "kld" and config.target == "old"
        scores = {"q_rm": {"reward_model"}, "dpo_rm": {"reward_model", "reward_model_reference"}}.get(
            config.advantage, set()
        )
        self.needs = frozenset(scores | ({"normaliser"} if raw else set()))
        self.provides = frozenset(
            {"candidates", "beta"} | ({"normaliser"} if raw else set()) | ({"token_weight"} if config.halves else set())
        )

    def __call__(self, rollouts: Rollouts) -> dict:
        config, held = self.config, rollouts.candidates
        assert held is not None
        advantages, beta = self._dense(rollouts, held) if config.dense else self._sparse(rollouts, held)
        mask = torch.ones_like(held.ids, dtype=torch.bool)
        mask[:, 1:] = config.dense or config.loss == "kld"
        found = {"candidates": Candidates(held.ids, held.logprobs, advantages, mask), "beta": beta}
        if "normaliser" in self.needs:
            found["normaliser"] = rollouts.signals["normaliser"]
        if config.halves:
            reward = rollouts.of_token(self._rewards(rollouts))
            positive = reward > 0
            number = torch.where(positive, positive.sum(), (~positive).sum())
            found["token_weight"] = len(positive) / number * (reward.abs() if config.target == "rho" else 1.0)
        return found

    def _rewards(self, rollouts: Rollouts) -> Tensor:
        if self.config.rewards == "plain":
            return rollouts.rewards
        return group_normalised(rollouts.rewards, rollouts.group)

    def _sparse(self, rollouts: Rollouts, held: Candidates) -> tuple[Tensor, Tensor]:
        config, reward = self.config, rollouts.of_token(self._rewards(rollouts))
        known = reward
        if config.advantage == "completed":
            known, others = completed(reward, held.logprobs[:, 0].exp())
            known = known - others  # a constant on all tokens changes no distribution
        advantages = torch.zeros_like(held.logprobs)
        advantages[:, 0] = known
        return advantages, torch.where(reward > 0, config.beta, config.neg_beta_scale * config.beta)

    def _dense(self, rollouts: Rollouts, held: Candidates) -> tuple[Tensor, Tensor]:
        config, verifier = self.config, rollouts.signals["reward_model"]
        scores = verifier - rollouts.signals["reward_model_reference"] if config.advantage == "dpo_rm" else verifier
        beta = torch.full_like(verifier[:, 0], config.beta)
        if config.loss != "kld":
            sure = torch.minimum(held.logprobs[:, 0], verifier[:, 0]) > config.agreement_threshold
            beta = torch.where(sure, config.agreement_scale * config.beta, beta)
        return over_std(scores), beta


# ---------------------------------------------------------------- the loss


class LCO(Objective):
    """kld: sum_v pi*(v) (log pi*(v) - log pi(v));  mse, logcosh: sum_c of the difference z_c - (z_old,c + A_c / beta).

    The target pi* is known at K candidates; all other tokens share one bin. With as many candidates as the vocabulary,
    or with outside "remove", there is no such bin, and the loss is convex in the logits. With it the loss is not,
    because -log of a sum of probabilities is not; its gradient is still pi - pi*, with the target's mass outside shared
    as the policy shares its own, so it is bounded, and zero at the target.

    Args:
        loss, target: see `Config`.
        keep: tokens outside keep their probability.
        weighted: reads "token_weight" [N].
        rho: for target rho.
    """

    def __init__(
        self, loss: Literal["kld", "mse", "logcosh"], target: Target, *, keep: bool, weighted: bool = False,
        rho: Rho = RELEASED,
    ):  # fmt: skip
        self.rho = rho
        self.loss, self.target, self.keep, self.weighted = loss, target, keep, weighted
        self.ratio = "old" if target == "old" else None
        raw = {"normaliser"} if loss != "kld" and target == "old" else set()
        self.needs = frozenset({"candidates", "beta"} | raw | ({"token_weight"} if weighted else set()))

    def __call__(self, batch: TokenBatch) -> Losses:
        held = batch.signals["candidates"]
        values, logprobs, entropy = (self._divergence if self.loss == "kld" else self._distance)(batch, held)
        if self.weighted:
            values = values * batch.signals["token_weight"]
        metrics = policy_metrics(logprobs, entropy, held.advantages[:, 0])
        return batch.losses(values, **metrics, ratio=ratios(logprobs.detach(), held.logprobs[:, 0]))

    def _divergence(self, batch: TokenBatch, held: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        assert held.advantages is not None
        keep = self.keep and held.ids.size(1) < batch.vocab_size
        if keep:
            log_softmax = batch.log_softmax()
            entropy = -torch.linalg.vecdot(log_softmax.detach().exp(), log_softmax.detach())
            outside = log_softmax.scatter(1, held.ids, -torch.inf).logsumexp(dim=1, keepdim=True)
            policy = torch.cat([log_softmax.gather(1, held.ids), outside], dim=1)  # [N, K + 1]
        else:
            policy, entropy = batch.logprobs_and_entropy(held.ids)
        if self.target == "rho":
            target = scaled_by_rho(policy.detach(), held.advantages[:, 0] > 0, self.rho)
        else:
            base = policy.detach()
            if self.target == "old":
                base = torch.cat([held.logprobs, log_outside(held.logprobs)], dim=1) if keep else held.logprobs
            target = shifted(base, held.advantages / batch.signals["beta"][:, None])
        return forward_kl(policy, target), policy[:, 0], entropy

    def _distance(self, batch: TokenBatch, held: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        assert held.advantages is not None
        assert held.mask is not None
        logits = batch.logits().gather(1, held.ids).float()  # [N, K]
        old = logits.detach() if self.target == "current" else held.logprobs + batch.signals["normaliser"][:, None]
        difference = logits - (old + held.advantages / batch.signals["beta"][:, None])
        sizes = difference.square() if self.loss == "mse" else log_cosh(difference)
        with torch.no_grad():
            logprobs, entropy = batch.logprobs_and_entropy()
        return (sizes * held.mask).sum(dim=1), logprobs, entropy


def build(config: Config, policy: nn.Module, reward_model: Any = None) -> Plan:
    rho = Rho(config.rho_up, config.rho_down, config.rho_ceiling, config.rho_floor)
    return Plan(
        LCO(config.loss, config.target, keep=config.outside == "keep", weighted=config.halves, rho=rho),
        advantages=CandidateAdvantages(config),
        rollout_signals=(reward_model,) if reward_model else (),
    )


def requires(config: Config) -> Requirements:
    if not config.dense:
        return Requirements()
    return Requirements(models=(RewardModel(config.candidates, measured=config.advantage == "dpo_rm"),))


METHOD = Method(
    paper="arXiv:2603.00963",
    claim="A loss that is convex in the logits, with a gradient that vanishes at its target, keeps several epochs on "
    "the same completions stable (the default here, five candidates and one bin for all other tokens, vanishes too but "
    "is not convex; with all tokens as candidates, outside: remove, mse or logcosh it is).",
    equation="L_t = KL(pi* || pi),  pi*(v) ~ pi_old(v) exp(A(v) / beta);  or (z - z*)^2, log cosh(z - z*) with "
    "z* = z_old + A / beta",
    config=Config,
    build=build,
    requires=requires,
    loop="rollouts",
)
