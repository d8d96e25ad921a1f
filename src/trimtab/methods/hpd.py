"""HPD: the sign of a one-token KL estimate decides, per token, whether the student is pulled up or pushed down."""

import math
from functools import partial
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trimtab.core import Losses, Method, MethodConfig, Objective, Plan, Requirements, Teacher, TokenBatch
from trimtab.core.draws import inverse_cdf
from trimtab.objectives.policy_gradient import clipped, clipped_surrogate, ratios
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.snapshot import SnapshotTokens


class Config(MethodConfig):
    weighting: Literal["hpd", "sft", "seqkd", "reverse_kl", "jsd"] = "hpd"
    """How log q(y) is weighted. "hpd" is the method; the others are its one-token baselines."""
    student_sampling: bool = True
    """Sample one competitor token from the student and push it down where the student overestimates it."""
    reinforce: bool = True
    """Pull with 2p instead of p if the label is underestimated and its competitor overestimated."""
    hybrid_mask: bool = True
    """Gate each term by the sign of its estimate. False applies both terms at every token (the paper's ablation; its
    exact form is not published, this is the closest interpretation)."""
    mini_batches: int = Field(1, ge=1)
    """Updates that share the weights and samples of the student before the first of them. With 2 or more, the loss is
    the surrogate of the authors' RL recipe: a clipped ratio to that student instead of log q."""
    epsilon: float = Field(0.2, gt=0)
    """Lower clip range of a token's ratio (negative weights), with several mini-batches."""
    epsilon_high: float = Field(0.28, gt=0)
    """Upper clip range of a token's ratio (positive weights), with several mini-batches."""
    dual_clip: float = Field(10.0, gt=1)
    """Dual clip: above this ratio, a token with a negative weight gets no gradient."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.weighting == "hpd", "weighting: hpd", "student_sampling", "reinforce", "hybrid_mask")
        self.only(self.student_sampling, "student_sampling: true", "reinforce")
        self.only(self.weighting == "hpd", "weighting: hpd", "mini_batches")
        self.only(self.mini_batches > 1, "mini_batches above 1", "epsilon", "epsilon_high", "dual_clip")
        return self


def hpd_weights(
    q_label: Tensor, p_label: Tensor, q_draw: Tensor, p_draw: Tensor, hit: Tensor, *,
    student_sampling: bool = True, reinforce: bool = True, hybrid_mask: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The weights w* of log q(label) and w of log q(draw).

    With k = q (log p - log q) at each of the two tokens: w* = k, or p + k where k > 0, or 2p + k where the
    draw is a different token that the student overestimates (k' < 0); w = k' there and 0 elsewhere.

    Args:
        q_label, p_label: [N] log-probabilities of the label under student and teacher, nats.
        q_draw, p_draw: [N] of the token drawn from the student.
        hit: [N] bool, the draw is the label.

    Returns:
        Two [N] tensors without gradient. Under the hybrid mask the second is never positive, and both are 0 where
        the models agree: k = 0 counts as "down" (the loss form of the released code; its RL form counts it as "up").

    Source: HPD (arXiv:2604.20244).
    """
    with torch.no_grad():
        k = q_label.exp() * (p_label - q_label)
        k_draw = q_draw.exp() * (p_draw - q_draw)
        up = (k > 0) if hybrid_mask else torch.ones_like(hit)
        suppress = ~hit & (k_draw < 0) if hybrid_mask else ~hit
        if not student_sampling:
            suppress = torch.zeros_like(hit)
        pull = 1 + suppress.float() if reinforce else 1.0
        return k + up * p_label.exp() * pull, suppress * k_draw


def baseline_weights(how: str, q_label: Tensor, p_label: Tensor) -> Tensor:
    """The weight [N] of log q(label) in the one-token form of a known loss, -E[w log q].

    sft: 1. seqkd: p. reverse_kl: q (log p - log q). jsd: q (log m - log q) / 2 with m = (p + q) / 2, with the sign
    for which a descent step reduces the divergence (the printed weight is its negative).
    """
    with torch.no_grad():
        q = q_label.exp()
        if how == "sft":
            return torch.ones_like(q)
        if how == "seqkd":
            return p_label.exp()
        if how == "reverse_kl":
            return q * (p_label - q_label)
        assert how == "jsd", how
        return q * (torch.logaddexp(p_label, q_label) - math.log(2) - q_label) / 2  # both may underflow


