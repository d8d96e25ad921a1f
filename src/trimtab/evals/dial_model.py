"""A model with an inserted layer that answers suites at one strength of its dial."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.common.count import exact
from trimtab.decoding._streams import mix
from trimtab.decoding.realign import realign
from trimtab.evals.models import HFModel
from trimtab.models.identity_layer import bypass


class DialModel(HFModel):
    """Answers are decoded from the mixture of both streams' logits, and options compared by its probabilities.

        z = (1 - s) z_original + s z_aligned

    Args:
        strength: s.
        how: see `HFModel`.
    """

    together = 4

    def __init__(self, *given: Any, strength: float, **how: Any):
        super().__init__(*given, **how)
        self.strength = strength

    def facts(self) -> dict[str, str]:
        return {**super().facts(), "strength": exact(self.strength)}

    def _decoding(self) -> dict[str, Any]:
        return {**super()._decoding(), "custom_generate": realign, "strength": self.strength}

    def _goes_on(self, mask: Tensor) -> bool:
        """Options are read with their prompts as a whole, where no cache has to hold two streams."""
        return False

    def _read(self, ids: Tensor, given: Mapping[str, Any]) -> Tensor:
        number = len(ids)
        twice = {name: torch.cat([x, x]) if isinstance(x, Tensor) else x for name, x in given.items()}
        around = torch.tensor([False, True], device=ids.device).repeat_interleave(number)
        with bypass(self.model, around):
            aligned, original = super()._read(torch.cat([ids, ids]), twice).float().chunk(2)  # [B, T, V] each
        rows, share = torch.arange(original[..., 0].numel()), torch.tensor(self.strength)
        mixed = mix(
            len(rows),
            [(rows, (1 - share).expand(len(rows)), original.flatten(0, 1)),
             (rows, share.expand(len(rows)), aligned.flatten(0, 1))],
        )  # fmt: skip
        return mixed.view_as(original)
