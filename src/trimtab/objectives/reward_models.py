"""Losses of reward models: token scores, aggregated over prefixes or answers, compared with preferences or outcomes.

A reward model here is a source of token scores, a way to aggregate them, and a link to a preference (rows 2i are
chosen, 2i+1 rejected) or to an outcome (1 for a correct answer, 0 for an incorrect one).
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.core import Losses, Objective, TokenBatch
from trimtab.objectives.preference import paired

Source = Literal["scalar", "logit", "logprob", "ratio"]
"""A scalar head on the token's hidden state; the language model's logit of the token, or its log-probability; or
log pi(y_t) - log pi_ref(y_t)."""
Gathered = Literal["last", "sum", "mean", "prefix_mean"]
Weighting = Literal["uniform", "early", "late"]
LEAF = {"scalar": "scalar", "logit": "logit", "logprob": "logprob", "ratio": "logprob"}
"""What an objective reads from the policy, per source."""


def token_scores(batch: TokenBatch, source: Source) -> Tensor:
    """[N] float32; nats for "logprob" and "ratio"."""
    if source == "ratio":
        return batch.logprobs() - batch.logprobs(of="reference")
    if source == "logit" and batch.signals["policy"].dim() == 2:
        return batch.logits().gather(1, batch.targets[:, None])[:, 0].float()
    return batch.logprobs()  # the engine, or the model's head, gives [N] as they are


def gather(batch: TokenBatch, scores: Tensor, how: Gathered) -> Tensor:
    """[R] of answers, or [N] of prefixes up to and with each token, from scores [N]. An empty answer gets 0."""
    if how == "prefix_mean":
        return batch.prefix_sum(scores) / (batch.position + 1)
    if how == "last":
        return batch.row_sum(torch.where(batch.position + 1 == batch.lengths[batch.row], scores, 0.0))
    total = batch.row_sum(scores)
    return total if how == "sum" else total / batch.lengths.clamp(min=1)


def bradley_terry(chosen: Tensor, rejected: Tensor, beta: float = 1.0, margin: float = 0.0) -> Tensor:
    """-log sigma(beta (chosen - rejected) - margin), all [P]; beta does not scale the margin (arXiv:2505.23363)."""
    return -F.logsigmoid(beta * (chosen - rejected) - margin)


def focal_bradley_terry(chosen: Tensor, rejected: Tensor, penalty: float = 0.0) -> Tensor:
    """-(1 - 2 relu(sigma(d) - 1/2))^2 log sigma(d), d = chosen - rejected: InternLM2's ranking loss (arXiv:2403.17297).

    Args:
        chosen, rejected: [P].
        penalty: coefficient of the mean of -(log sigma(s + 5) + log sigma(5 - s)) over both scores, which keeps them
            between -5 and 5.
    """
    difference = chosen - rejected
    loss = -(1 - 2 * F.relu(difference.sigmoid() - 0.5)).square() * F.logsigmoid(difference)
    if penalty:
        outside = [-(F.logsigmoid(score + 5) + F.logsigmoid(5 - score)) for score in (chosen, rejected)]
        loss = loss + penalty * (outside[0] + outside[1]) / 2
    return loss


def logistic(value: Tensor, outcome: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """-[y log sigma(v - m) + (1 - y) log sigma(-(v + m))] (arXiv:2604.13197).

    Args:
        value, outcome: of one shape; outcomes are 0 or 1.
        margin: by which a value must clear 0.
    """
    return -(outcome * F.logsigmoid(value - margin) + (1 - outcome) * F.logsigmoid(-(value + margin)))


def focal_logistic(value: Tensor, outcome: Tensor) -> Tensor:
    """(y - sigma(v))^2 times the cross-entropy: answers that are already classified correctly weigh little."""
    return (outcome - value.sigmoid()).square() * logistic(value, outcome)


# ---------------------------------------------------------------- objectives


class RewardObjective(Objective):
    """Objective of a reward model: computed from token scores, it also evaluates them on held-out rows."""

    source: Source
    """source of the token scores"""
    gathered: Gathered = "last"
    """how an answer's token scores are aggregated"""
    beta: float = 1.0
    """a value is beta times the aggregated score"""
    squash: bool = False
    """whether scores pass through sigma first"""

    def evaluate(self, batch: TokenBatch, scores: Tensor) -> dict[str, Tensor]:
        """For each answer or pair: "objective", "accuracy", and "brier" if outcomes are known; from scores [N]."""
        raise NotImplementedError


