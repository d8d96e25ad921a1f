"""Disks that are full, folders that are gone, places that cannot be: one line that says what is kept, and a way on."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import tiny_folder
from tiny_runs import drive, in_child, same_weights
from trimtab.common.disk import FULL, check_writable, made, reason, writing_to

DRIVER = """
import os, resource, sys
import torch, yaml
from rich.console import Console
from trimtab.runs import run as r
from trimtab.runs.parse import parse
from trimtab.train.base import ObjectiveLoop
torch.set_num_threads(1)
kind, step, path = sys.argv[1:4]
tree = yaml.safe_load(open(path))

def happens():
    if kind == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
    if kind == "no room for a log":
        size = os.path.getsize(tree["output"] + "/metrics.jsonl")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, resource.RLIM_INFINITY))
    if kind == "gone":
        os.rename(tree["output"], tree["output"] + ".away")
    if kind == "a file":
        os.rename(tree["output"] + "/checkpoints", tree["output"] + "/other")
        open(tree["output"] + "/checkpoints", "w").close()

plain = ObjectiveLoop.training_step
def training_step(self, *a, **k):
    if self.state.global_step == int(step) and not getattr(self, "met", False):
        self.met = True
        happens()
    return super(ObjectiveLoop, self).training_step(*a, **k)
ObjectiveLoop.training_step = training_step
if step == "-1":
    save = r.save_model
    r.save_model = lambda *a: (happens(), save(*a))
try:
    r.run(parse(tree, "test", "run"), resume="--resume" in sys.argv, console=Console(quiet=True))
except ValueError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(2)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def finished(files) -> Path:
    from rich.console import Console

    from trimtab.runs.parse import parse
    from trimtab.runs.run import run

    tree = tiny_folder.recipe(files, "sft", output=str(files / "finished"))
    return run(parse(tree, "test", "run"), console=Console(quiet=True)).folder


