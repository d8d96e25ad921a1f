"""What fails outside is one line with what is kept and a way on; a mistake of the code keeps its traceback."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import tiny_folder
from trimtab import cli
from trimtab.common import failures
from trimtab.common.errors import FailedOutside
from trimtab.runs.parse import parse
from trimtab.runs.run import run
from trimtab.train.base import ObjectiveLoop


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


def recipe(files: Path, folder: Path) -> Path:
    tree = tiny_folder.recipe(files, "sft", output=str(folder / "run"), training={"max_steps": 3, "save_steps": 1})
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return path


def raising(monkeypatch, error: Exception) -> None:
    """At the third step, of which two are saved."""
    plain = ObjectiveLoop.training_step

    def step(self, *args, **kwargs):
        if self.state.global_step == 2:
            raise error
        return super(ObjectiveLoop, self).training_step(*args, **kwargs)

    assert plain is not step
    monkeypatch.setattr(ObjectiveLoop, "training_step", step)


@pytest.mark.fast("error6*")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "CUDA error: an illegal memory access"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "per_device_train_batch_size"),
        (MemoryError(), "out of memory"),
        (OSError(errno.EROFS, "Read-only file system", "/somewhere/file"), "read-only file system (/somewhere/file)"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "connection reset by peer"),
        (
            Exception("No space left on device (os error 28)"),
            "No space left on device (os error 28); kept: ",
        ),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "Read-only file system (os error 30)"),
    ],
)
def test_what_fails_outside_costs_one_line_and_the_run_continues(trimtab, files, tmp_path, monkeypatch, error, said):
    with monkeypatch.context() as patched:
        raising(patched, error)
        code, _, err = trimtab("train", recipe(files, tmp_path))
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith(f"error: {tmp_path}/run: ")
    assert said in err
    assert f"kept: {tmp_path}/run/checkpoints/checkpoint-2; " in err
    command = f"trimtab train {recipe(files, tmp_path)} --resume"
    assert f"continue with: {command} (TRIMTAB_TRACEBACK=1 shows where)" in err
    code, _, err = trimtab(*command.split()[1:])
    assert code == 0, err


@pytest.mark.fast("error0")
@pytest.mark.parametrize(
    "error",
    [
        KeyError("nothing"),
        RuntimeError("The size of tensor a (3) must match b (4)"),
        ValueError("3 scores and 4 marks"),
    ],
)
def test_a_mistake_of_the_code_keeps_its_traceback_and_asks_for_a_report(trimtab, files, tmp_path, monkeypatch, error):
    raising(monkeypatch, error)
    code, _, err = trimtab("train", recipe(files, tmp_path))
    assert code == 1
    assert "Traceback" in err
    assert "test_failures.py" in err
    assert "checkpoint-2; have that fixed, and continue with: trimtab train " in err
    last = err.rstrip().splitlines()[-1]
    assert last.startswith(f"error: a bug in trimtab or in a library that it uses ({type(error).__name__}: ")
    assert "please report it" in last


def test_the_traceback_is_shown_on_request(trimtab, files, tmp_path, monkeypatch):
    raising(monkeypatch, MemoryError())
    monkeypatch.setenv("TRIMTAB_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["trimtab", "train", str(recipe(files, tmp_path))])
    with pytest.raises(FailedOutside, match="out of memory"):
        cli.main()


def test_an_error_of_a_tracker_names_it(files, tmp_path, monkeypatch):
    """As far as its code lies among the installed packages."""
    package = tmp_path / "site-packages" / "tracker"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def log():\n    raise LookupError('no such project')\n")
    monkeypatch.setattr(
        failures.sysconfig, "get_paths", lambda: dict.fromkeys(("purelib", "platlib"), str(package.parent))
    )
    monkeypatch.syspath_prepend(str(package.parent))
    import tracker  # type: ignore[import-not-found]

    raising(monkeypatch, LookupError("no such project"))
    monkeypatch.setattr(ObjectiveLoop, "training_step", lambda *args, **kwargs: tracker.log())
    made = parse(json.loads(recipe(files, tmp_path).read_text()), "test", "run")
    with pytest.raises(FailedOutside, match="tracker failed: LookupError: no such project; there is nothing to resume"):
        run(made)


def test_user_mistakes_do_not_name_the_traceback(trimtab, files, tmp_path):
    _, _, err = trimtab("train", recipe(files, tmp_path), "data.train=nowhere.jsonl")
    assert "TRACEBACK" not in err


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a file system")
def test_a_file_system_that_becomes_read_only(files, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        words = [sys.executable, "-m", "trimtab", "train", str(recipe(files, tmp_path)), f"output={place}/run"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 2
        assert "cannot be written: read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(place)], check=True)
