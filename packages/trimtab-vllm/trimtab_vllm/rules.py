"""The rules of penalty decoding and of adaptive decoding, on one row of logits. Knows nothing of vLLM.

Papers: arXiv:2310.14971 and arXiv:2402.18223; the same results as the strategies of trimtab.decoding, where they are
explained.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from trimtab_vllm.xargs import check_names, choice, ids, is_number, number, shown, switch, whole

Eos = Literal["repeat", "linear", "block", "none"]
Rule = Literal["threshold", "prefix", "last"]
PENALTY, ADAPTIVE = "penalty_", "adaptive_"
EOS: tuple[Eos, ...] = ("repeat", "linear", "block", "none")
RULES: tuple[Rule, ...] = ("threshold", "prefix", "last")


@dataclass(frozen=True)
class Penalty:
    """Settings of `trimtab.decoding.penalty`, which explains them, with its defaults."""

    strength: float = 1.2
    window: int | None = 100
    eos: Eos = "repeat"
    least: int = 128
    eos_strength: float | None = None
    prompt: bool = True
    excluded: tuple[int, ...] = ()
    normalize: bool = False

    @classmethod
    def asked(cls, args: Mapping[str, Any] | None) -> "Penalty | None":
        """What a request asks for by `penalty_strength` and the like; None without any.

        Raises:
            ValueError: in one line, for a setting that is none, or a value that is none.
        """
        args = args or {}
        names = tuple(PENALTY + name for name in cls.__dataclass_fields__)
        check_names(args, PENALTY, names)
        if not any(name in args for name in names):
            return None
        window: int | None = None if args.get("penalty_window") == "all" else whole(args, "penalty_window", 100)
        held = number(args, "penalty_eos_strength", 1.0, above=0) if "penalty_eos_strength" in args else None
        return cls(
            strength=number(args, "penalty_strength", cls.strength, above=0),
            window=window,
            eos=cast(Eos, choice(args, "penalty_eos", EOS)),
            least=whole(args, "penalty_least", cls.least),
            eos_strength=held,
            prompt=switch(args, "penalty_prompt", True),
            excluded=ids(args, "penalty_excluded"),
            normalize=switch(args, "penalty_normalize", False),
        )


def penalised(
    scores: Tensor, prompt: Sequence[int], output: Sequence[int], how: Penalty, ends: Collection[int]
) -> Tensor:
    """[V] with tokens of the last window less likely, and the end tokens held back at first; a new tensor.

    Args:
        scores: [V] float32.
        ends: ids of tokens that end the answer.
    """
    if how.normalize:
        scores = scores.log_softmax(dim=-1)
    said = [*prompt, *output] if how.prompt else list(output)
    window = said if how.window is None else said[max(0, len(said) - how.window) :]
    repeated = sorted(set(window) - set(how.excluded))
    found = scores.clone()
    found[repeated] = _weakened(scores[repeated], how.strength)
    if how.eos == "none" or len(output) >= how.least:
        return found
    last = sorted(end for end in ends if end < len(scores))
    strength = how.strength if how.eos_strength is None else how.eos_strength
    if how.eos == "repeat":
        found[last] = _weakened(scores[last], strength)
    elif how.eos == "linear":
        found[last] = scores[last] - strength * (1 - len(output) / how.least)
    else:
        found[last] = -math.inf
    return found


def _weakened(scores: Tensor, strength: float) -> Tensor:
    return torch.where(scores < 0, scores * strength, scores / strength)


@dataclass(frozen=True)
class Adaptive:
    """Settings of `trimtab.decoding.adaptive`, which explains them, with its defaults."""

    epsilon: float = 0.001
    rule: Rule = "threshold"
    vocab: Literal["head", "unmasked"] = "head"
    flat: Literal["top1", "all"] | float = "top1"
    flat_below: float = 0.0

    @classmethod
    def asked(cls, args: Mapping[str, Any] | None) -> "Adaptive | None":
        """What a request asks for by `adaptive_epsilon` and the like; None without any.

        Raises:
            ValueError: in one line, for a setting that is none, or a value that is none.
        """
        args = args or {}
        names = tuple(ADAPTIVE + name for name in cls.__dataclass_fields__)
        check_names(args, ADAPTIVE, names)
        if not any(name in args for name in names):
            return None
        flat = args.get("adaptive_flat", "top1")
        if flat not in ("top1", "all") and not (is_number(flat) and 0 < flat < 1):
            raise ValueError(f"adaptive_flat must be top1, all, or a share between 0 and 1, got {shown(flat)}")
        epsilon, below = number(args, "adaptive_epsilon", cls.epsilon), number(args, "adaptive_flat_below", 0.0)
        if not 0 <= epsilon < 1:
            raise ValueError(f"adaptive_epsilon must be at least 0 and below 1, got {epsilon:g}")
        if not 0 <= below <= 1:
            raise ValueError(f"adaptive_flat_below must be between 0 and 1, got {below:g}")
        vocab = cast(Literal["head", "unmasked"], choice(args, "adaptive_vocab", ("head", "unmasked")))
        return cls(epsilon, cast(Rule, choice(args, "adaptive_rule", RULES)), vocab, flat, below)


def candidates(scores: Tensor, how: Adaptive) -> Tensor:
    """[V] bool: the tokens that add more than epsilon to the confidence, and the most probable one.

    d_k = [p_k log p_k + R_k log(R_k / (V-k)) - R_{k-1} log(R_{k-1} / (V-k+1))] / log V is at most p_k, so only
    tokens with p_k > epsilon are sorted.

    Args:
        scores: [V]; -inf for tokens that are excluded.
    """
    p = scores.float().softmax(dim=-1)
    size = int((scores > -math.inf).sum()) if how.vocab == "unmasked" else len(p)
    likely = p > how.epsilon - 1e-6  # d_k is exact to about 1e-7
    likely[p.argmax()] = True
    token_ids = likely.nonzero()[:, 0]
    top, order = p[token_ids].sort(descending=True, stable=True)
    rest = p.masked_fill(likely, 0.0).sum()[None]
    before = torch.cat([top, rest]).flip(0).cumsum(0).flip(0)  # R_{k-1}, then the rest
    others = (size - torch.arange(1, len(top) + 1, device=p.device)).clamp(min=0)  # V - k
    gains = torch.xlogy(top, top) + _flat(before[1:], others) - _flat(before[:-1], others + 1)
    gains = gains / math.log(max(size, 2))
    if how.rule == "threshold":
        keep = gains > how.epsilon
    elif how.rule == "prefix":
        keep = (gains < how.epsilon).cumsum(0) == 0
    else:
        keep = (gains > how.epsilon).flip(0).cumsum(0).flip(0) > 0
    keep[0] = True
    found = torch.zeros_like(likely)
    found[token_ids[order]] = keep
    if how.flat == "top1" or 1 + float(torch.xlogy(p, p).sum()) / math.log(max(size, 2)) >= how.flat_below:
        return found
    return scores > -math.inf if how.flat == "all" else _nucleus(p, float(how.flat))


def _flat(rest: Tensor, size: Tensor) -> Tensor:
    """rest log(rest / size); the quotient may be too small for a float32."""
    return torch.xlogy(rest, rest) - rest * size.clamp(min=1).to(rest.dtype).log()


def _nucleus(p: Tensor, share: float) -> Tensor:
    """[V] bool, the smallest set with this probability."""
    rising, order = p.sort(stable=True)
    keep = rising.cumsum(0) > 1 - share
    keep[-1] = True
    return torch.zeros_like(keep).scatter(0, order, keep)
