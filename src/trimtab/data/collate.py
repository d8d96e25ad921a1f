"""Rows become padded batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.common.processes import dealt
from trimtab.core.batch import ATTRIBUTED, IGNORE
from trimtab.data.alignment import OUTSIDE
from trimtab.data.rationales import draw
from trimtab.data.rows import LENGTHS, prefixes
from trimtab.data.two_tokenizers import SEGMENT, STARTS, TEACHER


@dataclass(frozen=True)
class Collator:
    """Pads on the right; labels that the common vocabulary does not hold are masked here, before anything counts.

    A pair becomes two neighbouring sequences with one `row_id`: 2i is the chosen answer, 2i+1 the rejected one.
    """

    pad_id: int
    vocab_size: int
    """the smallest vocabulary of all models in the run"""
    every_token: bool = False
    """the prompt's tokens are labels too"""
    columns: tuple[str, ...] = ()
    """columns with one number for each answer token, laid out like the labels"""
    attributed: bool = False
    """rows mark the tokens of attribution maps"""

    def __call__(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `labels` [B, T], `row_id` [B], each column [B, T] float32, and where the rows
        have one `outcome` [B] float32; `attributed` [B, T] if that is asked for; where they have a teacher with another
        tokenizer see `_of_teacher`.

        Args:
            rows: prepared rows (of questions with rationales that are not drawn the first two), or packs of them; then
                there is `place` [B, 2] too, see `trimtab.models.packing`.
        """
        if rows and isinstance(rows[0], list):
            return self([row for pack in rows for row in pack]) | {"place": places(rows)}
        rows = [draw(row, 0, 1) if LENGTHS in row else row for row in rows]
        sequences = [(row, prefix) for row in rows for prefix in prefixes(row)]
        shape = (len(sequences), max(len(row[f"{prefix}input_ids"]) for row, prefix in sequences))
        input_ids = torch.full(shape, self.pad_id, dtype=torch.long)
        labels = torch.full(shape, IGNORE, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        batch |= {name: torch.zeros(shape) for name in self.columns}
        for i, (row, prefix) in enumerate(sequences):
            ids = row[f"{prefix}input_ids"]
            input_ids[i, : len(ids)] = torch.tensor(ids)
            labels[i, : len(ids)] = torch.tensor(row[f"{prefix}labels"])
            attention_mask[i, : len(ids)] = 1
            answered = labels[i] != IGNORE
            for name in self.columns if answered.any() else ():
                batch[name][i, answered] = torch.tensor(row[prefix + name])
        if self.every_token:
            labels.copy_(input_ids.masked_fill(attention_mask == 0, IGNORE))
        labels[:, 0] = IGNORE
        labels[labels >= self.vocab_size] = IGNORE
        batch["row_id"] = torch.tensor([row["row_id"] for row, _ in sequences])
        if "outcome" in rows[0]:
            batch["outcome"] = torch.tensor([row["outcome"] for row, _ in sequences])
        if self.attributed:
            batch[ATTRIBUTED] = _padded([row[ATTRIBUTED] for row, _ in sequences], 0, shape[1])
        if SEGMENT in rows[0]:
            batch |= _of_teacher(rows, shape[1])
        return batch


def places(packs: Sequence[Sequence[Mapping[str, Any]]]) -> Tensor:
    """[B, 2] the pack of each sequence, and where it starts in it. The chosen answers of a pack of pairs have one, and
    the rejected ones another."""
    found = []
    for number, rows in enumerate(packs):
        starts: dict[str, int] = {}
        for row in rows:
            sides = prefixes(row)
            for side, prefix in enumerate(sides):
                start = starts.get(prefix, 0)
                found.append((number * len(sides) + side, start))
                starts[prefix] = start + len(row[f"{prefix}input_ids"])
    return torch.tensor(found)


def _of_teacher(rows: Sequence[Mapping[str, Any]], width: int) -> dict[str, Tensor]:
    """`teacher_input_ids`, `teacher_attention_mask`, `teacher_labels`, `teacher_segment` [B, T'], with its own padding,
    and `segment` and `starts` [B, T]."""
    theirs = [row[f"{TEACHER}input_ids"] for row in rows]
    longest = max(map(len, theirs))
    return {
        SEGMENT: _padded([row[SEGMENT] for row in rows], OUTSIDE, width),
        STARTS: _padded([row[STARTS] for row in rows], 0, width),
        f"{TEACHER}input_ids": _padded(theirs, 0, longest),
        f"{TEACHER}attention_mask": _padded([[1] * len(ids) for ids in theirs], 0, longest),
        f"{TEACHER}labels": _padded([row[f"{TEACHER}labels"] for row in rows], IGNORE, longest),
        f"{TEACHER}{SEGMENT}": _padded([row[f"{TEACHER}{SEGMENT}"] for row in rows], OUTSIDE, longest),
    }


def _padded(values: Sequence[Sequence[int]], fill: int, width: int) -> Tensor:
    return torch.tensor([[*one, *[fill] * (width - len(one))] for one in values], dtype=torch.long)


def length_sorted(
    rows: Sequence[Mapping[str, Any]], collator: Collator, batch_size: int, device: torch.device | str = "cpu",
    share: tuple[int, int] = (0, 1),
) -> Iterator[dict[str, Tensor]]:  # fmt: skip
    """Batches of rows of similar length, longest first: little padding, and memory peaks at the start.

    The batches depend on the rows alone, so what is computed from them does too, to the last bit.

    Args:
        share: (rank, processes), of whose batches there are as many as in each other, see `dealt`.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]["input_ids"]), i))
    starts = list(range(0, len(order), batch_size))
    for place in dealt(len(starts), share):
        start = starts[place]
        batch = collator([rows[i] for i in order[start : start + batch_size]])
        yield {name: value.to(device) for name, value in batch.items()}
