"""A term of the loss beside the objective's, made from the inside of the policy: its embeddings and hidden states."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimtab.core.loss import Losses
from trimtab.core.vocab import Head


@dataclass(frozen=True)
class ReadInside:
    """A micro-batch as the policy has just read it; everything has a graph from the embeddings on."""

    embedded: Tensor
    """[B, T, H] E, what the lookup of tokens gave"""
    states: Tensor
    """[N, D] hidden states that predict the answer tokens"""
    head: Head
    labels: Tensor
    """[B, T] with -100 at prompt and padding"""
    signals: Mapping[str, Any]
    """those of the plan"""


class AuxiliaryLoss:
    """One value for each row, added to the objective's loss; subclasses implement both methods.

    It is called inside the policy's forward, so that DDP and autocast do there what they do for the objective, and may
    differentiate `embedded` twice. Its values are divided by what `number` counts in the whole update.
    """

    needs: frozenset[str] = frozenset()
    """signals it reads"""

    def __call__(self, read: ReadInside) -> Losses:
        """[B] values, with gradient, and metrics as (sum, count)."""
        raise NotImplementedError

    def number(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scalar: the units of a micro-batch over which the values are averaged."""
        raise NotImplementedError
