"""Adaptive decoding: sample from the tokens whose probability adds enough to the model's confidence.

With p_1 >= p_2 >= ... and R_k = sum_{i>k} p_i, the confidence of knowing the first k tokens and taking the rest as
uniform is one minus a normalised entropy,

    Conf_k = 1 + (sum_{i<=k} p_i log p_i + R_k log(R_k / (V - k))) / log V,    Conf_0 = 0,

and token k contributes d_k = Conf_k - Conf_{k-1} >= 0. Candidates are the tokens with d_k > epsilon; the next token is
sampled from their renormalised probabilities.

Paper: arXiv:2402.18223. Rules differ where d_k does not fall with k, on a plateau of nearly equal tokens. `threshold`
is the authors' released code and the default; `prefix` is the paper's text; `last` never drops a token that is more
probable than one it keeps. `legacy` is the authors' first release, for study: it divides by log2 V, so its epsilon
is 1.443 times the others', and it always keeps the least probable token.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import LogitsProcessor, TopPLogitsWarper

from trimtab.common.errors import UserError
from trimtab.decoding._strategy import PLAIN, Sampling, Strategy

Flat = Literal["top1", "all"] | float
Rule = Literal["threshold", "prefix", "last", "legacy"]


def gains(p: Tensor, rest: Tensor, sizes: Tensor) -> Tensor:
    """d_k of the most probable tokens.

    Args:
        p: [B, K] probabilities, falling, float32 or float64.
        rest: [B, 1] probability of all other tokens. Like the tail sums here it is not computed as 1 - sum, which
            would reach 0 too early.
        sizes: [B, 1] V.

    Returns:
        [B, K]; never negative except for rounding, at most p_k, and 0 where p_k is the mean of the remaining ones.
    """
    before = torch.cat([p, rest], dim=-1).flip(-1).cumsum(-1).flip(-1)  # R_{k-1}, then the rest
    after, before = before[:, 1:], before[:, :-1]
    others = (sizes - torch.arange(1, p.size(-1) + 1, device=p.device)).clamp(min=0)  # V - k

    def flat(rest: Tensor, number: Tensor) -> Tensor:
        """rest log(rest / number); the quotient itself may be too small for a float32 that rest still fits."""
        return torch.xlogy(rest, rest) - rest * number.clamp(min=1).to(p.dtype).log()

    whole = sizes.clamp(min=2).to(p.dtype).log()
    return (torch.xlogy(p, p) + flat(after, others) - flat(before, others + 1)) / whole


def confidence(scores: Tensor, number: Tensor | int) -> Tensor:
    """[B] Conf_k at k = `number` ([B], or one for all) of scores [B, V]."""
    p = scores.float().softmax(dim=-1).sort(dim=-1, descending=True, stable=True).values
    found = gains(p, p.new_zeros(len(p), 1), _sizes(scores, "head")).cumsum(dim=-1)
    number = torch.as_tensor(number, device=p.device).expand(len(p))
    return torch.where(number > 0, found.gather(-1, (number - 1).clamp(min=0)[:, None])[:, 0], 0.0)


def adaptive(
    scores: Tensor,
    epsilon: float,
    rule: Rule = "threshold",
    *,
    min_tokens_to_keep: int = 1,
    vocab: Literal["head", "unmasked"] = "head",
    flat: Flat = "top1",
    flat_below: float = 0.0,
    filter_value: float = -math.inf,
) -> Tensor:
    """Scores [B, V] of any float dtype with everything but the candidates set to `filter_value`; a new tensor.

    Only tokens with p_k > epsilon are considered: d_k <= p_k log(V - k + 1) / log V, so no other has d_k > epsilon.
    Ties are broken by id, on every backend.

    Args:
        scores: logits, or log-probabilities; -inf for tokens that are already excluded.
        epsilon: in [0, 1).
        rule: `threshold`: every d_k > epsilon; `prefix`: those before the first d_k < epsilon; `last`: all up to the
            last d_k > epsilon; `legacy`: d_k log 2 >= epsilon, and the least probable token.
        min_tokens_to_keep: ignored by `legacy`.
        vocab: whether V counts every id of the head, as the authors do, or those that are not excluded yet.
        flat: if the confidence of the whole distribution is below `flat_below`, no token contributes much and the rule
            would be greedy: `top1` accepts that, `all` keeps every token, a number is a nucleus as in top-p.
        flat_below: threshold of the confidence, in [0, 1]; 0 means never.
    """
    p = scores.float().softmax(dim=-1)
    if not p[:, 0].isfinite().all():
        raise UserError("a row of scores has NaN, or only -inf: there is no distribution to sample from")
    sizes = _sizes(scores, vocab)
    least = min(min_tokens_to_keep, p.size(-1))
    number = _most(p, epsilon, least)
    top, ids = _sorted(p, number)
    rest = p.scatter(-1, ids, 0.0).sum(dim=-1, keepdim=True) if number < p.size(-1) else p.new_zeros(len(p), 1)
    worth = gains(top, rest, sizes)
    if rule == "threshold":
        keep = worth > epsilon
    elif rule == "prefix":
        keep = (worth < epsilon).cumsum(dim=-1) == 0
    elif rule == "legacy":
        keep = worth * math.log(2) >= epsilon
    else:
        keep = (worth > epsilon).flip(-1).cumsum(dim=-1).flip(-1) > 0
    if rule != "legacy":
        keep[:, :least] = True
    values = torch.where(keep, scores.gather(-1, ids), filter_value)
    found = torch.full_like(scores, filter_value).scatter_(-1, ids, values)
    if rule == "legacy":
        last = p.size(-1) - 1 - p.flip(-1).argmin(dim=-1, keepdim=True)  # of equals the one that a sort puts last
        found = found.scatter(-1, last, scores.gather(-1, last))
    if flat == "top1" or flat_below <= 0:
        return found
    unsure = 1 + torch.xlogy(p, p).sum(dim=-1, keepdim=True) / sizes.clamp(min=2).log() < flat_below
    wide = scores if flat == "all" else TopPLogitsWarper(float(flat), filter_value, least)(None, scores)  # type: ignore[arg-type]
    return torch.where(unsure, wide, found)


def _sizes(scores: Tensor, vocab: str) -> Tensor:
    """[B, 1] the vocabulary size V."""
    if vocab == "unmasked":
        return (scores > -math.inf).sum(dim=-1, keepdim=True)
    return torch.full_like(scores[:, :1], scores.size(-1), dtype=torch.long)


def _most(p: Tensor, epsilon: float, least: int) -> int:
    """The largest possible number of candidates over all rows, without splitting ties."""
    possible = (p > epsilon - 1e-6).sum(dim=-1)  # d_k is exact to about 1e-7
    bound = p.topk(least, dim=-1).values[:, -1:]
    return int(torch.maximum(possible, (p >= bound).sum(dim=-1)).max())


def _sorted(p: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The `number` most probable tokens of each row and their ids; ties in order of ids."""
    if number == p.size(-1):
        return p.sort(dim=-1, descending=True, stable=True)
    ids = p.topk(number, dim=-1, sorted=False).indices.sort(dim=-1).values
    top, order = p.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return top, ids.gather(-1, order)


