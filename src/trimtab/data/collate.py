"""Rows become padded batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.core.batch import IGNORE


@dataclass(frozen=True)
class Collator:
    """Pads on the right; labels that the common vocabulary does not hold are masked here, before anything counts."""

    pad_id: int
    vocab_size: int
    """the smallest vocabulary of all models in the run"""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `labels` [B, T] and `row_id` [B]."""
        width = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), width)
        input_ids = torch.full(shape, self.pad_id, dtype=torch.long)
        labels = torch.full(shape, IGNORE, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        for i, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[i, :length] = torch.tensor(row["input_ids"])
            labels[i, :length] = torch.tensor(row["labels"])
            attention_mask[i, :length] = 1
        labels[:, 0] = IGNORE
        labels[labels >= self.vocab_size] = IGNORE
        row_id = torch.tensor([row["row_id"] for row in rows])
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "row_id": row_id}


def length_sorted(
    rows: Sequence[Mapping[str, Any]], collator: Collator, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[dict[str, Tensor]]:
    """Batches of rows of like length, longest first: little padding, and memory peaks at the start.

    The batches depend on the rows alone, so what is computed from them does too, to the last bit.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]["input_ids"]), i))
    for start in range(0, len(order), batch_size):
        batch = collator([rows[i] for i in order[start : start + batch_size]])
        yield {name: value.to(device) for name, value in batch.items()}