class Pairs(RewardObjective):
    """loss = link(S_w, S_l), S being the aggregated score of an answer.

    Both sequences of a pair carry the pair's loss, so the mean over sequences is the mean over pairs.

    Args:
        link: of chosen and rejected, [P] each.
        squash: scores pass through sigma first, and the mean is multiplied by the mean length of the pair's answers
            (PGTG, see arXiv:2505.23363).
        nll: coefficient of -log pi(y_t), averaged over the chosen answer; for source "logprob".
    """

    per = "sequence"

    def __init__(
        self, source: Source, gathered: Literal["last", "sum", "mean"], link: Callable[[Tensor, Tensor], Tensor], *,
        squash: bool = False, nll: float = 0.0,
    ):  # fmt: skip
        if nll and source != "logprob":
            raise ValueError(f"nll needs log-probabilities, and source is {source}; leave nll out")
        self.source, self.gathered, self.link, self.squash, self.nll = source, gathered, link, squash, nll
        self.beta = getattr(link, "keywords", {}).get("beta", 1.0)
        self.leaf = LEAF[source]
        self.needs = frozenset({"reference"} if source == "ratio" else ())
        self.ratio = "reference" if source == "ratio" else None

    def __call__(self, batch: TokenBatch) -> Losses:
        scores = token_scores(batch, self.source)
        found = self.evaluate(batch, scores)
        loss, kept = found.pop("objective").repeat_interleave(2), batch.lengths[0::2] > 0
        metrics = {name: value[kept] for name, value in found.items()}
        return batch.losses(loss, **metrics, **_likelihood(batch, self.source, batch.row % 2 == 0))

    def evaluate(self, batch: TokenBatch, scores: Tensor) -> dict[str, Tensor]:
        """[P] each: objective, accuracy (1, 0, or 1/2 for a tie), difference, score_chosen, score_rejected."""
        if not paired(batch):
            raise ValueError("a pair is a chosen and a rejected answer, neither of them empty")
        answers = gather(batch, scores.sigmoid() if self.squash else scores, self.gathered)  # [R]
        chosen, rejected = answers[0::2], answers[1::2]
        if self.squash:
            length = (batch.lengths[0::2] + batch.lengths[1::2]) / 2
            chosen, rejected = length * chosen, length * rejected
        loss = self.link(chosen, rejected)
        if self.nll:
            loss = loss - self.nll * gather(batch, scores, "mean")[0::2]
        return {
            "objective": loss,
            "accuracy": (chosen > rejected).float() + 0.5 * (chosen == rejected).float(),
            "difference": chosen - rejected,
            "score_chosen": chosen,
            "score_rejected": rejected,
        }


