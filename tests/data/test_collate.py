"""Batches hold the rows, padded, and no label that cannot count."""

import torch

from trimtab.core import IGNORE
from trimtab.data.collate import Collator, length_sorted
from trimtab.signals.columns import Column

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


PAIRS = [
    {**ROWS[0], "rejected_input_ids": [5, 9], "rejected_labels": [IGNORE, 9]},
    {**ROWS[1], "rejected_input_ids": [8, 2, 3, 4], "rejected_labels": [IGNORE, IGNORE, 3, 4]},
]


def test_pairs_lie_side_by_side_chosen_first_under_one_row_id():
    batch = Collator(pad_id=1, vocab_size=10)(PAIRS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1], [5, 9, 1, 1], [8, 1, 1, 1], [8, 2, 3, 4]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 2, 1, 4]
    assert batch["labels"].tolist()[1] == [IGNORE, 9, IGNORE, IGNORE]
    assert batch["row_id"].tolist() == [3, 3, 9, 9]


def test_every_token_learns_prompts_too_but_no_padding_and_no_first_token():
    batch = Collator(pad_id=1, vocab_size=10, every_token=True)(PAIRS[1:])
    assert batch["labels"].tolist() == [[IGNORE] * 4, [IGNORE, 2, 3, 4]]


def test_columns_lie_where_the_labels_are_as_tables_of_float32():
    rows = [{**ROWS[0], "weak_delta": [0.5, -1.0]}, {**ROWS[1], "labels": [IGNORE], "weak_delta": []}]
    batch = Collator(pad_id=1, vocab_size=10, columns=("weak_delta",))(rows)
    assert batch["weak_delta"].dtype == torch.float32
    assert batch["weak_delta"].tolist() == [[0.0, 0.5, -1.0], [0.0] * 3]


def test_a_column_stays_in_its_place_where_a_label_is_masked_afterwards():
    batch = Collator(pad_id=1, vocab_size=7, columns=("weak_delta",))([{**ROWS[0], "weak_delta": [0.5, -1.0]}])
    given = Column("weak_delta")(None, batch)["weak_delta"]
    assert batch["labels"].tolist() == [[IGNORE, 6, IGNORE]]
    assert given.tolist() == [0.5]


def test_shares_of_held_out_rows_are_equal_in_number_and_together_all_batches():
    rows = [{"row_id": i, "input_ids": [1] * (1 + i), "labels": [-100] * (1 + i)} for i in range(9)]
    whole = [batch["row_id"].tolist() for batch in length_sorted(rows, Collator(0, 10), 2)]
    assert whole == [[8, 7], [6, 5], [4, 3], [2, 1], [0]]
    shares = [
        [batch["row_id"].tolist() for batch in length_sorted(rows, Collator(0, 10), 2, share=(rank, 3))]
        for rank in range(3)
    ]
    assert shares == [[[8, 7], [2, 1]], [[6, 5], [0]], [[4, 3], [8, 7]]]  # the last one has a batch of another again
    assert list(length_sorted([], Collator(0, 10), 2, share=(0, 3))) == []
