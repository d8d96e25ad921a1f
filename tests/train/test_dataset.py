"""Rows reach TRL's trainers as they are."""

import pytest
import torch

import tiny_training
from trimtab.core import answer_mask
from trimtab.data.collate import Collator
from trimtab.train.dataset import Rows
from trimtab.train.orders import EpochOrder
from trimtab.train.windows import WindowSampler

UNLIKE = [
    {"prompt": "a", "answer": 3, "info": {"city": "Rome"}},
    {"prompt": "b", "answer": "three", "info": {"zone": 1}, "more": [1, "x", None]},
    {"prompt": "c", "answer": 1.5, "info": None},
]


def test_rows_keep_their_types_and_keys_and_have_all_columns():
    rows = Rows(UNLIKE)
    assert rows.column_names == ["prompt", "answer", "info", "more"]
    assert list(rows) == [{"more": None, **row} for row in UNLIKE]
    assert [type(row["answer"]) for row in rows] == [int, str, float]


def test_what_a_reader_does_to_a_row_does_not_stay():
    rows = Rows([{"prompt": [{"role": "user", "content": "a"}], "info": {"n": 1}, "names": ["x"]}])
    seen = rows[0]
    seen["prompt"][0]["content"] = "b"
    seen["info"]["n"] = 2
    seen["names"].append("y")
    assert rows[0] == {"prompt": [{"role": "user", "content": "a"}], "info": {"n": 1}, "names": ["x"]}


@pytest.mark.fast("settings0")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train_sampling_strategy": "group_by_length"},
        {"train_sampling_strategy": "sequential"},
        {"dataloader_num_workers": 1},
    ],
)
def test_training_is_the_same_as_from_a_dataset_of_arrow(tmp_path, settings):
    found = []
    for rows in (tiny_training.dataset(), Rows(tiny_training.dataset().to_list())):
        training = {"per_device_train_batch_size": 2, "max_steps": 6, **settings}
        trainer = tiny_training.trainer(tmp_path / str(len(found)), rows=rows, **training)
        trainer.train()
        found.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found))


def test_rows_behind_the_last_fill_batches_and_have_nothing_to_learn():
    prepared = [
        {"row_id": 0, "input_ids": [5, 6, 7], "labels": [-100, 6, 7], "delta": [0.5, 0.25]},
        {"row_id": 1, "input_ids": [8, 9], "labels": [-100, 9], "delta": [1.0]},
    ]
    rows = Rows(prepared)
    assert len(rows) == 2
    assert rows[3] == {**prepared[1], "labels": [-100, -100]}
    batch = Collator(0, 10, columns=("delta",))([rows[0], rows[3]])
    assert answer_mask(batch["labels"]).sum(dim=1).tolist() == [2, 0]
    assert batch["delta"][1].tolist() == [0.0, 0.0, 0.0]
    pair = {"row_id": 0, "input_ids": [1, 2], "labels": [-100, 2], "rejected_input_ids": [1], "rejected_labels": [3]}
    assert Rows([pair])[1]["rejected_labels"] == [-100]
    assert Rows([{"row_id": 0, "input_ids": [1], "labels": 2}])[1]["labels"] == 2  # a class


def test_an_order_is_filled_up_so_that_all_processes_have_full_batches():
    order = EpochOrder(WindowSampler(5, 5, 1), 0, multiple=4)
    assert len(order) == 8
    found = list(order)
    assert sorted(found[:5]) == list(range(5))
    assert found[5:] == [5, 6, 7]
    assert found[:5] == list(EpochOrder(WindowSampler(5, 5, 1), 0))
