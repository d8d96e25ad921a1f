"""Processes that a launcher started and that form no group are refused before anything is written."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_folder
from trimtab.common import processes
from trimtab.common.processes import (
    ProcessError,
    check_alone,
    check_group,
    dealt,
    ended_tidily,
    launched,
    rank,
    started_with,
    until_stopped,
)

ACCELERATE = {"ACCELERATE_DYNAMO_BACKEND": "NO", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "2"}, 2),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, 3),
        ({"WORLD_SIZE": "1", "PMI_SIZE": "8"}, 1),
        ({"WORLD_SIZE": ""}, 1),
    ],
)
def test_what_a_launcher_started_is_counted(environment, number):
    assert launched(environment) == number


def test_a_group_of_another_size_than_was_launched_is_refused():
    check_group(2, {"WORLD_SIZE": "2", **ACCELERATE})
    check_group(1, {"WORLD_SIZE": "1"})
    with pytest.raises(ProcessError, match="2 processes were launched .* group has 1: .*ACCELERATE_USE_CPU"):
        check_group(1, {"WORLD_SIZE": "2"})
    with pytest.raises(ProcessError, match="1 process was launched .* group has 2"):
        check_group(2, {})


def test_accelerate_that_started_one_process_of_several_is_refused():
    with pytest.raises(ProcessError, match="several processes but started one"):
        check_group(1, ACCELERATE)
    check_group(1, {"ACCELERATE_DYNAMO_BACKEND": "NO"})  # it was asked for one
    check_group(1, {"MASTER_ADDR": "a", "MASTER_PORT": "1"})  # a cluster sets these by itself


def test_a_rank_that_another_launch_left_behind_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert rank() == 1
    with pytest.raises(ProcessError, match="RANK is 1 but there is only 1 process"):
        check_group(1)


def test_other_commands_work_in_one_process(monkeypatch):
    check_alone("eval")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProcessError, match="trimtab eval runs in one process, but 2 processes were launched"):
        check_alone("eval")


def recipe(files: Path, folder: Path) -> Path:
    tree = tiny_folder.recipe(files, "sft", output=str(folder / "run"), training={"max_steps": 1})
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize("command", ["train", "precompute"])
def test_nothing_is_written_by_processes_without_a_group(trimtab, files, tmp_path, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "RANKS", ())  # of this one
    more = [] if command == "train" else ["--out", tmp_path / "rows.jsonl"]
    code, _, err = trimtab(command, recipe(files, tmp_path), *more)
    assert (code, err.count("\n")) == (2, 1), err
    assert "2 processes were launched" in err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_run_says_in_how_many_processes_it_trains(trimtab, files, tmp_path):
    code, out, _ = trimtab("train", recipe(files, tmp_path))
    assert code == 0
    assert "training in 1 process on cpu" in out
    assert "processes: 1\n" in (tmp_path / "run" / "signature.txt").read_text()


def test_a_process_that_its_launcher_ends_cleans_up(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, ended_tidily():
        os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_server_cleans_up_when_its_terminal_is_closed_unless_that_is_to_be_survived(monkeypatch):
    """nohup lets SIGHUP be ignored."""
    with pytest.raises(SystemExit) as end, until_stopped("the server"):
        os.kill(os.getpid(), signal.SIGHUP)
    assert end.value.code == 128 + signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with until_stopped("the server"):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_launchers_on_a_cpu_are_refused_where_they_make_no_group(files, tmp_path, launcher):
    words = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "trimtab"],
        "accelerate": ["accelerate.commands.launch", "--num_processes", "2", "--cpu", "-m", "trimtab"],
    }[launcher]
    command = [sys.executable, "-m", *words, "train", str(recipe(files, tmp_path))]
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode != 0
    assert "error: " in done.stderr
    assert ("2 processes were launched" if launcher == "torchrun" else "but started one") in done.stderr
    assert not (tmp_path / "run").exists()


def test_every_process_is_dealt_as_many_places_and_together_they_have_all():
    assert dealt(5, (0, 2)) == [0, 2, 4]
    assert dealt(5, (1, 2)) == [1, 3, 0]  # 0 a second time
    assert dealt(1, (2, 3)) == [0]
    assert dealt(4, (0, 1)) == [0, 1, 2, 3]
    assert dealt(0, (0, 2)) == []


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "trimtab train r.yaml a=1 training.use_cpu=true"),
        ({"WORLD_SIZE": "2"}, "trimtab launch r.yaml --devices 2 a=1 training.use_cpu=true"),
        (
            {"WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true"},
            "trimtab launch r.yaml --devices 4 --fsdp a=1 training.use_cpu=true",
        ),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}, "trimtab launch r.yaml --devices 2 --zero2 a=1"),
    ],
)
def test_the_command_that_starts_a_training_again_is_one_that_trimtab_takes(environment, words):
    assert " ".join(started_with("r.yaml", ["a=1", "training.use_cpu=true"], environment)) == words
