"""Cross-entropy, which believes every label."""

from torch import Tensor
from torch.nn import functional


def loss(logits: Tensor, labels: Tensor, step: int) -> Tensor:
    return functional.cross_entropy(logits, labels)
