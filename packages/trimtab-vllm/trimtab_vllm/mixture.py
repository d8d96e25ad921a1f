"""The mixture of two streams of logits, each row at a strength of its own. Knows nothing of vLLM."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def mixed(
    strengths: Sequence[float], original: Tensor, aligned: Tensor, head: Callable[[Tensor], Tensor | None]
) -> Tensor | None:
    """(1 - s) z_original + s z_aligned, [N, V] float32.

    A row at 0 or 1 is that stream's logits bit for bit, and the head reads the other one's state of no such row.

    Args:
        strengths: N numbers.
        original: [N, H]; likewise `aligned`.
        head: from [M, H] to logits [M, V]; None where another process has them.
    """
    first = [row for row, strength in enumerate(strengths) if strength != 1]
    second = [row for row, strength in enumerate(strengths) if strength != 0]
    logits = head(torch.cat([_of(original, first), _of(aligned, second)]))
    if logits is None:
        return None
    logits = logits.float()
    share = torch.tensor(strengths, dtype=torch.float32).to(logits.device)[:, None]  # [N, 1]
    z_original, z_aligned = logits[: len(first)], logits[len(first) :]
    if len(first) == len(second) == len(strengths):
        return (1 - share) * z_original + share * z_aligned
    found = logits.new_zeros(len(strengths), logits.size(1))
    found[first] = _part(1 - share[first], z_original)
    found[second] += _part(share[second], z_aligned)
    return found


def _of(states: Tensor, rows: list[int]) -> Tensor:
    return states if len(rows) == len(states) else states[rows]


def _part(share: Tensor, logits: Tensor) -> Tensor:
    return torch.where(share == 1, logits, share * logits)
