"""The token batch, the reduction and the vocabulary engine: the mathematics every method stands on."""

from trimtab.core.batch import IGNORE, Candidates, LazyLogits, TokenBatch, answer_mask, predicting, with_sampled_first
from trimtab.core.loss import Losses, Objective, Reduction, count, reduce, weights
from trimtab.core.plan import AdvantageEstimator, Method, MethodConfig, Plan, PlanError, Rollouts, Wants
from trimtab.core.signals import RolloutBatch, Signal, Stateful
from trimtab.core.vocab import Fused, Head, LabelLogits, LabelLogprobs, fused_loss, label_logprobs

__all__ = [
    "IGNORE",
    "AdvantageEstimator",
    "Candidates",
    "Fused",
    "Head",
    "LabelLogits",
    "LabelLogprobs",
    "LazyLogits",
    "Losses",
    "Method",
    "MethodConfig",
    "Objective",
    "Plan",
    "PlanError",
    "Reduction",
    "RolloutBatch",
    "Rollouts",
    "Signal",
    "Stateful",
    "TokenBatch",
    "Wants",
    "answer_mask",
    "count",
    "fused_loss",
    "label_logprobs",
    "predicting",
    "reduce",
    "weights",
    "with_sampled_first",
]
