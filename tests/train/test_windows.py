"""Rows in windows: which are given, how often, in which order."""

import pytest

from tiny_training import dataset, trainer
from trimtab.methods.psft import METHOD, Config
from trimtab.train.windows import WindowSampler


def windows(sampler: WindowSampler, size: int) -> list[list[int]]:
    rows = list(sampler)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def test_each_window_is_gone_through_so_often_before_the_next_comes():
    sampler = WindowSampler(rows=11, window=4, times=3, seed=0)
    given = windows(sampler, 4)
    assert len(sampler) == 24
    assert given[0] == given[1] == given[2]
    assert given[3] == given[4] == given[5]
    assert len({*given[0], *given[3]}) == 8  # the three that fill no window are left out


def test_an_epoch_has_its_own_order_which_the_seed_and_its_number_fix():
    one, other, third = (WindowSampler(12, 4, 2, seed) for seed in (0, 0, 1))
    first = list(one)
    assert list(other) == first
    assert list(third) != first
    one.set_epoch(1)
    assert list(one) != first
    one.set_epoch(0)
    assert list(one) == first


def test_rows_that_do_not_fill_one_window_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"3 training rows do not fill a window of 4; lower options\.refresh"):
        WindowSampler(3, 4, 1, seed=0)


def test_training_goes_through_a_window_twice_with_one_snapshot(tmp_path):
    plan = METHOD.build(Config(refresh=2, inner_epochs=2), None)
    made = trainer(
        tmp_path,
        plan,
        rows=dataset(),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        max_steps=8,
        logging_steps=1,
        learning_rate=0.03,
    )
    seen: list[list[int]] = []
    original = made.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        seen.append(inputs["row_id"].tolist())
        return original(model, inputs, *args, **kwargs)

    made.compute_loss = compute_loss
    made.train()
    assert seen[:4] == seen[4:8]  # two updates of two rows, twice
    assert seen[8:12] == seen[12:16]
    assert sorted(row for (row,) in seen[:4] + seen[8:12]) == list(range(8))
    fresh = [entry["ratio"] == 1 for entry in made.state.log_history[:-1]]
    assert fresh == [True, False, False, False, True, False, False, False]
