"""Rows reach TRL's trainers as they are."""

import pytest
import torch

import tiny_training
from trimtab.train.dataset import Rows

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
