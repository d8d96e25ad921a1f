"""Strategies of transformers, under the names and with the settings used in papers."""

from collections.abc import Callable
from typing import Any

from pydantic import Field
from transformers import LogitsProcessor, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper
from transformers.generation.logits_process import EtaLogitsWarper, TopHLogitsWarper

from trimtab.decoding._strategy import GREEDY, PLAIN, Options, Strategy, Temperature
from trimtab.models.loading import device


class Beams(Options):
    beams: int = Field(5, ge=2)
    """Number of sequences kept at each step."""


class TopKSampling(Temperature):
    k: int = Field(50, ge=1)
    """Sample from this many of the most likely tokens."""


class TopP(Temperature):
    p: float = Field(0.95, gt=0, le=1)
    """Sample from the most likely tokens that add up to this probability."""


class Typical(Temperature):
    mass: float = Field(0.2, gt=0, le=1)
    """Sample from tokens that add up to this probability, those with a surprisal closest to the entropy first. 0.2 is
    the paper's value for stories; at 0.95 only the tail is cut, as with top-p."""


class Eta(Temperature):
    cutoff: float = Field(0.0003, gt=0, lt=1)
    """Exclude tokens below this probability, or below its square root times exp(-entropy), whichever is smaller."""


class MinP(Temperature):
    p: float = Field(0.1, ge=0, le=1)
    """Exclude tokens below this fraction of the most likely token's probability."""


class TopH(Temperature):
    h: float = Field(0.4, gt=0, le=1)
    """Sample from the most likely tokens whose entropy is at most this fraction of the full distribution's."""


def _sampled(
    paper: str, equation: str, options: type[Options], warper: Callable[[Any], LogitsProcessor] | None
) -> Strategy:
    def arguments(chosen: Any, marks: Any = None) -> dict[str, Any]:
        processors = chosen.warpers()
        if warper is not None:
            processors.append(warper(chosen))
        return {**PLAIN, "logits_processor": processors}

    return Strategy(paper, equation, options, arguments)


STOCK: dict[str, Strategy] = {
    "model": Strategy("", "as generation_config.json says", Options, lambda options, marks=None: {}),
    "greedy": Strategy("", "argmax s", Options, lambda options, marks=None: dict(GREEDY)),
    "beam": Strategy(
        "", "argmax sum_t log p_t", Beams, lambda o, marks=None: {"do_sample": False, "num_beams": o.beams}
    ),
    "sample": _sampled("", "y ~ p", Temperature, None),
    "top_k": _sampled("arXiv:1805.04833", "keep ranks 1..k", TopKSampling, lambda o: TopKLogitsWarper(o.k)),
    "top_p": _sampled("arXiv:1904.09751", "keep the least k with S_k >= p", TopP, lambda o: TopPLogitsWarper(o.p)),
    "typical": _sampled(
        "arXiv:2202.00666", "least |H + log p_v| of mass p", Typical, lambda o: TypicalLogitsWarper(o.mass)
    ),
    "eta": _sampled(
        "arXiv:2210.15191", "p_v > min(e, sqrt(e) exp(-H))", Eta, lambda o: EtaLogitsWarper(o.cutoff, device=device())
    ),
    "min_p": _sampled("arXiv:2407.01082", "p_v >= a max p", MinP, lambda o: MinPLogitsWarper(o.p)),
    "top_h": _sampled("arXiv:2509.02510", "H(kept) <= h H(p)", TopH, lambda o: TopHLogitsWarper(o.h)),
}
"""by name; their descriptions are in `trimtab.decoding.STOCK`, which imports nothing"""
