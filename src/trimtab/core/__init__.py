"""The token batch, the reduction and the vocabulary engine: the mathematics every method stands on."""

from trimtab.core.batch import IGNORE, LazyLogits, TokenBatch, answer_mask, predicting
from trimtab.core.loss import Losses, Objective, Reduction, count, reduce, weights
from trimtab.core.plan import Method, MethodConfig, Plan, PlanError
from trimtab.core.vocab import Fused, Head, fused_loss

__all__ = [
    "IGNORE",
    "Fused",
    "Head",
    "LazyLogits",
    "Losses",
    "Method",
    "MethodConfig",
    "Objective",
    "Plan",
    "PlanError",
    "Reduction",
    "TokenBatch",
    "answer_mask",
    "count",
    "fused_loss",
    "predicting",
    "reduce",
    "weights",
]
