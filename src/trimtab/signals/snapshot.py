"""Snapshots of the policy: its own weights from a few updates ago."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core import Candidates, Losses, Objective, Signal, TokenBatch
from trimtab.signals.initial_policy import own_logprobs, read_with


class PolicySnapshot(Signal):
    """Log-probabilities of the answer tokens under the weights that the policy had a few updates ago.

    Trained parameters are copied, and swapped with the copies for one forward through the policy's own modules. While
    the snapshot equals the policy nothing is provided, and an objective uses the policy's own log-probabilities,
    detached.

    Args:
        every: updates between two snapshots; None keeps the first one.
        first: updates before the first one; until then the policy counts as its own snapshot.
    """

    name = "snapshot"
    provides = frozenset({name})

    def __init__(self, every: int | None, first: int = 0):
        self.every, self.first = every, first
        self.fresh = False
        self.step = self.seed = 0
        """the current update, for draws"""
        self._pairs: dict[str, tuple[nn.Parameter, Tensor]] = {}  # name -> parameter of the policy, its lagged values
        self._stored: dict[str, Tensor] = {}

    def before_update(self, policy: nn.Module, step: int, seed: int) -> None:
        self.step, self.seed = step, seed
        done = step - self.first
        due = done == 0 or (done > 0 and self.every is not None and done % self.every == 0)
        if due:
            self.take(policy)
        elif self._stored:  # a run that resumes between two snapshots
            self.take(policy)
            for name, (_, lagged) in self._pairs.items():
                lagged.copy_(self._stored[name])
        self._stored = {}
        self.fresh = due or done < 0

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            known = self._pairs.get(name)
            if known is not None and known[0] is parameter:
                known[1].copy_(parameter)
            else:
                self._pairs[name] = (parameter, parameter.detach().clone())

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        assert policy is not None
        if self.fresh:
            return {}
        if not self._pairs:
            self.take(policy)  # outside a training loop
        self._exchange()
        try:
            found = self._read(policy, inputs)
        finally:
            self._exchange()
        return {} if found is None else {self.name: found}

    def _read(self, policy: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
        return own_logprobs(policy, inputs)

    def _exchange(self) -> None:
        for name, (parameter, lagged) in self._pairs.items():
            self._pairs[name] = (parameter, parameter.data)
            parameter.data = lagged

    def state_dict(self) -> dict[str, Tensor]:
        return {name: lagged for name, (_, lagged) in self._pairs.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the weights of a checkpoint, used from the next update on unless it takes a new snapshot."""
        self._stored = dict(state)


class SnapshotTokens(PolicySnapshot):
    """As `PolicySnapshot`, but provides some tokens at each position, chosen by the snapshot, with its
    log-probabilities of them, as `Candidates` [N, K].

    Args:
        choose: ids [N, K] for a batch with the snapshot's logits.
        vocab: ids from here on are padding of the policy's head that another model lacks: they have no
            probability.
    """

    def __init__(self, every: int | None, choose: Callable[[TokenBatch], Tensor], vocab: int | None = None):
        super().__init__(every)
        self.choose, self.vocab = choose, vocab

    def _read(self, policy: nn.Module, inputs: Mapping[str, Tensor]) -> Candidates | None:
        chosen = _Chosen(self.choose, self.seed, self.step, self.vocab)
        read_with(chosen, policy, inputs, {})
        if not chosen.ids:  # no row has an answer
            return None
        return Candidates(torch.cat(chosen.ids), torch.cat(chosen.logprobs))


class _Chosen(Objective):
    """An "objective" without a loss: collects tokens with their log-probabilities."""

    def __init__(self, choose: Callable[[TokenBatch], Tensor], seed: int, step: int, vocab: int | None):
        self.choose, self.seed, self.step, self.vocab = choose, seed, step, vocab
        self.ids: list[Tensor] = []
        self.logprobs: list[Tensor] = []

    def __call__(self, batch: TokenBatch) -> Losses:
        batch = replace(batch.with_signals(policy=batch.logits()[:, : self.vocab]), seed=self.seed, step=self.step)
        ids = self.choose(batch)
        self.ids.append(ids)
        self.logprobs.append(batch.logprobs(ids=ids))
        return Losses(self.logprobs[-1][:, 0], {})
