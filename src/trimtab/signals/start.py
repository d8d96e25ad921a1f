"""The model as it was before training, without a second model in memory."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core import LabelLogprobs, Objective
from trimtab.models.forward import ObjectiveCall


def own_logprobs(policy: nn.Module, inputs: Mapping[str, Tensor], temperature: float = 1.0) -> Tensor:
    """[N] log-probabilities of the answer tokens under the policy as it stands, in eval mode, without gradient."""
    return read_with(LabelLogprobs(), policy, inputs, {}, temperature)


def read_with(
    objective: Objective,
    policy: nn.Module,
    inputs: Mapping[str, Tensor],
    signals: Mapping[str, Any],
    temperature: float = 1.0,
    training: bool = False,
) -> Tensor:
    """[N] values of an objective under the policy as it stands, in eval mode (or that of training), without gradient.

    Through the policy's own wrapped forward, so that DDP, FSDP and autocast do what they do in training.
    """
    call = ObjectiveCall(objective, inputs["labels"], signals, inputs["row_id"], temperature=temperature)
    was_training = policy.training
    policy.train(training)
    try:
        with torch.no_grad():
            output = policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], objective_call=call)
    finally:
        policy.train(was_training)
    return output.unreduced


class WithoutAdapter:
    """Gives log-probabilities of the answer tokens under the policy with what is trained switched off.

    Args:
        off: a context under which the policy is the model that it started from: PEFT's `disable_adapter`,
            or `bypass` of an identity layer.
        name: of the signal.
    """

    temperature = 1.0
    """what its logits are divided by"""

    def __init__(self, off: Callable[[], AbstractContextManager], name: str = "reference"):
        self.off, self.name, self.provides = off, name, frozenset({name})

    def labels_only(self) -> "WithoutAdapter":
        """Itself: it gives nothing else."""
        return self

    def __call__(self, policy: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        with self.off():
            return {self.name: own_logprobs(policy, inputs, self.temperature)}
