"""Random draws that depend on the token they are for, not on the state of a generator.

A draw is a function of (seed, step, row, position, stream). So gradient accumulation, the number of
processes, the chunk size and a resume leave it unchanged.
"""

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def _signed(constant: int) -> int:
    """The 64-bit pattern `constant` as torch's signed integer."""
    return constant - (1 << 64) if constant >> 63 else constant


_GOLDEN = 0x9E3779B97F4A7C15
_MIX_A = _signed(0xBF58476D1CE4E5B9)
_MIX_B = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64: every input bit reaches every output bit."""
    x = (x ^ _shift_right(x, 30)) * _MIX_A
    x = (x ^ _shift_right(x, 27)) * _MIX_B
    return x ^ _shift_right(x, 31)


def hashed_uniform(seed: int, step: int, row_id: Tensor, position: Tensor, stream: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), one for each pair of `row_id` and `position`.

    Args:
        step: the update, the same for all its micro-batches.
        row_id: [N] int64, the dataset row of each token.
        position: [N] int64, the token's index in its answer.
        stream: another number for an independent draw at the same position.

    Returns:
        [N] float32 with 24 random bits.
    """
    state = torch.zeros_like(row_id)
    for part in (seed, step, stream, row_id, position):
        part = part if isinstance(part, Tensor) else torch.full_like(row_id, _signed(part & _MASK))
        state = _mix(state + _signed(_GOLDEN) + part)
    return _shift_right(state, 40).to(torch.float32) * 2.0**-24


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The id at which the cumulative distribution first exceeds `uniform`.

    Args:
        probabilities: [N, V], not negative; each row is normalised by its own sum.
        uniform: [N] in [0, 1).

    Returns:
        [N] int64; an id of probability zero is never returned.
    """
    cdf = probabilities.float().cumsum(dim=-1)
    threshold = uniform.to(cdf.dtype).unsqueeze(-1) * cdf[:, -1:]
    ids = torch.searchsorted(cdf, threshold, right=True).squeeze(-1)
    return ids.clamp(max=probabilities.size(-1) - 1)
