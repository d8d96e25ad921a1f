"""The contract of a signal."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Signal(Protocol):
    """Reads a micro-batch and says, for its answer tokens, what the objective wants to know."""

    provides: frozenset[str]

    def __call__(self, policy: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Values by name, over the N answer tokens in the order of `answer_mask(labels)`.

        Args:
            policy: the model in training, as the trainer holds it.
            inputs: `input_ids`, `attention_mask` and `labels` [B, T], `row_id` [B].

        Returns:
            Tensors [N] or [N, V], or `LazyLogits`, without gradient.
        """
        ...
