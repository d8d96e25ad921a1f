"""Strategies that transformers has, under the names and with the settings that papers compare with."""

from collections.abc import Callable
from typing import Any

from pydantic import Field
from transformers import LogitsProcessor, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper
from transformers.generation.logits_process import EtaLogitsWarper, TopHLogitsWarper

from trimtab.decoding._strategy import GREEDY, PLAIN, Options, Strategy, Temperature
from trimtab.models.loading import device


class Beams(Options):
    beams: int = Field(5, ge=2)
    """Sequences that are kept at each step."""


class TopK(Temperature):
    k: int = Field(50, ge=1)
    """Draw among so many tokens."""


class TopP(Temperature):
    p: float = Field(0.95, gt=0, le=1)
    """Draw among the best tokens of this share."""


class Typical(Temperature):
    mass: float = Field(0.2, gt=0, le=1)
    """Draw among the tokens of this share whose surprise is nearest to the entropy. 0.2 is the paper's for stories; at
    0.95 only the tail is cut, as by top-p."""


class Eta(Temperature):
    cutoff: float = Field(0.0003, gt=0, lt=1)
    """Rule out tokens below this probability, or below its root times exp(-entropy)."""


class MinP(Temperature):
    p: float = Field(0.1, ge=0, le=1)
    """Rule out tokens below this share of the best one's probability."""


class TopH(Temperature):
    h: float = Field(0.4, gt=0, le=1)
    """Draw among tokens whose entropy is at most this share of the whole one's."""


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
    "top_k": _sampled("arXiv:1805.04833", "keep ranks 1..k", TopK, lambda o: TopKLogitsWarper(o.k)),
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
"""by name; what they are stands in `trimtab.decoding.STOCK`, which imports nothing"""
