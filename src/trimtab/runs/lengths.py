"""How long the sequences of a batch are at most, for the estimate of memory."""

from typing import Any

from trimtab.common.errors import UserError
from trimtab.core.batch import IGNORE
from trimtab.data.counts import Prepared
from trimtab.data.rows import sequences
from trimtab.train.packs import packing_of


class NoEstimate(UserError):
    """The memory of a run cannot be estimated."""


def lengths(train: Prepared, args: Any, new: int) -> tuple[int, int]:
    """Tokens of the longest row or pack, and of the longest answer or all answers of a pack.

    Args:
        args: of `settings.build`.
        new: most tokens of a completion, where the rows are tasks.
    """
    if train.prompts:
        return max(map(len, train.prompts)) + new, new
    if not train.rows:
        raise NoEstimate(f"{train.source}: no rows are left")
    if not isinstance(train.rows[0]["labels"], list):  # texts with one label each
        return max(len(row["input_ids"]) for row in train.rows), 0
    packing = packing_of(args, train.rows, train.max_length)
    packs = [[i] for i in range(len(train.rows))] if packing is None else packing.packs()
    rows = [sequences(row) for row in train.rows]
    whole = [max(len(ids) for ids, _ in sides) for sides in rows]
    answers = [max(sum(label != IGNORE for label in labels) for _, labels in sides) for sides in rows]
    return max(sum(whole[i] for i in pack) for pack in packs), max(sum(answers[i] for i in pack) for pack in packs)