class AdaptiveWarper(LogitsProcessor):
    """`adaptive` for `model.generate(..., logits_processor=[...], do_sample=True, top_k=0)`.

    Processors that are passed in run before the temperature, top-k and top-p of `generate`; `STRATEGY` brings its
    own, in the order of the authors' code: temperature, top-k, top-p, this one.

    Args:
        as in `adaptive`; with beams min_tokens_to_keep should be one more than the number of end tokens.
    """

    supports_continuous_batching = True

    def __init__(self, epsilon: float, rule: Rule = "threshold", **options: Any):
        if not 0 <= epsilon < 1:
            raise UserError(f"epsilon must be at least 0 and below 1, got {epsilon!r}")
        if options.get("min_tokens_to_keep", 1) < 1:
            raise UserError(f"min_tokens_to_keep must be at least 1, got {options['min_tokens_to_keep']}")
        self.rule: Rule = rule
        self.epsilon, self.options = epsilon, options

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        try:
            return adaptive(scores, self.epsilon, self.rule, **self.options)
        except ValueError as error:
            raise UserError(f"adaptive decoding, after {input_ids.size(-1)} tokens: {error}") from None


class AdaptiveSettings(Sampling):
    epsilon: float = Field(0.001, ge=0, lt=1)
    """Smallest gain in confidence for a token to be a candidate; larger values are closer to greedy."""
    rule: Rule = "threshold"
    """Candidates are all tokens with that gain; `prefix`: those before the first without it; `last`: all up to the last
    one with it; `legacy`: the authors' first release."""
    vocab: Literal["head", "unmasked"] = "head"
    """Vocabulary size in the formula: every id of the head, or those left by top_k and top_p."""
    flat: Literal["top1", "all"] | float = "top1"
    """What is kept if the confidence is below flat_below: the rule's choice, all tokens, or a nucleus as in top-p."""
    flat_below: float = Field(0.0, ge=0, le=1)
    """Confidence below which a distribution counts as flat; 0 means never."""


def arguments(options: AdaptiveSettings, marks: Any = None) -> dict[str, Any]:
    chosen = {name: getattr(options, name) for name in ("vocab", "flat", "flat_below")}
    processors = options.warpers()
    processors.append(AdaptiveWarper(options.epsilon, options.rule, **chosen))
    return {**PLAIN, "logits_processor": processors}


def idle(options: AdaptiveSettings) -> dict[str, str]:
    """AdaptiveSettings without effect, and why."""
    if options.flat_below == 0:
        return {"flat": "no distribution counts as flat; set decoding.flat_below"}
    return {"flat_below": "flat=top1 is the rule's own choice; choose all or a share"} if options.flat == "top1" else {}


STRATEGY = Strategy(
    paper="arXiv:2402.18223",
    equation="keep k where Conf_k - Conf_{k-1} > epsilon",
    options=AdaptiveSettings,
    arguments=arguments,
    idle=idle,
)
