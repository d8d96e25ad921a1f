"""A trainer that stops anywhere in any epoch and goes on from its checkpoint: the same rows, numbers and bits."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl.trainer.utils import RepeatSampler

import tiny
import tiny_rollout_trainer as rollouts
import tiny_training
from trimtab.core import Plan
from trimtab.methods.psft import METHOD, Config
from trimtab.objectives.likelihood import Likelihood
from trimtab.train.base import CheckpointError
from trimtab.train.orders import EpochOrder
from trimtab.train.windows import WindowSampler

LENGTHS = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5)
SAMPLERS = {
    "random": lambda: RandomSampler(range(11)),
    "sequential": lambda: SequentialSampler(range(11)),
    "group_by_length": lambda: LengthGroupedSampler(2, lengths=list(LENGTHS)),
    "repeat": lambda: RepeatSampler(range(11), 2, 4, 1, shuffle=True, seed=3),
    "repeat, in order": lambda: RepeatSampler(range(11), 2, 4, 1, shuffle=False, seed=3),
    "windows": lambda: WindowSampler(11, 4, 3),
}
SHUFFLED = [name for name in SAMPLERS if name not in ("sequential", "repeat, in order")]


def order(name: str, epoch: int, seed: int = 0) -> list[int]:
    sampler = EpochOrder(SAMPLERS[name](), seed)
    sampler.set_epoch(epoch)
    given = list(sampler)
    assert len(given) == len(sampler)
    return given


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone(name):
    first = [order(name, epoch) for epoch in range(3)]
    torch.manual_seed(1)
    random.seed(1)
    sampler = EpochOrder(SAMPLERS[name](), 0)
    for epoch in (2, 0, 1, 2, 2):  # whatever came before
        sampler.set_epoch(epoch)
        assert list(sampler) == first[epoch]


@pytest.mark.parametrize("name", SHUFFLED)
def test_epochs_and_seeds_have_orders_of_their_own(name):
    assert len({tuple(order(name, epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_skips_batches_of_a_later_epoch_continues_with_its_rows(name, workers):
    """The two things that transformers' loop does with a sampler."""

    def loader():
        made = DataLoader(range(11), batch_size=2, sampler=EpochOrder(SAMPLERS[name](), 7), num_workers=workers)
        prepared = prepare_data_loader(made)
        prepared.set_epoch(2)
        return prepared

    torch.manual_seed(5)
    whole = [row for batch in loader() for row in batch.tolist()]
    torch.manual_seed(6)
    assert whole == order(name, 2, 7)
    assert [row for batch in skip_first_batches(loader(), 3) for row in batch.tolist()] == whole[6:]


# ---------------------------------------------------------------- both loops


def rows(number: int) -> Dataset:
    batch = tiny.rows(tuple((1 + i % 3, 1 + (5 * i) % 11) for i in range(number)))
    made = []
    for i in range(number):
        length = int(batch.attention_mask[i].sum())
        ids, labels = batch.input_ids[i, :length].tolist(), batch.labels[i, :length].tolist()
        made.append({"input_ids": ids, "labels": labels, "row_id": i})
    return Dataset.from_list(made)


