"""What an objective or an advantage estimator reads besides the policy."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Stateful(Protocol):
    """A part of a plan with state that changes in training and is kept in checkpoints."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class RolloutBatch:
    """A batch of rollouts as seen by models besides the policy."""

    inputs: Mapping[str, Tensor]
    """`input_ids`, `attention_mask`, `labels` [B, T], `row_id` [B], with ids in every model's vocabulary"""
    outcome: Tensor
    """[B] 1. for a correct completion, 0. for an incorrect one"""
    group: Tensor
    """[B] which prompt, from 0"""
    old: Tensor | None
    """[N] log-probabilities (nats) under the policy that sampled them, if a part of the plan needs "old" """
    update_rows: int
    """rows of one update"""
    micro_rows: int | None = None
    """rows of one forward and backward, whose gradients add up to that of the update; all at once if not given"""


class Signal:
    """Computes, for the answer tokens of a micro-batch, values that the objective or the advantage estimator reads.

    A subclass names what it `provides` and implements __call__. In `Plan.signals` it is called for every micro-batch;
    in `Plan.rollout_signals` once per batch of rollouts, between two hooks in which models may be trained. One that is
    `Stateful` is kept in checkpoints.
    """

    provides: frozenset[str] = frozenset()
    """names of the values"""
    needs: frozenset[str] = frozenset()
    """of `KEPT`: what its hooks read from the policy that sampled the rollouts"""
    temperature: float = 1.0
    """what logits are divided by; the loop sets the sampling temperature if a "reference" is read for rollouts"""
    vocab: int | None = None
    """ids from here on are padding that another model of the run lacks; the loop sets it for rollouts"""
    distribution: bool = False
    """whether it provides whole distributions (`LazyLogits`), which are not read for advantages"""
    own_vocabulary: bool = False
    """whether its models read ids of their own, so that they are not cropped with the policy"""
    chooses: bool = False
    """whether the candidates come from `choose_candidates` instead of the policy"""

    @property
    def models(self) -> Sequence[Any]:
        """The models it reads besides the policy, so that the trainer can place them."""
        return ()

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Values by name, over the N answer tokens in the order of `answer_mask(labels)`.

        Args:
            policy: the model in training, as the trainer holds it.
            inputs: `input_ids`, `attention_mask` and `labels` [B, T], `row_id` [B]; for rollouts `candidate_ids`
                [N, K] where there are candidates.

        Returns:
            Tensors [N], [N, K] or [N, V], or `LazyLogits` or `TopK`, without gradient.
        """
        return {}

    def before_training(self, policy: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Called once in each process before its first update, with all training rows in batches; a checkpoint has been
        loaded by then. Of rollouts there are none."""

    def before_update(self, policy: nn.Module, step: int, seed: int) -> None:
        """Called before the first micro-batch of each update, after `step` updates."""

    def at_checkpoint(self) -> None:
        """Called after a checkpoint was written."""

    def choose_candidates(self, inputs: Mapping[str, Tensor], number: int) -> Tensor:
        """[N, number] ids of the candidates at each position, the answer token in slot 0; only if it `chooses`."""
        raise NotImplementedError

    def before_advantages(self, rollouts: RolloutBatch) -> dict[str, float]:
        """Called before it is read for the advantages of a batch of rollouts; returns metrics to log."""
        return {}

    def after_advantages(self, rollouts: RolloutBatch, advantages: Mapping[str, Any]) -> dict[str, float]:
        """Called with the advantages, before the policy is updated; returns metrics to log."""
        return {}

    def remarks(self) -> list[str]:
        """Notes for the user at the end of a run."""
        return []
