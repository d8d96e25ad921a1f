"""Signals read from columns of the rows: one number per answer token, or per answer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trimtab.core import Signal, answer_mask


class Column(Signal):
    """A column of the dataset with one number for each answer token, laid out by the collator like labels, [B, T].

    Args:
        name: of the signal, if not that of the column.
    """

    def __init__(self, column: str, name: str | None = None):
        self.column, self.name = column, name or column
        self.provides = frozenset({self.name})

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {self.name: inputs[self.column][:, 1:][answer_mask(inputs["labels"])]}


class Outcome(Signal):
    """The row's `outcome` at every token of an answer: 1 if it is correct, 0 if not."""

    provides = frozenset({"outcome"})

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        mask = answer_mask(inputs["labels"])
        return {"outcome": inputs["outcome"][:, None].expand_as(mask)[mask]}