def supervised(folder: Path, seen: list[list[int]], number: int = 7, windows: bool = False, **training: Any) -> Any:
    """Three epochs with dropout and Adam; `seen` gets the rows of each micro-batch."""
    policy = tiny.model("llama_tied", attention_dropout=0.2)
    plan = METHOD.build(Config(refresh=1, inner_epochs=2), policy) if windows else Plan(Likelihood())
    settings = {"optim": "adamw_torch", "learning_rate": 0.01, "lr_scheduler_type": "linear", "max_grad_norm": 1.0}
    settings |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "save_total_limit": None}
    settings |= {"max_steps": -1, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
    window = (1, 2) if windows else None
    made = tiny_training.trainer(folder, plan, policy, rows(number), window=window, **{**settings, **training})
    original = made.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        seen.append(inputs["row_id"].tolist())
        return original(model, inputs, *args, **kwargs)

    made.compute_loss = compute_loss
    return made


def own(folder: Path, seen: list[list[int]], **training: Any) -> Any:
    """Three epochs over eight tasks, four of which fill a batch of rollouts; `seen` gets its tasks."""
    settings = {"optim": "adamw_torch", "learning_rate": 0.01, "steps_per_generation": 2, "max_grad_norm": 1.0}
    settings |= {"max_steps": -1, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3}
    made = rollouts.trainer(folder, rollouts.grpo(), save_total_limit=None, **{**settings, **training})
    original = made._with_advantages

    def with_advantages(found):
        seen.append(found["row_id"].tolist())
        return original(found)

    made._with_advantages = with_advantages
    return made


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "shuffled": (supervised, {}),
    "sequential": (supervised, {"train_sampling_strategy": "sequential"}),
    "by length": (supervised, {"train_sampling_strategy": "group_by_length"}),
    "rebalanced": (supervised, {"train_sampling_strategy": "batch_rebalance", "number": 8}),
    "in windows": (supervised, {"windows": True}),
    "a number of updates": (supervised, {"max_steps": 9, "train_sampling_strategy": "group_by_length"}),
    "part of an epoch": (supervised, {"num_train_epochs": 2.3}),
    "workers": (supervised, {"dataloader_num_workers": 2, "train_sampling_strategy": "group_by_length"}),
    "incomplete batches dropped": (supervised, {"dataloader_drop_last": True, "per_device_train_batch_size": 2}),
    "a checkpoint each epoch": (supervised, {"save_strategy": "epoch", "train_sampling_strategy": "group_by_length"}),
    "a log now and then": (supervised, {"logging_steps": 4}),
    "a seed of the data": (supervised, {"data_seed": 5}),
    "tasks": (own, {}),
    "tasks in order": (own, {"shuffle_dataset": False}),
    "tasks, used twice": (own, {"num_iterations": 2, "save_steps": 4}),
    "tasks, accumulated": (own, {"gradient_accumulation_steps": 2, "save_steps": 1}),
    "tasks, with workers": (own, {"dataloader_num_workers": 1}),
}


@pytest.mark.fast("by length")
@pytest.mark.parametrize("name", CASES)
def test_a_stop_after_a_random_update_of_a_random_epoch_changes_no_row_no_number_and_no_bit(tmp_path, name):
    make, training = CASES[name]
    before: list[list[int]] = []
    whole = make(tmp_path, before, **training)
    whole.train()
    steps = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert len(steps) > 2
    # one between two epochs, and any other
    epochs = [step for step in steps[:-1] if not step % (whole.state.max_steps / whole.state.num_train_epochs)]
    within = [step for step in steps[:-1] if step not in epochs] or epochs
    generator = random.Random(name)
    for step in {generator.choice(epochs or within), generator.choice(within[len(within) // 2 :])}:
        after: list[list[int]] = []
        resumed = make(tmp_path / "again", after, **training)
        torch.manual_seed(step)  # what is left of the earlier draws
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / f"checkpoint-{step}"))
        assert after == before[len(before) - len(after) :], step
        assert len(after) == round(len(before) * (1 - step / whole.state.global_step)) or make is supervised
        for (key, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values()):
            assert torch.equal(one, other), (step, key)
        assert logged(whole, step) == logged(resumed, step)


def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path):
    supervised(tmp_path, [], max_steps=2).train()
    folder = tmp_path / "checkpoints" / "checkpoint-1"
    (path,) = folder.glob("totals_*.safetensors")
    kept = load_file(path)
    del kept["loss"]
    save_file(kept, path)
    with pytest.raises(CheckpointError, match="checkpoint-1 lacks 'loss': another version of trimtab wrote it"):
        supervised(tmp_path / "again", []).train(resume_from_checkpoint=str(folder))
    path.unlink()
    with pytest.raises(CheckpointError, match="checkpoint-1 lacks totals_"):
        supervised(tmp_path / "again", []).train(resume_from_checkpoint=str(folder))


def logged(trainer: Any, step: int) -> list[dict[str, Any]]:
    """What was logged after a step, without times."""
    timed = ("runtime", "per_second", "seconds", "step_time", "total_flos", "train_loss")
    return [
        {key: value for key, value in entry.items() if not any(part in key for part in timed)}
        for entry in trainer.state.log_history
        if entry["step"] > step
    ]


def test_the_rows_tell_epochs_apart(tmp_path):
    """Otherwise the tests above would see no difference."""
    seen: list[list[int]] = []
    supervised(tmp_path, seen, save_strategy="no").train()
    epochs = [list(itertools.chain(*seen[i : i + 7])) for i in range(0, 21, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
