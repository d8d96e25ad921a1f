"""`trimtab launch` writes accelerate's file, says the command, runs it and ends with its exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import tiny_folder
from tiny_runs import events
from trimtab.commands import launch
from trimtab.common.processes import ProcessError

OF_LAUNCHER = """\
W1129 13:20:27.1 99 torch/distributed/run.py:774] Setting OMP_NUM_THREADS
error: step 3: the loss is nan
W1129 13:20:28.2 99 torch/distributed/elastic/multiprocessing/api.py:908] Sending process 12 closing signal SIGTERM
E1129 13:20:28.3 99 torch/distributed/elastic/multiprocessing/api.py:882] failed (exitcode: 2) local_rank: 1 (pid: 12)
Traceback (most recent call last):
  ...
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


def recipe(own: Path, folder: Path, **changes) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_folder.recipe(own, "sft", output=str(folder / "run"), **changes)))
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "1"], "--devices is '1'; it must be at least 2"),
        ([], "--devices is missing"),
        (["--devices", "2", "--fsdp", "--zero3"], "--fsdp and --zero3 exclude each other"),
        (["--devices", "2", "--edited"], "--edited: a new run takes the code as it is"),
        (["--devices", "2", "--fsdp"], "--fsdp: accelerate has no FSDP on a CPU and would silently make DDP of it"),
        (["--devices", "2", "--zero2"], "--zero2 needs DeepSpeed, which is not installed: pip install deepspeed"),
        (["--devices", "2", "--zero3"], "--zero3: with ZeRO-3 transformers makes models that are split from the start"),
        (["--devices", "2", "--resume"], "there is no run in"),
        (["--devices", "2", "training.max_step=3"], "did you mean 'max_steps'"),
    ],
)
def test_what_cannot_be_launched_costs_one_line(trimtab, own, tmp_path, monkeypatch, words, message):
    find = launch.importlib.util.find_spec
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    code, _, err = trimtab("launch", recipe(own, tmp_path), *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_machines_with_too_few_gpus_or_without_nccl_are_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert launch.check_machine(4, "FSDP2") == 4
    with pytest.raises(ProcessError, match="--devices 8: this machine has 4; give --devices 4 or fewer"):
        launch.check_machine(8, "DDP")
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(ProcessError, match="this torch was built without NCCL"):
        launch.check_machine(4, "DDP")


def test_a_dry_run_prints_file_and_command_and_writes_nothing(trimtab, own, tmp_path):
    code, out, _ = trimtab("launch", recipe(own, tmp_path), "--devices", "2", "--dry-run", "seed=3")
    assert code == 0
    name, *_ = out.splitlines()
    command = next(line for line in out.splitlines() if "accelerate.commands.launch" in line)
    assert name == f"# {tmp_path}/run.accelerate.yaml"
    assert command.startswith("# ACCELERATE_USE_CPU=true ")
    assert command.endswith(
        f"--config_file {tmp_path}/run.accelerate.yaml -m trimtab train {tmp_path}/recipe.yaml seed=3"
    )
    written = yaml.safe_load(out)
    assert (written["distributed_type"], written["num_processes"], written["use_cpu"]) == ("MULTI_GPU", 2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_dry_run_says_what_each_device_needs_also_of_gpus_that_are_not_there(trimtab, own, tmp_path):
    code, out, _ = trimtab("launch", recipe(own, tmp_path), "--devices", "2", "--dry-run")
    assert code == 0
    assert "main memory of each process (2 devices, DDP)" in out
    assert "buffers of gradients between processes" in out
    path = recipe(own, tmp_path, training={"bf16": True})
    code, out, _ = trimtab("launch", path, "--devices", "4", "--fsdp", "--dry-run", "--gpu-memory", "24")
    assert code == 0
    assert "each cuda device (4 devices, FSDP2)" in out
    assert "not on this machine: --fsdp: accelerate has no FSDP on a CPU" in out
    assert "left of 24 GB" in out
    assert yaml.safe_load(out)["use_cpu"] is False
    assert [one.name for one in tmp_path.iterdir()] == ["recipe.yaml"]
    code, out, _ = trimtab("launch", path, "--devices", "4", "--dry-run", "--gpu-memory", "0.0001")
    assert "does not fit: missing of 0.0001 GB" in out
    code, _, err = trimtab("launch", path, "--devices", "4", "--gpu-memory", "24")
    assert (code, err.count("\n")) == (2, 1)
    assert "--gpu-memory: a run takes the devices that are there; add --dry-run" in err


def test_each_wrapper_has_its_file_and_its_command():
    fsdp = launch.accelerate_file(4, "FSDP2", on_cpu=False)
    assert (fsdp["distributed_type"], fsdp["fsdp_config"]["fsdp_version"], fsdp["use_cpu"]) == ("FSDP", 2, False)
    zero = launch.accelerate_file(4, "ZeRO-2", on_cpu=False)
    assert (zero["distributed_type"], zero["deepspeed_config"]["zero_stage"]) == ("DEEPSPEED", 2)
    settings = launch.LaunchSettings(recipe="r.yaml", devices=2, zero2=True, resume=True)
    given, command = launch.command_of(settings, Path("f.yaml"), on_cpu=True)
    assert given == {"DS_ACCELERATOR": "cpu"}
    assert command[-4:] == ["train", "r.yaml", "training.use_cpu=true", "--resume"]
    assert launch.command_of(settings, Path("f.yaml"), on_cpu=False) == ({}, [*command[:-2], "--resume"])


def test_the_traceback_of_the_launcher_is_left_out_and_the_exit_code_kept():
    found = list(launch.filtered(OF_LAUNCHER.splitlines(keepends=True)))
    assert "".join(line for line, _ in found) == "error: step 3: the loss is nan\n"
    assert found[-1][1] == 2


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "trimtab", "launch", "--devices", "2", *map(str, words)]


@pytest.mark.slow
def test_a_launch_trains_in_two_processes(own, tmp_path):
    done = subprocess.run(command(recipe(own, tmp_path), "training.max_steps=1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    first = done.stdout.splitlines()[0]
    assert first.startswith(f"DDP in 2 processes, see {tmp_path}/run.accelerate.yaml; running: ACCELERATE_USE_CPU=true")
    assert "training in 2 processes on cpu, DDP over gloo" in done.stdout
    assert "processes: 2, DDP over gloo\n" in (tmp_path / "run" / "signature.txt").read_text()
    start = events(tmp_path / "run", "start")[0]["launch"]
    assert start == {"processes": 2, "kind": "DDP", "backend": "gloo", "device": "cpu"}
    assert "in 2 processes, DDP over gloo" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_mistake_that_the_processes_find_ends_the_launch_with_its_exit_code(own, tmp_path):
    done = subprocess.run(command(recipe(own, tmp_path), "data.rows=1"), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "error: 1 training row is too few for 2 processes" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.slow
def test_ctrl_c_stops_both_processes_after_their_step(own, tmp_path):
    child = subprocess.Popen(
        command(recipe(own, tmp_path), "training.max_steps=100000", "training.save_steps=100000", "eval.every=null"),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log, until = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 200
    while time.monotonic() < until and not (log.exists() and '"event": "train"' in log.read_text()):
        time.sleep(0.5)
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=100)
    assert child.returncode == 130, err[-3000:]
    assert "stopped after step" in err
    assert "Traceback" not in err
    step = events(tmp_path / "run", "interrupted")[0]["step"]
    assert (tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" / "complete").is_file()


def test_rl_with_split_weights_is_refused_before_anything_starts(trimtab, own, tmp_path):
    tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": "1+1", "answer": "2"}] * 8)
    path = tmp_path / "recipe.yaml"
    tree = {
        "method": "grpo", "models": {"policy": str(own / "teacher")}, "data": {"train": str(tmp_path / "tasks.jsonl")},
        "reward": "exact", "output": str(tmp_path / "run"), "training": {"max_steps": 1},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(tree))
    code, _, err = trimtab("launch", path, "--devices", "8", "--fsdp", "--dry-run", "--gpu-memory", "80")
    assert (code, err.count("\n")) == (2, 1)
    assert "method grpo samples completions with the whole policy, and trains under DDP alone, not FSDP2" in err


def test_a_launcher_without_processes_yet_has_nobody_to_interrupt():
    alone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert not launch._interrupt_processes(alone.pid)
    finally:
        alone.kill()
        alone.wait()
