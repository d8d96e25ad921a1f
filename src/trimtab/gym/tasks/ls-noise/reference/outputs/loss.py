"""Generalised cross-entropy (arXiv:1805.07836): labels that the network finds improbable pull less."""

from torch import Tensor

Q = 0.7


def loss(logits: Tensor, labels: Tensor, step: int) -> Tensor:
    probability = logits.softmax(1).gather(1, labels[:, None])
    return ((1 - probability**Q) / Q).mean()
