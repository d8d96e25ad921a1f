"""What an objective or an advantage estimator reads besides the policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Stateful(Protocol):
    """A part of a plan that changes in training: checkpoints hold what it gives here."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that it needs to go on from here."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave."""
        ...


@dataclass(frozen=True)
class RolloutBatch:
    """A batch of rollouts as models besides the policy read it and learn from it."""

    inputs: Mapping[str, Tensor]
    """`input_ids`, `attention_mask`, `labels` [B, T], `row_id` [B], with ids that all models of the run know"""
    outcome: Tensor
    """[B] 1. of a completion that is correct, 0. of one that is not"""
    group: Tensor
    """[B] which prompt, from 0"""
    old: Tensor | None
    """[N] log-probabilities (nats) under the policy that wrote them, where a part of the plan needs "old" """
    update_rows: int
    """rows of one update"""
    micro_rows: int | None = None
    """rows of one forward and backward, whose gradients add up to that of the update; all at once if not given"""


class Signal:
    """Reads a micro-batch and says, for its answer tokens, what the objective or the advantage estimator wants to know.

    A subclass names what it `provides` and is called. In `Plan.signals` it is called at every micro-batch; in
    `Plan.rollout_signals` once for all updates on the same rollouts, between the two hooks that stand below, in which
    models may learn. All that is not overridden does nothing. One that is `Stateful` too is kept in checkpoints.
    """

    provides: frozenset[str] = frozenset()
    """names of the values"""
    needs: frozenset[str] = frozenset()
    """of `KEPT`: what its hooks read of the policy that wrote the rollouts"""
    temperature: float = 1.0
    """what logits are divided by; the loop sets that of sampling where a "reference" is read for rollouts"""
    vocab: int | None = None
    """ids from here on are padding that another model of the run does not have; the loop sets it for rollouts"""
    distribution: bool = False
    """whether it gives whole distributions (`LazyLogits`), which are not read for advantages"""
    chooses: bool = False
    """whether `choose_candidates` names the candidates, and not the policy"""

    @property
    def models(self) -> Sequence[Any]:
        """The models besides the policy that it reads, for whoever places them."""
        return ()

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Values by name, over the N answer tokens in the order of `answer_mask(labels)`.

        Args:
            policy: the model in training, as the trainer holds it.
            inputs: `input_ids`, `attention_mask` and `labels` [B, T], `row_id` [B]; for rollouts `candidate_ids`
                [N, K] where there are candidates.

        Returns:
            Tensors [N], [N, K] or [N, V], or `LazyLogits`, without gradient.
        """
        return {}

    def before_update(self, policy: nn.Module, step: int, seed: int) -> None:
        """Called before the first micro-batch of each update, `step` of them being done."""

    def choose_candidates(self, inputs: Mapping[str, Tensor], number: int) -> Tensor:
        """[N, number] ids of the candidates at each answer token, which itself is in slot 0; where it `chooses`."""
        raise NotImplementedError

    def before_advantages(self, rollouts: RolloutBatch) -> dict[str, float]:
        """Called before it is read for the advantages of a batch of rollouts; returns what to log."""
        return {}

    def after_advantages(self, rollouts: RolloutBatch, advantages: Mapping[str, Any]) -> dict[str, float]:
        """Called with what the advantage estimator gave, before the policy is updated; returns what to log."""
        return {}

    def remarks(self) -> list[str]:
        """What the user should know at the end of a run."""
        return []