def label_and_draw(batch: TokenBatch, student_sampling: bool = True) -> Tensor:
    """[N, 2] ids: the label, and a token sampled from the student, or the label again."""
    if not student_sampling:
        return torch.stack([batch.targets, batch.targets], dim=1)
    return torch.stack([batch.targets, inverse_cdf(batch.log_softmax().detach().exp(), batch.uniform())], dim=1)


class HPD(Objective):
    """loss = -( sg[w*] log q(y_t) + sg[w] log q(a_t) ),  a_t drawn from the student

    With several mini-batches L(r(y_t), w*) + L(r(a_t), w), with L PPO's clipped surrogate and r the ratio to the
    student before the first of them, whose weights and draws these are: at r = 1 the gradient is the same.
    """

    def __init__(self, config: Config):
        self.config = config
        self.ratio = "snapshot" if config.mini_batches > 1 else None
        self.needs = frozenset({"teacher", *(["snapshot"] if self.ratio else [])})

    def __call__(self, batch: TokenBatch) -> Losses:
        config = self.config
        if config.weighting != "hpd":
            student, teacher = batch.logprobs(), batch.logprobs(of="teacher")
            weight = baseline_weights(config.weighting, student.detach(), teacher)
            return batch.losses(-weight * student, nll=-student, weight=weight)
        before = batch.signals.get("snapshot")  # a snapshot as old as the student is not given: it is the student
        ids = label_and_draw(batch, config.student_sampling) if before is None else before.ids  # [N, 2]
        student, teacher = batch.logprobs(ids=ids), batch.logprobs(of="teacher", ids=ids)
        old = student.detach() if before is None else before.logprobs
        hit = ids[:, 0] == ids[:, 1]
        pull, push = hpd_weights(
            *(old[:, 0], teacher[:, 0], old[:, 1], teacher[:, 1], hit),
            student_sampling=config.student_sampling,
            reinforce=config.reinforce,
            hybrid_mask=config.hybrid_mask,
        )
        weight, further = torch.stack([pull, push], dim=1), {}
        values = -(weight * student).sum(dim=1)
        if config.mini_batches > 1:
            bounds = (student, old, weight, config.epsilon, config.epsilon_high, config.dual_clip)
            values = clipped_surrogate(*bounds).sum(dim=1)
            further = {"ratio": ratios(student[:, 0], old[:, 0]), "clip_fraction": clipped(*bounds).float()}
        return batch.losses(
            values,
            nll=-student[:, 0],
            **further,
            pull=pull,
            push=push,
            pull_negative=pull < 0,
            competitor_active=push < 0,
            draw_is_not_label=~hit,
        )


def build(config: Config, policy: nn.Module, teacher: FrozenModel) -> Plan:
    if config.mini_batches == 1:
        return Plan(HPD(config), signals=(teacher,))
    choose = partial(label_and_draw, student_sampling=config.student_sampling)
    student = SnapshotTokens(config.mini_batches, choose, teacher.vocab_size or None)
    return Plan(HPD(config), signals=(teacher, student))


METHOD = Method(
    paper="arXiv:2604.20244",
    claim="At the cost of SFT plus one teacher forward, keeps the entropy that SFT loses and keeps lowering the KL "
    "to the teacher.",
    equation="L_t = -( w* log q(y_t) + w log q(a_t) ),  a_t ~ q;  k = q(y)(log p(y) - log q(y)), "
    "k' = q(a)(log p(a) - log q(a));  w* = k + [k>0] p(y) (1 + [a!=y][k'<0]),  w = [a!=y][k'<0] k';  "
    "with several mini-batches min(r w, clip(r, 1 - epsilon, 1 + epsilon_high) w) for w log q,  r = q / q_before",
    config=Config,
    build=build,
    requires=Requirements(models=(Teacher(),)),
)
