"""The initial policy, without a second model in memory."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimtab.core import LabelLogprobs, LazyLogits, Objective, Reduction, Signal
from trimtab.models.forward import ObjectiveCall, StatesCall, resolve_head
from trimtab.models.masters import inner
from trimtab.models.packing import PLACE
from trimtab.models.probing import eval_mode


def own_logprobs(policy: nn.Module, inputs: Mapping[str, Tensor], temperature: float = 1.0) -> Tensor:
    """[N] log-probabilities of the answer tokens under the current policy, in eval mode, without gradient."""
    return read_with(LabelLogprobs(), policy, inputs, {}, temperature)


def read_with(
    objective: Objective,
    policy: nn.Module,
    inputs: Mapping[str, Tensor],
    signals: Mapping[str, Any],
    temperature: float = 1.0,
    training: bool = False,
    reduction: Reduction = "token_mean",
) -> Tensor:
    """[N] or [R] values of an objective under the current policy, in eval mode (or training mode), without gradient.

    Through the policy's own wrapped forward, so that DDP, FSDP and autocast do what they do in training.
    """
    call = ObjectiveCall(
        objective, inputs["labels"], signals, inputs["row_id"], reduction, temperature=temperature,
        place=inputs.get(PLACE),
    )  # fmt: skip
    return _unreduced(call, policy, inputs, training)


def _unreduced(
    call: ObjectiveCall | StatesCall, policy: nn.Module, inputs: Mapping[str, Tensor], training: bool = False
) -> Tensor:
    with eval_mode(policy, training), torch.no_grad():
        output = policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], objective_call=call)
    return output.unreduced


def states_of(policy: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """[N, D] hidden states at the positions that predict the answer tokens, in eval mode, without gradient."""
    return _unreduced(StatesCall(inputs["labels"], inputs.get(PLACE)), policy, inputs)


class InitialPolicy(Signal):
    """Log-probabilities of the answer tokens, or the whole distribution, under the policy with its trained part off.

    Args:
        off: a context in which the policy is the initial policy: PEFT's `disable_adapter`, or `bypass` of an identity
            layer.
        policy: whose head is used for the whole distribution; not yet wrapped by a trainer.
    """

    def __init__(
        self,
        off: Callable[[], AbstractContextManager],
        name: str = "reference",
        policy: Any = None,
        reads: Literal["answers", "distribution"] = "answers",
    ):
        if reads == "distribution" and policy is None:
            raise TypeError("the whole distribution needs the policy's head; pass the policy")
        self.off, self.name, self.provides = off, name, frozenset({name})
        self.distribution = reads == "distribution"
        self._model: Any = inner(policy)

    @property
    def vocab_size(self) -> int:
        return self._model.config.get_text_config().vocab_size

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        assert policy is not None
        with self.off():
            if not self.distribution:
                return {self.name: own_logprobs(policy, inputs, self.temperature)}
            hidden = states_of(policy, inputs)
        return {self.name: LazyLogits(hidden, self._project, resolve_head(self._model).vocab_size)}

    def _project(self, hidden: Tensor) -> Tensor:
        """[n, V] logits from the head with its trained part switched off; called inside the policy's own forward."""
        with eval_mode(self._model), self.off():
            return replace(resolve_head(self._model), temperature=self.temperature)(hidden)
