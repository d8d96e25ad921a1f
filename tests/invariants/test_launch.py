"""`torchrun` over two processes trains the same model as one process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny
import tiny_classifier
import tiny_folder
from tiny_runs import cut_off

pytestmark = pytest.mark.slow
SGD = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "max_steps": 3}


def train(
    files: Path, output: Path, launcher: list[str], minutes: float | None = None, flags: Sequence[str] = (),
    method: str = "hpd", tree: Mapping[str, Any] | None = None, launch: Sequence[str] = (), **training: Any
) -> dict:  # fmt: skip
    """The trained weights.

    Args:
        tree: what the recipe has in place of tiny_folder's.
        launch: arguments of `trimtab launch`, in place of a launcher.
    """
    made = tiny_folder.recipe(files, method, output=str(output), training={**SGD, **training}, minutes=minutes)
    made |= tree or {}
    recipe = output.with_suffix(".yaml")
    recipe.write_text(json.dumps(made))
    words = ["launch", str(recipe), *launch] if launch else ["train", str(recipe)]
    command = [sys.executable, "-m", *launcher, "trimtab", *words, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRIMTAB_TRACEBACK": "1"}
    environment |= {} if launch else {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    return load_file(output / "model" / "model.safetensors")


def test_two_processes_move_the_weights_as_one_does(tmp_path):
    files = tiny_folder.lay_out(tmp_path / "files")
    one = train(files, tmp_path / "one", [], per_device_train_batch_size=2, gradient_accumulation_steps=2)
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    two = train(files, tmp_path / "two", launch, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    before = load_file(files / "teacher" / "model.safetensors")
    moved = {name: one[name] - before[name.replace("layers.1", "layers.2")] for name in one}
    moved_too = {name: two[name] - before[name.replace("layers.1", "layers.2")] for name in one}
    assert tiny.relative_error(moved_too, moved) < 1e-3
    events = [json.loads(line)["event"] for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert events.count("start") == 1
    assert events.count("train") == 3
    assert events.count("finished") == 1


def test_two_processes_agree_on_the_steps_that_fit_into_a_budget(tmp_path):
    files = tiny_folder.lay_out(tmp_path / "files")
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    train(files, tmp_path / "run", launch, minutes=0.02, max_steps=100_000, per_device_train_batch_size=1)
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert next(e for e in events if e["event"] == "finished")["step"] < 100_000


def test_two_processes_that_are_stopped_in_a_later_epoch_go_on_with_their_rows(tmp_path):
    files = tiny_folder.lay_out(tmp_path / "files")
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    changes = {"max_steps": -1, "num_train_epochs": 3, "save_steps": 1, "save_total_limit": 20}
    changes |= {"train_sampling_strategy": "group_by_length", "gradient_accumulation_steps": 1}
    whole = train(files, tmp_path / "whole", launch, **changes)
    cut_off(tmp_path / "whole", tmp_path / "stopped", 6)  # in the second epoch of four updates
    again = train(files, tmp_path / "stopped", launch, flags=("--resume",), **changes)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_two_processes_learn_from_packs_as_one_does(tmp_path):
    """An epoch of packs; which packs share an update differs, so one update takes all of them."""
    files = tiny_folder.lay_out(tmp_path / "files")
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    packing = {"packing": True, "max_length": 120, "max_steps": 2, "gradient_accumulation_steps": 1}
    one = train(files, tmp_path / "one", [], **packing, per_device_train_batch_size=16)
    two = train(files, tmp_path / "two", launch, **packing, per_device_train_batch_size=8)
    before = load_file(files / "teacher" / "model.safetensors")
    moved, moved_too = (
        {name: each[name] - before[name.replace("layers.1", "layers.2")] for name in each} for each in (one, two)
    )
    assert tiny.relative_error(moved_too, moved) < 1e-3


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("method", ["hpd", "dpo", "classify"])
def test_zero_2_moves_the_weights_as_one_process_does_and_is_resumed(tmp_path, method):
    """By `trimtab launch`, with Adam, whose states are what ZeRO-2 splits."""
    files = tiny_folder.lay_out(tmp_path / "files")
    adam = {"optim": "adamw_torch", "learning_rate": 0.01, "save_steps": 1, "save_total_limit": 9}
    changes: dict = {"method": method, **adam}
    if method == "dpo":
        tiny_folder.write_jsonl(files / "pairs.jsonl", tiny_folder.pair_rows(15))
        changes["tree"] = {"models": {"policy": str(files / "teacher")}, "data": {"train": str(files / "pairs.jsonl")}}
    if method == "classify":
        tiny_classifier.save(files / "encoder", head=True, outputs=2)
        tiny_classifier.write(files / "labelled.jsonl", tiny_classifier.rows(16))
        source = str(files / "labelled.jsonl")
        changes["tree"] = {"models": {"policy": str(files / "encoder")}, "data": {"train": source}, "eval": {}}
    one = train(files, tmp_path / "one", [], per_device_train_batch_size=2, gradient_accumulation_steps=2, **changes)
    zero = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "launch": ("--devices", "2", "--zero2")}
    two = train(files, tmp_path / "two", [], **zero, **changes)
    assert "processes: 2, ZeRO-2 over gloo" in (tmp_path / "two" / "signature.txt").read_text()
    known = {name: value for name, value in one.items() if "key.bias" not in name}  # whose gradient is rounding alone
    assert tiny.relative_error({name: two[name] for name in known}, known) < 1e-5
    if method != "hpd":
        return
    cut_off(tmp_path / "two", tmp_path / "again", 1)
    again = train(files, tmp_path / "again", [], flags=("--resume",), **zero, **changes)
    assert tiny.relative_error(again, two) < 1e-6
