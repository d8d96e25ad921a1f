"""The policy as its own teacher: with the average of its recent weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trimtab.core import LazyLogits, Signal
from trimtab.models.forward import resolve_head
from trimtab.models.masters import inner
from trimtab.models.probing import eval_mode
from trimtab.signals.initial_policy import own_logprobs, states_of
from trimtab.signals.snapshot import PolicySnapshot


class AveragePolicy(PolicySnapshot):
    """What the policy says with the moving average of its trained weights, as "teacher". Before the first update they
    are its own; before each later one w' <- decay w' + (1 - decay) w, so that evaluations read the average that taught
    the last update.

    Args:
        decay: in [0, 1); 0 is the policy itself.
        policy: whose head is used for the whole distribution; not yet wrapped by a trainer.
        reads: "answers" for log-probabilities [N] of the answer tokens.
    """

    name = "teacher"
    provides = frozenset({name})

    def __init__(self, decay: float, policy: Any, reads: Literal["answers", "distribution"] = "distribution"):
        super().__init__(every=None)
        self.decay, self.distribution = decay, reads == "distribution"
        self._model: Any = inner(policy)

    @property
    def vocab_size(self) -> int:
        return self._model.config.get_text_config().vocab_size

    @torch.no_grad()
    def before_update(self, policy: nn.Module, step: int, seed: int) -> None:
        self._begin(policy)
        if step:
            for parameter, average in self._pairs.values():
                average.lerp_(parameter.detach().to(average.dtype), 1 - self.decay)

    @torch.no_grad()
    def _begin(self, policy: nn.Module) -> None:
        """The policy's weights, or the average of a checkpoint, where there is none yet."""
        if not self._pairs:
            self.take(policy)
        for name, value in self._stored.items():
            self._pairs[name][1].copy_(value)
        self._stored = {}

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        if self.distribution:
            return {self.name: self.whole(policy, inputs)}
        return {self.name: self._averaged(policy, lambda model: own_logprobs(model, inputs, self.temperature))}

    def whole(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> LazyLogits:
        """The whole distribution, whatever it reads for training."""
        hidden = self._averaged(policy, lambda model: states_of(model, inputs))
        return LazyLogits(hidden, self._project, resolve_head(self._model).vocab_size)

    def _averaged(self, policy: nn.Module | None, read: Callable[[nn.Module], Tensor]) -> Tensor:
        assert policy is not None
        self._begin(policy)
        self._exchange()
        try:
            return read(policy)
        finally:
            self._exchange()

    def _project(self, hidden: Tensor) -> Tensor:
        """[n, V] logits from the head with its averaged weights; called inside the policy's own forward."""
        averages = {id(parameter): average for parameter, average in self._pairs.values()}
        with eval_mode(self._model):
            head = resolve_head(self._model)
            module = head.module
            assert isinstance(module, nn.Module)
            named = {name: averages.get(id(one), one) for name, one in module.named_parameters()}
            return replace(head, module=lambda states: functional_call(module, named, (states,)))(hidden)


class WholeAverage(Signal):
    """The whole distribution of an `AveragePolicy` that another part of the run keeps up to date, as "teacher"."""

    name = "teacher"
    provides = frozenset({name})
    distribution = True

    def __init__(self, average: AveragePolicy):
        self.average, self.vocab_size = average, average.vocab_size

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {self.name: self.average.whole(policy, inputs)}
