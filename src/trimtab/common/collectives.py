"""What the processes of a training run tell each other: all of them call each function; a single one sends nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trimtab.common.errors import UserError, first_line

T = TypeVar("T")


class OtherProcessFailed(UserError):
    """Another process of the run failed; this one ends with its message."""


def size() -> int:
    """The processes of the group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this one in the group."""
    return dist.get_rank() if size() > 1 else 0


def objects(value: T) -> list[T]:
    """Each process's value, by rank."""
    if size() == 1:
        return [value]
    found: list[T | None] = [None] * size()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]


def gathered(value: Tensor) -> Tensor:
    """The entries of all processes one after another, by rank, from [n, ...]; n may be another in each."""
    if size() == 1:
        return value
    lengths = objects(len(value))
    wide = value.new_zeros(max(lengths), *value.shape[1:])
    wide[: len(value)] = value
    parts = [torch.empty_like(wide) for _ in lengths]
    dist.all_gather(parts, wide)
    return torch.cat([part[:length] for part, length in zip(parts, lengths)])


def add_up(values: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes."""
    for value in values if size() > 1 else ():
        dist.all_reduce(value)


@contextmanager
def all_or_none() -> Iterator[None]:
    """What fails within this context in one process ends it in all, before they wait for what that one would send.

    Nothing inside may send anything.

    Raises:
        OtherProcessFailed: with the message of the first process that failed, in those that did not.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    said = objects(None if failed is None else first_line(failed))
    if failed is not None:
        raise failed
    for number, message in enumerate(said):
        if message is not None:
            raise OtherProcessFailed(f"process {number} failed: {message}")
