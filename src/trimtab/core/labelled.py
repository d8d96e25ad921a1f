"""A batch of labelled texts, and how classifiers read it: the counterpart of `TokenBatch` for whole texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimtab.core.loss import Losses


@dataclass(frozen=True)
class EmbeddingPath:
    """A classifier's answers at m points on the line from zero to the embeddings of a batch."""

    logits: Tensor
    """[m, R, C] float32; the last are those at the embeddings themselves; C = 1 for regression"""
    points: Tensor | None = None
    """[m * R, S, H] what was read: (k/m) E for k = 1..m; None if nothing is to be attributed"""
    embedded: Tensor | None = None
    """[R, S, H] E, the output of the whole block of embeddings"""

    @property
    def answers(self) -> Tensor:
        """[R, C] the model's logits for the batch."""
        return self.logits[-1]


@dataclass(frozen=True)
class LabelledBatch:
    """Texts with one label each, as read by the policy and by other models."""

    labels: Tensor
    """[R] the number of the class, or for regression a float"""
    mask: Tensor
    """[R, S] bool: tokens that maps are made of; padding is left out, and the token that begins a decoder's texts"""
    row_id: Tensor
    """[R]"""
    paths: Mapping[str, EmbeddingPath]
    """"policy", and the other models by name"""
    tokens_per_row: Tensor | float | None = None
    """such tokens of the whole update divided by its rows; None: this batch is the whole update"""
    epoch: int = 0
    """from 0"""
    epochs: int = 1

    @property
    def regression(self) -> bool:
        return self.labels.is_floating_point()

    @property
    def mean_tokens(self) -> Tensor | float:
        """See `tokens_per_row`."""
        return self.mask.sum() / len(self.labels) if self.tokens_per_row is None else self.tokens_per_row

    def losses(self, values: Tensor, **metrics: Any) -> Losses:
        """Values [R]; metrics [R], averaged over rows, or pairs (sum, count)."""
        found = {}
        for name, metric in metrics.items():
            total, number = metric if isinstance(metric, tuple) else (metric.sum(), values.new_tensor(len(metric)))
            found[name] = (total.detach().float(), number.detach().float())
        return Losses(values, found)


@dataclass(frozen=True)
class Labels:
    """What the labels of a task are."""

    names: tuple[str, ...] = ()
    """of the classes, by number; none for regression"""

    @property
    def regression(self) -> bool:
        return not self.names

    @property
    def outputs(self) -> int:
        """Numbers that a classifier gives for a text."""
        return len(self.names) or 1

    def __str__(self) -> str:
        return ", ".join(self.names) or "numbers (regression)"
