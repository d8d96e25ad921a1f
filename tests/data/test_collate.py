"""Batches hold the rows, padded, and no label that cannot count."""

import torch

from trimtab.core import IGNORE
from trimtab.data.collate import Collator, length_sorted

ROWS = [
    {"input_ids": [5, 6, 7], "labels": [IGNORE, 6, 7], "row_id": 3},
    {"input_ids": [8], "labels": [8], "row_id": 9},
]


def test_rows_are_padded_on_the_right_and_the_first_label_is_masked():
    batch = Collator(pad_id=1, vocab_size=10)(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORE, 6, 7], [IGNORE] * 3]
    assert batch["row_id"].tolist() == [3, 9]


def test_labels_outside_the_common_vocabulary_are_masked_but_still_read():
    batch = Collator(pad_id=1, vocab_size=7)(ROWS)
    assert batch["labels"].tolist()[0] == [IGNORE, 6, IGNORE]
    assert batch["input_ids"].tolist()[0] == [5, 6, 7]


def test_sorted_batches_hold_every_row_once_longest_first():
    rows = [{"input_ids": [1] * n, "labels": [1] * n, "row_id": n} for n in (2, 5, 3, 4, 1)]
    batches = list(length_sorted(rows, Collator(0, 10), 2))
    assert [batch["row_id"].tolist() for batch in batches] == [[5, 4], [3, 2], [1]]
    assert all(isinstance(batch["labels"], torch.Tensor) for batch in batches)
