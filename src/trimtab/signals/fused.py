"""Two frozen models as one teacher, by mixing their logits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.core import LazyLogits, Signal
from trimtab.signals.frozen import FrozenModel


class FusedTeacher(Signal):
    """h = (1 - strength) h_reference + strength h_aligned, raw logits, at every answer token.

    A strength of 0 is the reference, 1 the aligned model; outside it extrapolates. Logits are cropped to the
    smaller vocabulary of the two.
    """

    def __init__(self, reference: FrozenModel, aligned: FrozenModel, strength: float, name: str = "teacher"):
        self.reference, self.aligned, self.strength, self.name = reference, aligned, strength, name
        self.provides = frozenset({name})
        self.vocab_size = min(reference.vocab_size, aligned.vocab_size)

    @property
    def models(self) -> list[PreTrainedModel]:
        return [self.reference.model, self.aligned.model]

    def at_checkpoint(self) -> None:
        self.reference.at_checkpoint()
        self.aligned.at_checkpoint()

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        reference: LazyLogits = self.reference(policy, inputs)[self.reference.name]
        aligned: LazyLogits = self.aligned(policy, inputs)[self.aligned.name]
        width = reference.hidden.size(-1)

        def fuse(hidden: Tensor) -> Tensor:
            r = reference.head(hidden[:, :width].to(reference.hidden.dtype))[:, : self.vocab_size].float()
            a = aligned.head(hidden[:, width:].to(aligned.hidden.dtype))[:, : self.vocab_size].float()
            return torch.lerp(r, a, self.strength)

        hidden = torch.cat([reference.hidden, aligned.hidden], dim=-1)
        return {self.name: LazyLogits(hidden, fuse, self.vocab_size)}
