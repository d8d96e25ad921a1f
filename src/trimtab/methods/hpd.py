"""HPD: for each token, the sign of a one-token KL estimate decides if the student is pulled up or pushed down."""

import math
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from trimtab.core import Losses, Method, MethodConfig, Plan, TokenBatch, Wants
from trimtab.core.draws import inverse_cdf
from trimtab.signals.frozen import FrozenModel


class Config(MethodConfig):
    weighting: Literal["hpd", "sft", "seqkd", "reverse_kl", "jsd"] = "hpd"
    """The weight of log q(y). "hpd" is the method; the others are the one-token baselines in the same form."""
    student_sampling: bool = True
    """Draw one competitor token from the student and push it down where the student overestimates it."""
    reinforce: bool = True
    """Pull with 2p instead of p where the expert token is underestimated and its competitor overestimated."""
    hybrid_mask: bool = True
    """Let the signs decide. False applies both terms at every token (the paper's ablation; its exact form is
    not published, this is the nearest reading)."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.weighting == "hpd", "weighting: hpd", "student_sampling", "reinforce", "hybrid_mask")
        self.only(self.student_sampling, "student_sampling: true", "reinforce")
        return self


def hpd_weights(
    q_label: Tensor,
    p_label: Tensor,
    q_draw: Tensor,
    p_draw: Tensor,
    hit: Tensor,
    *,
    student_sampling: bool = True,
    reinforce: bool = True,
    hybrid_mask: bool = True,
) -> tuple[Tensor, Tensor]:
    """The weights w* of log q(label) and w of log q(draw).

    With k = q (log p - log q) at each of the two tokens: w* = k, or p + k where k > 0, or 2p + k where the
    draw is another token that the student overestimates (k' < 0); w = k' there and 0 elsewhere.

    Args:
        q_label, p_label: [N] log-probabilities of the label under student and teacher, nats.
        q_draw, p_draw: [N] of the token drawn from the student.
        hit: [N] bool, the draw is the label.
        student_sampling, reinforce, hybrid_mask: ablations, see `Config`.

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

    sft: 1. seqkd: p. reverse_kl: q (log p - log q). jsd: q (log m - log q) / 2 with m = (p + q) / 2, the sign
    for which a descent step makes the divergence smaller (the printed weight is its negative).
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


class HPD:
    """loss = -( sg[w*] log q(y_t) + sg[w] log q(a_t) ),  a_t drawn from the student"""

    needs = frozenset({"teacher"})
    per = "token"

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, batch: TokenBatch) -> Losses:
        config = self.config
        if config.weighting != "hpd":
            student, teacher = batch.logprobs(), batch.logprobs(of="teacher")
            weight = baseline_weights(config.weighting, student.detach(), teacher)
            return batch.losses(-weight * student, nll=-student, weight=weight)
        if config.student_sampling:
            draw = inverse_cdf(batch.log_softmax().detach().exp(), batch.uniform())
        else:
            draw = batch.targets
        ids = torch.stack([batch.targets, draw], dim=1)  # [N, 2]
        student, teacher = batch.logprobs(ids=ids), batch.logprobs(of="teacher", ids=ids)
        hit = draw == batch.targets
        pull, push = hpd_weights(
            *(student.detach()[:, 0], teacher[:, 0], student.detach()[:, 1], teacher[:, 1], hit),
            student_sampling=config.student_sampling,
            reinforce=config.reinforce,
            hybrid_mask=config.hybrid_mask,
        )
        return batch.losses(
            -(pull * student[:, 0] + push * student[:, 1]),
            nll=-student[:, 0],
            pull=pull,
            push=push,
            pull_negative=pull < 0,
            competitor_active=push < 0,
            draw_is_not_label=~hit,
        )


def build(config: Config, policy: nn.Module, teacher: FrozenModel) -> Plan:
    return Plan(HPD(config), signals=(teacher,))


METHOD = Method(
    paper="arXiv:2604.20244",
    claim="At the cost of SFT plus one teacher forward, keeps entropy where SFT loses it and goes on lowering the KL "
    "to the teacher.",
    equation="L_t = -( w* log q(y_t) + w log q(a_t) ),  a_t ~ q;  k = q(y)(log p(y) - log q(y)), "
    "k' = q(a)(log p(a) - log q(a));  w* = k + [k>0] p(y) (1 + [a!=y][k'<0]),  w = [a!=y][k'<0] k'",
    config=Config,
    build=build,
    wants=Wants(roles=frozenset({"teacher"})),
)
