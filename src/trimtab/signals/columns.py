"""What was computed beforehand and stored beside the rows."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trimtab.core import answer_mask


class Columns:
    """Gives columns of the dataset that hold one number for each answer token.

    The collator lays them out like labels, [B, T]; see `trimtab.data.collate`.
    """

    def __init__(self, *names: str):
        self.names, self.provides = names, frozenset(names)

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        mask = answer_mask(inputs["labels"])
        return {name: inputs[name][:, 1:][mask] for name in self.names}
