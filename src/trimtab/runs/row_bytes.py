"""Main memory that rows take, as Python objects."""

import sys
from collections.abc import Sequence
from typing import Any

from trimtab.data.counts import Prepared
from trimtab.data.sources import Row

SAMPLED = 200
SMALL_INT = 256
"""Python keeps one object for each number up to this"""


def bytes_of(prepared: Prepared, rows: Sequence[Row]) -> int:
    """Of rows in main memory, as they came and as token ids, by a sample of them."""
    some, texts = prepared.rows[:: max(1, len(prepared.rows) // SAMPLED)], rows[:SAMPLED]
    size = sum(map(_deep, some)) / max(1, len(some))
    return int(size * len(prepared.rows)) + sum(map(_deep, texts)) * len(rows) // len(texts)


def _deep(value: Any) -> int:
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(map(_deep, value.values()))
    if isinstance(value, list):
        return size + sum(_deep(one) for one in value if not isinstance(one, int) or one > SMALL_INT)
    return size
