"""How long an epoch is said to be before anything is loaded, held against what the trainers do."""

from pathlib import Path

import pytest
import test_resume as resumes

import tiny_rollout_trainer as rollouts
from trimtab.train import settings
from trimtab.train.epochs import Epoch, epoch_of, updates_asked
from trimtab.train.settings import TrainingError

SUPERVISED = {
    "even": {"number": 8},
    "one over": {"number": 9},
    "one short": {"number": 7},
    "even, drop": {"number": 8, "dataloader_drop_last": True},
    "drop": {"number": 9, "dataloader_drop_last": True},
    "one short, drop": {"number": 7, "dataloader_drop_last": True},
    "rebalanced, drop": {"number": 9, "dataloader_drop_last": True, "train_sampling_strategy": "batch_rebalance"},
    "rebalanced": {"number": 9, "train_sampling_strategy": "batch_rebalance"},
    "part": {"number": 9, "train_sampling_strategy": "sequential", "num_train_epochs": 1.4},
    "windows": {"number": 10, "windows": True},
    "steps": {"number": 9, "max_steps": 4},
    "accumulated": {"number": 7, "dataloader_drop_last": True, "gradient_accumulation_steps": 4},
}
OWN = [
    {},
    {"rows": 7},
    {"rows": 7, "shuffle_dataset": False, "num_iterations": 2},
    {"rows": 5, "gradient_accumulation_steps": 2},
]


@pytest.mark.fast("windows", "rebalanced")
@pytest.mark.parametrize("case", SUPERVISED.values(), ids=SUPERVISED)
def test_updates_and_rows_left_out_are_those_of_the_supervised_trainer(tmp_path, case):
    seen: list[list[int]] = []
    made = resumes.supervised(tmp_path, seen, per_device_train_batch_size=2, save_strategy="no", **case)
    made.train()
    epoch = epoch_of(made.args, "supervised", case["number"], made.window)
    assert updates_asked(made.args, epoch) == made.state.global_step
    updates = iter(seen)
    first = [row for _, batch in zip(range(len(made.get_train_dataloader())), updates) for row in batch]
    assert case["number"] - len(set(first)) == epoch.left_out
    assert bool(epoch.note) == bool(epoch.left_out)


@pytest.mark.fast("*num_iterations*")
@pytest.mark.parametrize("case", OWN, ids=str)
def test_updates_and_tasks_left_out_are_those_of_the_trainer_of_rollouts(tmp_path, monkeypatch, case):
    tasks = rollouts.dataset(case.get("rows", 8))
    monkeypatch.setattr(rollouts, "dataset", lambda: tasks)
    seen: list[list[int]] = []
    training = {key: value for key, value in case.items() if key != "rows"}
    made = resumes.own(tmp_path, seen, save_strategy="no", num_train_epochs=1, **training)
    made.train()
    epoch = epoch_of(made.args, "rollouts", len(tasks))
    assert updates_asked(made.args, epoch) == made.state.global_step
    assert len(tasks) - len({row for batch in seen for row in batch}) == epoch.left_out


def args(loop="supervised", **training):
    return settings.build(settings.check({"use_cpu": True, **training}, loop), Path("nowhere"), 0, loop)


def test_rows_that_make_no_update_are_refused_with_the_numbers():
    few = args(per_device_train_batch_size=8, dataloader_drop_last=True)
    with pytest.raises(TrainingError, match="^3 training rows are too few for an update: a batch takes 8 and training"):
        epoch_of(few, "supervised", 3)
    assert epoch_of(few, "supervised", 8) == Epoch(1)
    few = args(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    with pytest.raises(
        TrainingError, match=r"^11 training rows do not fill a window: a window takes 12 \(options.refresh 3"
    ):
        epoch_of(few, "supervised", 11, (3, 2))
    few = args("rollouts", per_device_train_batch_size=8, num_generations=4)
    with pytest.raises(
        TrainingError, match=r"^1 training tasks are too few for an update: a batch of rollouts takes 2 \(training"
    ):
        epoch_of(few, "rollouts", 1)


def test_what_is_left_out_is_reported_with_the_reason():
    some = args(per_device_train_batch_size=4, dataloader_drop_last=True)
    assert epoch_of(some, "supervised", 11).note == (
        "3 of 11 rows are dropped from each epoch, different ones each time: "
        "a batch takes 4 and training.dataloader_drop_last "
        "drops the rest"
    )
    some = args("rollouts", per_device_train_batch_size=8, num_generations=4, shuffle_dataset=False)
    assert epoch_of(some, "rollouts", 3).note.startswith(
        "1 of 3 rows is dropped from each epoch, the last ones, as the"
    )
    assert epoch_of(args(), "supervised", 3).note == ""


def test_processes_share_an_epoch(monkeypatch):
    some = args(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    monkeypatch.setattr(type(some), "world_size", 2)
    epoch = epoch_of(some, "supervised", 9)
    assert (epoch.updates, epoch.left_out, epoch.note) == (2, 0, "")
    epoch = epoch_of(some, "classification", 9)
    assert epoch.note == "3 of 9 rows are repeated in each epoch, so that all processes have full batches"
    monkeypatch.setattr(some, "dataloader_drop_last", True)
    assert epoch_of(some, "supervised", 9).left_out == 1
    with pytest.raises(TrainingError, match="1 training row is too few for 2 processes"):
        epoch_of(some, "supervised", 1)
