"""A teacher with the normalisers of a softmax over positions; see `trimtab.objectives.positions`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.core import LazyLogits, Signal, answer_mask
from trimtab.objectives.positions import PositionSums
from trimtab.signals.fused import FusedTeacher
from trimtab.signals.initial_policy import read_with


class WithPositionSums(Signal):
    """The teacher's logits, and log sum_t exp h_t[v] of each row for both models: one more forward of the policy."""

    provides = frozenset({"teacher", "policy_sums", "teacher_sums"})

    def __init__(self, teacher: FusedTeacher):
        self.teacher = teacher

    @property
    def models(self) -> list[PreTrainedModel]:
        return self.teacher.models

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        found = self.teacher(policy, inputs)
        sums = PositionSums()
        assert policy is not None
        read_with(sums, policy, inputs, found)
        labels = inputs["labels"]
        row = answer_mask(labels).nonzero()[:, :1]  # [N, 1]
        for name in sums.rows:
            table = sums.table(name, len(labels))
            found[f"{name}_sums"] = LazyLogits(row, lambda rows, table=table: table[rows[:, 0]], table.size(-1))
        return found