def met(tmp_path: Path, tree: dict, kind: str, step: int) -> tuple[int, str]:
    """Exit code and output of a run that meets something at a step; -1: when the model is saved."""
    (tmp_path / "recipe.json").write_text(json.dumps(tree))
    done = in_child(DRIVER, kind, str(step), str(tmp_path / "recipe.json"), folder=tmp_path)
    return done.returncode, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("kind", "step", "kept"),
    [
        ("full", 3, "kept: {}/checkpoints/checkpoint-2; make room, and continue with: {}"),
        pytest.param("full", 1, "there is nothing to resume in {}: make room, and start over", marks=pytest.mark.slow),
        pytest.param(
            "full", -1, "kept: {}/checkpoints/checkpoint-6; make room, and continue with: {}", marks=pytest.mark.slow
        ),
        pytest.param(
            "no room for a log",
            4,
            "kept: {}/checkpoints/checkpoint-4; make room, and continue with: {}",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_full_disk_costs_one_line_that_says_what_is_kept_and_the_run_continues(
    finished, files, tmp_path, kind, step, kept
):
    tree = tiny_folder.recipe(files, "sft", output=str(tmp_path / "run"))
    code, said = met(tmp_path, tree, kind, step)
    assert code == 2, said
    line = said.splitlines()[0]
    assert line.startswith(f"FailedOutside: {tmp_path / 'run'}: ")
    folder = tmp_path / "run"
    assert line.endswith(f"; {kept.format(folder, f'trimtab train {folder}/recipe.yaml --resume')}")
    resumed = drive(tmp_path, tree, "none", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert same_weights(tmp_path / "run", finished)


@pytest.mark.slow
def test_a_folder_that_is_gone_is_not_made_anew_for_the_rest(files, tmp_path):
    tree = tiny_folder.recipe(files, "sft", output=str(tmp_path / "run"))
    tree["training"]["logging_steps"] = 100  # the next thing that is written is a checkpoint
    tree["eval"]["every"] = None
    code, said = met(tmp_path, tree, "gone", 3)
    assert code == 2, said
    assert "is gone" in said
    assert said.strip().endswith(f"there is nothing to resume in {tmp_path}/run: fix that, and start over")
    assert not (tmp_path / "run").exists()
    shutil.move(tmp_path / "run.away", tmp_path / "run")
    assert drive(tmp_path, tree, "none", "--resume").returncode == 0


@pytest.mark.slow
def test_a_file_in_the_place_of_a_folder_is_named(files, tmp_path):
    tree = tiny_folder.recipe(files, "sft", output=str(tmp_path / "run"))
    code, said = met(tmp_path, tree, "a file", 3)
    assert code == 2, said
    assert f"({tmp_path / 'run' / 'checkpoints'}" in said
    assert "there is nothing to resume in " in said


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_small_file_system_that_fills_up(finished, files, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        tree = tiny_folder.recipe(files, "sft", output=str(small / "run"))
        done = drive(tmp_path, tree, "none")
        assert done.returncode != 0
        assert "; make room, and continue with: trimtab train " in done.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        resumed = drive(tmp_path, tree, "none", "--resume")
        assert resumed.returncode == 0, resumed.stderr[-2000:]
        assert same_weights(small / "run", finished)
    finally:
        subprocess.run(["umount", str(small)], check=True)


PLACES = {
    "cannot be made": lambda folder: "/proc/nowhere/run",
    "a name too long": lambda folder: folder / ("r" * 300),
    "below a file": lambda folder: folder / "file" / "run",
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("command", ["train", "eval", "collect", "generate", "precompute", "clean", "score"])
def test_a_place_that_cannot_be_is_one_line_before_a_model_is_loaded(
    trimtab, files, tmp_path, monkeypatch, kind, command
):
    from trimtab.models import loading

    def load(*args, **kwargs):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(loading, "load_model", load)
    (tmp_path / "file").write_text("mine")
    place = PLACES[kind](tmp_path)
    model = str(files / "teacher")
    source = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "1+1?", "answer": "2"}])
    pairs = tiny_folder.write_jsonl(tmp_path / "pairs.jsonl", tiny_folder.pair_rows(3))
    method, train = ("dpo", pairs) if command == "precompute" else ("sft", str(files / "train.jsonl"))
    tree = {"method": method, "models": {"policy": model}, "data": {"train": train}, "output": str(place)}
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    before = sorted(tmp_path.rglob("*"))
    rows = f"{place}.jsonl"
    words = {
        "train": [tmp_path / "recipe.yaml"],
        "eval": ["multiple_choice", f"multiple_choice.file={choices(files)}", "--model", model, "--out", place],
        "collect": [source, "--model", model, "--out", place],
        "generate": ["--model", model, "--prompt", "a", "--out", rows],
        "precompute": [tmp_path / "recipe.yaml", "--out", rows],
        "clean": [choices(files), "--out", rows],
        "score": [pairs, "--model", model, "--out", place],
    }[command]
    code, _, err = trimtab(command, *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert str(place)[:60] in err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


def choices(files: Path) -> str:
    path = files / "choices.jsonl"
    return tiny_folder.write_jsonl(path, [{"question": "1+1?", "options": ["1", "2"], "answer": "B"}])


def test_errors_of_libraries_name_the_path_and_say_whether_there_is_room(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="os error 2"), writing_to(tmp_path / "checkpoint"):
        save_file({"a": torch.zeros(3)}, tmp_path / "nowhere" / "a.safetensors")
    with pytest.raises(OSError, match="directory") as raised, writing_to(tmp_path / "checkpoint"):
        torch.save({}, tmp_path / "nowhere" / "a.pt")
    assert raised.value.filename == str(tmp_path / "checkpoint")
    assert raised.value.errno not in FULL
    with pytest.raises(OSError, match="enforce") as raised, writing_to(tmp_path / "checkpoint"):
        raise RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/3")
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as raised, writing_to(tmp_path / "a"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert reason(raised.value, tmp_path / "a") == "no space left on device"
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=4096 if place.is_dir() else 1 << 40))
    with pytest.raises(OSError) as raised, writing_to(tmp_path / "a" / "b"):
        raise RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/3")
    assert reason(raised.value, tmp_path / "a" / "b") == "no space left on device"
    with pytest.raises(RuntimeError, match="^CUDA out of memory"), writing_to(tmp_path):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(OSError) as raised, writing_to(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert reason(raised.value) == f"no space left on device ({tmp_path / 'a'})"
    assert reason(raised.value, tmp_path / "a") == "no space left on device"


def test_trying_a_place_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b", ValueError, "choose another")
    assert not list(tmp_path.iterdir())
    with made(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").write_text("")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


@pytest.mark.slow
def test_a_pipe_that_nobody_reads_ends_a_run_with_a_line_and_it_continues(finished, files, tmp_path):
    tree = tiny_folder.recipe(files, "sft", output=str(tmp_path / "run"))
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    command = [sys.executable, "-m", "trimtab", "train", str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait() == 2
    assert err.strip().splitlines()[-1].startswith("error: the output was closed by its reader; ")
    assert f"trimtab train {tmp_path / 'recipe.yaml'}" in err
    assert "Traceback" not in err
    assert drive(tmp_path, tree, "none", "--resume").returncode == 0
    assert same_weights(tmp_path / "run", finished)
