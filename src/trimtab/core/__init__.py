"""The token batch, the reduction and the vocabulary engine: the mathematics every method builds on."""

from trimtab.core.batch import (
    IGNORE,
    Candidates,
    LazyLogits,
    OtherVocabulary,
    TokenBatch,
    answer_mask,
    predicting,
    with_sampled_first,
)
from trimtab.core.labelled import EmbeddingPath, LabelledBatch, Labels
from trimtab.core.loss import Losses, Objective, Reduction, count, reduce, weights
from trimtab.core.method import Method, MethodConfig
from trimtab.core.plan import AdvantageEstimator, Plan, PlanError, Rollouts, Sampler
from trimtab.core.requirements import (
    Aligned,
    Critic,
    ModelRequirement,
    Reference,
    Requirements,
    RewardModel,
    Teacher,
    WeakPair,
)
from trimtab.core.signals import RolloutBatch, Signal, Stateful
from trimtab.core.topk import TopK, TopKError, class_logprobs, top_k
from trimtab.core.vocab import Fused, Head, LabelLogits, LabelLogprobs, fused_loss, label_logprobs

__all__ = [
    "IGNORE", "AdvantageEstimator", "Aligned", "Candidates", "Critic", "EmbeddingPath", "Fused", "Head",
    "LabelLogits", "LabelLogprobs", "LabelledBatch", "Labels", "LazyLogits", "Losses", "Method", "MethodConfig",
    "ModelRequirement", "Objective", "OtherVocabulary", "Plan", "PlanError", "Reduction", "Reference", "Requirements",
    "RewardModel", "RolloutBatch", "Rollouts", "Sampler", "Signal", "Stateful", "Teacher", "TokenBatch", "TopK",
    "TopKError",
    "WeakPair", "answer_mask", "class_logprobs", "count", "fused_loss", "label_logprobs", "predicting", "reduce",
    "top_k", "weights", "with_sampled_first",
]  # fmt: skip
