"""Windows of rows are gone through several times, and what comes depends on the seed and the epoch alone."""

import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from tiny_training import dataset, trainer
from trimtab.methods.psft import METHOD, Config
from trimtab.train.orders import EpochOrder
from trimtab.train.windows import WindowSampler


def order(epoch: int = 0, seed: int = 0, rows: int = 11, window: int = 4, times: int = 3) -> list[int]:
    sampler = EpochOrder(WindowSampler(rows, window, times), seed)
    sampler.set_epoch(epoch)
    given = list(sampler)
    assert len(given) == len(sampler)
    return given


def test_each_window_is_given_several_times_in_a_row_before_the_next():
    given = order()
    assert len(given) == 2 * 4 * 3
    first, second = given[:4], given[12:16]
    assert given == first * 3 + second * 3
    assert len({*first, *second}) == 8
    assert {*first, *second} <= set(range(11))


def test_the_rows_that_fill_no_window_change_from_epoch_to_epoch():
    left_out = {tuple(sorted(set(range(11)) - set(order(epoch)))) for epoch in range(6)}
    assert all(len(rows) == 3 for rows in left_out)
    assert len(left_out) > 1


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    assert order(2, 1) == order(2, 1)
    assert len({tuple(order(epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9
    sampler = EpochOrder(WindowSampler(11, 4, 3), 0)
    assert list(sampler) == list(sampler) == order()


def test_fewer_rows_than_a_window_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"3 training rows do not fill a window of 4; lower options\.refresh"):
        WindowSampler(3, 4, 2)


def test_accelerate_sets_the_epoch_and_a_resume_in_the_middle_of_it_continues_with_the_same_rows():
    """The two things that transformers' loop does with a sampler."""
    loader = prepare_data_loader(DataLoader(range(11), batch_size=2, sampler=EpochOrder(WindowSampler(11, 4, 3), 7)))
    loader.set_epoch(1)
    whole = [row for batch in loader for row in batch.tolist()]
    assert whole == order(1, 7)
    again = prepare_data_loader(DataLoader(range(11), batch_size=2, sampler=EpochOrder(WindowSampler(11, 4, 3), 7)))
    again.set_epoch(1)
    rest = [row for batch in skip_first_batches(again, 5) for row in batch.tolist()]
    assert rest == whole[10:]


def test_training_goes_through_a_window_twice_with_one_snapshot(tmp_path):
    plan = METHOD.build(Config(refresh=2, inner_epochs=2), None)
    made = trainer(
        tmp_path,
        plan,
        rows=dataset(),
        window=(2, 2),
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