class Outcomes(RewardObjective):
    """loss = link(v, y): v of an answer, or with "prefix_mean" of every prefix of it; y is 1 if the answer is
    correct.

    Args:
        link: of values and outcomes.
        beta: v is beta times the aggregated scores.
        weighting: only for prefixes, of an answer of T tokens: uniform, or w_t = t/T ("late") or 1 - t/T ("early")
            over their sum, times T.
    """

    def __init__(
        self, source: Source, gathered: Gathered, link: Callable[[Tensor, Tensor], Tensor], *, beta: float = 1.0,
        weighting: Weighting = "uniform",
    ):  # fmt: skip
        self.source, self.gathered, self.link, self.beta = source, gathered, link, beta
        self.weighting: Weighting = weighting
        self.leaf, self.per = LEAF[source], "prefix" if gathered == "prefix_mean" else "sequence"
        self.needs = frozenset({"outcome", *(["reference"] if source == "ratio" else [])})
        self.ratio = "reference" if source == "ratio" else None

    def __call__(self, batch: TokenBatch) -> Losses:
        losses, found = self._evaluated(batch, token_scores(batch, self.source))
        answered, correct = batch.lengths > 0, found["outcome"] > 0.5
        return batch.losses(
            losses,
            accuracy=found["accuracy"][answered],
            brier=found["brier"][answered],
            value_correct=found["value"][answered & correct],
            value_incorrect=found["value"][answered & ~correct],
            **_likelihood(batch, self.source),
        )

    def evaluate(self, batch: TokenBatch, scores: Tensor) -> dict[str, Tensor]:
        """[R] each: objective (of prefixes the mean over an answer), value and outcome of the answer, accuracy of the
        value's sign, and brier, (sigma(value) - outcome)^2."""
        return self._evaluated(batch, scores)[1]

    def _evaluated(self, batch: TokenBatch, scores: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses, [N] of prefixes or [R], and the metrics of answers."""
        values, outcome = self.beta * gather(batch, scores, self.gathered), batch.signals["outcome"].float()
        of_answer = gather(batch, outcome, "last")
        if self.per == "prefix":
            losses = self.link(values, outcome) * prefix_weights(batch, self.weighting)
            objective, value = gather(batch, losses, "mean"), gather(batch, values, "last")
        else:
            losses = objective = self.link(values, of_answer)
            value = values
        return losses, {
            "objective": objective,
            "accuracy": ((value > 0) == (of_answer > 0.5)).float(),
            "brier": (value.sigmoid() - of_answer).square(),
            "value": value,
            "outcome": of_answer,
        }


class StepRatings(RewardObjective):
    """loss = mean over an answer's steps of (tanh(score at the step's last token) - rating)^2, ratings in {-1, 0, 1}.

    The signal "rating" [N] is NaN where no step ends. The step reward model that arXiv:2505.23363 compares with.
    """

    per = "sequence"
    needs = frozenset({"rating"})

    def __init__(self, source: Source):
        if source == "ratio":
            raise ValueError("step ratings need scores without a reference")
        self.source = source
        self.leaf = LEAF[source]

    def __call__(self, batch: TokenBatch) -> Losses:
        found = self.evaluate(batch, token_scores(batch, self.source))
        kept = batch.lengths > 0
        return batch.losses(found["objective"], accuracy=found["accuracy"][kept], **_likelihood(batch, self.source))

    def evaluate(self, batch: TokenBatch, scores: Tensor) -> dict[str, Tensor]:
        """[R] each: objective, and accuracy, the share of steps whose score has the sign of the rating."""
        rating = batch.signals["rating"].float()
        ends = ~rating.isnan()
        error = torch.where(ends, scores.tanh() - rating.nan_to_num(), 0.0).square()
        agrees = (ends & (scores.sign() == rating.sign())).float()
        steps = batch.row_sum(ends.float()).clamp(min=1)
        return {"objective": batch.row_sum(error) / steps, "accuracy": batch.row_sum(agrees) / steps}


def prefix_weights(batch: TokenBatch, weighting: Weighting) -> Tensor:
    """[N] with a mean of 1 over each answer: all 1, or t/T, or 1 - t/T, over their mean. A lone token has weight 1."""
    if weighting == "uniform":
        return torch.ones(len(batch), device=batch.targets.device)
    length = batch.lengths[batch.row]
    share = (batch.position + 1) / length
    weight = share if weighting == "late" else 1 - share
    mean = (length + 1) / (2 * length) if weighting == "late" else (length - 1) / (2 * length)
    return torch.where(length > 1, weight / mean.clamp(min=1e-12), 1.0)


def _likelihood(batch: TokenBatch, source: Source, kept: Tensor | None = None) -> dict[str, Tensor]:
    """The metric nll, if the policy is still a language model."""
    if LEAF[source] != "logprob":
        return {}
    nll = -batch.logprobs()
    return {"nll": nll if kept is None else nll[kept]}


# ---------------------------------------------------------------- learning from rollouts


def adaptive_margin(outcome: Tensor, share: Tensor, margin: float) -> Tensor:
    """The margin by prompt difficulty: m - logit(mu) for a correct completion, m + logit(mu) for an incorrect one.

    Args:
        outcome: [R] 0 or 1.
        share: [R] mu, the mean outcome of the completions of the same prompt; groups that are all correct or all
            incorrect keep m.
        margin: m.

    Returns:
        [R]. Source: arXiv:2604.13197, adaptive decision boundary.
    """
    mu = share.double().clamp(1e-6, 1 - 1e-6)
    shift = torch.where((share > 0) & (share < 1), torch.logit(mu), 0.0)
    return (margin - (2 * outcome - 1) * shift).float()


def difficulty_weights(outcome: Tensor, share: Tensor) -> Tensor:
    """1/(2 mu) for a correct completion and 1/(2 (1 - mu)) for an incorrect one, with mean 1 over a group; 0 where all
    completions of a prompt are correct, or all incorrect.

    Args and source as in `adaptive_margin`.
    """
    mixed = (share > 0) & (share < 1)
    rarity = torch.where(outcome > 0.5, share, 1 - share)
    return torch.where(mixed, 0.5 / rarity.clamp(min=1e-12), 0.0)


def online_prefix_loss(batch: TokenBatch, ratios: Tensor, outcome: Tensor, margin: Tensor, beta: float) -> Tensor:
    """-log sigma(beta/t sum_{i<=t} s r_i - margin) with s = 2 y - 1, per prefix (arXiv:2604.13197, online).

    Args:
        ratios: [N] log pi(y_t) - log pi_old(y_t).
        outcome, margin: [R].

    Returns:
        [N]; the loss of an update is the mean over completions of weight times the mean over a completion's tokens.
    """
    sign = (2 * outcome - 1)[batch.row]
    return -F.logsigmoid(beta * sign * gather(batch, ratios, "prefix_mean") - margin[batch.row])


def online_answer_loss(batch: TokenBatch, ratios: Tensor, outcome: Tensor, margin: Tensor, beta: float) -> Tensor:
    """-log sigma(s beta sum_t r_t - margin) with s = 2 y - 1 (arXiv:2604.13197, online implicit PRM).

    Args as in `online_prefix_loss`. Returns [R].
    """
    return -F.logsigmoid((2 * outcome - 1) * beta * batch.row_sum(ratios) - margin)
