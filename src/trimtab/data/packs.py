"""Which rows share a pack: best-fit decreasing, so that few packs are needed and little of them stays empty."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab.data.rows import sequences
from trimtab.data.sources import DataError


def size_of(row: Mapping[str, Any]) -> int:
    """Tokens of a prepared row, of a pair those of the longer answer: chosen and rejected ones have packs of their
    own."""
    return max(len(ids) for ids, _ in sequences(row))


def fit(sizes: Sequence[int], limit: int, order: Iterable[int] | None = None, multiple: int = 1) -> list[list[int]]:
    """Packs of at most `limit` tokens, with each row once. Their number depends on the sizes alone.

    Args:
        sizes: tokens of each row.
        order: in which rows of the same size are taken; their own order if not given.
        multiple: packs are split until their number is a multiple of this, as far as there are rows.

    Returns:
        Indices of the rows of each pack.

    Raises:
        DataError: for a row that is longer than the limit.
    """
    numbers = sorted(range(len(sizes)) if order is None else order, key=lambda i: -sizes[i])
    if numbers and sizes[numbers[0]] > limit:
        raise DataError(f"a row of {sizes[numbers[0]]} tokens fits in no pack of {limit}; raise training.max_length")
    packs: list[list[int]] = []
    with_room: dict[int, list[list[int]]] = {}  # tokens left -> packs
    rooms = 0  # bit n: there is a pack with n tokens left
    for number in numbers:
        size = sizes[number]
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1  # the smallest that is enough
            pack = with_room[room].pop()
            rooms ^= (not with_room[room]) << room
        else:
            room, pack = limit, []
            packs.append(pack)
        pack.append(number)
        with_room.setdefault(room - size, []).append(pack)
        rooms |= 1 << (room - size)
    while len(packs) % multiple and (largest := max(packs, key=len))[1:]:
        half = len(largest) // 2
        packs.append(largest[half:])
        del largest[half:]
    return packs
