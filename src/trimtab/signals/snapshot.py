"""Lagged weights of the policy itself."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from trimtab.signals.start import own_logprobs


class Snapshot(TrainerCallback):
    """Gives log-probabilities of the answer tokens under the weights that the policy had a few updates ago.

    Only trained parameters are copied. To read the snapshot they change places with the copies for one
    forward, so it runs through the same module as the policy, adapters and hooks included. While the
    snapshot is as old as the policy nothing is given: the policy's own log-probabilities, detached, are
    those of the snapshot, and an objective takes them.

    Args:
        every: updates between two snapshots; None keeps the first one for ever.
    """

    name = "snapshot"
    provides = frozenset({name})

    def __init__(self, every: int | None):
        self.every = every
        self.fresh = False
        self._pairs: dict[str, tuple[nn.Parameter, Tensor]] = {}  # name -> parameter of the policy, its lagged values
        self._stored: dict[str, Tensor] = {}

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        """Take a snapshot where one is due. Called before the first micro-batch of each update."""
        assert model is not None
        due = state.global_step == 0 or (self.every is not None and state.global_step % self.every == 0)
        if due:
            self.take(model)
        elif self._stored:  # a run that goes on in the middle of a window
            self.take(model)
            for name, (_, lagged) in self._pairs.items():
                lagged.copy_(self._stored[name])
        self._stored = {}
        self.fresh = due

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        """Copy the trained parameters as they are."""
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            known = self._pairs.get(name)
            if known is not None and known[0] is parameter:
                known[1].copy_(parameter)
            else:
                self._pairs[name] = (parameter, parameter.detach().clone())

    def __call__(self, policy: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        if self.fresh:
            return {}
        if not self._pairs:
            self.take(policy)  # outside a training loop
        self._exchange()
        try:
            return {self.name: own_logprobs(policy, inputs)}
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, (parameter, lagged) in self._pairs.items():
            self._pairs[name] = (parameter, parameter.data)
            parameter.data = lagged

    def state_dict(self) -> dict[str, Tensor]:
        """The lagged weights, for a checkpoint."""
        return {name: lagged for name, (_, lagged) in self._pairs.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Lagged weights of a checkpoint; they are used from the next update on, unless it takes a new snapshot."""
        self._stored = dict(state)
