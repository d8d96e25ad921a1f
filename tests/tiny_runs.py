"""Runs of tiny recipes, whole and killed: what tests of run folders share."""

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from safetensors.torch import load_file

import tiny_folder

QUIET = Console(quiet=True)


def recipe(files: Path, output: Path, method: str = "hpd", **changes):
    from trimtab.runs.parse import parse

    return parse(tiny_folder.recipe(files, method, output=str(output), **changes), "test", "run")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def events(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def cut_off(whole: Path, folder: Path, step: int) -> None:
    """A copy of a finished run as it was when it was killed after the checkpoint of a step."""
    shutil.copytree(whole, folder)
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(checkpoint)
    shutil.rmtree(folder / "model")
    (folder / "report.html").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["event"] != "finished"))
    text = (folder / "recipe.yaml").read_text().replace(str(whole), str(folder))
    (folder / "recipe.yaml").write_text(text)


def in_child(script: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own that may be killed. It is forked, so that nothing is imported again.

    Args:
        script: source; `sys.argv[1:]` are `words`.
        folder: for what it prints.

    Returns:
        As `subprocess.run`: a negative return code is the signal that ended it.
    """
    streams = [folder / "child.out", folder / "child.err"]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(script, words, streams)
    _, status = os.waitpid(child, 0)
    out, err = (path.read_text(errors="replace") for path in streams)
    return subprocess.CompletedProcess([script, *words], os.waitstatus_to_exitcode(status), out, err)


def _be_child(script: str, words: tuple[str, ...], streams: list[Path]) -> NoReturn:
    code = 1
    try:
        for number, path in enumerate(streams, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["driver.py", *words]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.simplefilter("ignore")
        exec(compile(script, "driver.py", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


DRIVER = """
import os, signal, sys
import torch, yaml
from rich.console import Console
from trimtab.common import errors
from trimtab.runs import evaluation, saving
from trimtab.runs import run as r
from trimtab.models import loading
from trimtab.runs.parse import parse
from trimtab.train.base import ObjectiveLoop
torch.set_num_threads(1)
what, tree = sys.argv[1], yaml.safe_load(open(sys.argv[2]))
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
kind, _, step = what.partition(":")
step = int(step or 0)
if kind == "step":
    def training_step(self, *a, **k):
        if self.state.global_step == step: kill()
        return super(ObjectiveLoop, self).training_step(*a, **k)
    ObjectiveLoop.training_step = training_step
if kind == "save":
    def half(self, folder):
        torch.save(self.optimizer.state_dict(), folder + "/optimizer.pt")
        kill() if self.state.global_step == step else None
        self.lr_scheduler and torch.save(self.lr_scheduler.state_dict(), folder + "/scheduler.pt")
    ObjectiveLoop._save_optimizer_and_scheduler = half
if kind == "log":
    plain_log = ObjectiveLoop.log
    def log(self, logs, *a):
        plain_log(self, logs, *a)
        if self.state.global_step == step:
            open(tree["output"] + "/metrics.jsonl", "a").write('{"event": "tr')
            kill()
    ObjectiveLoop.log = log
if kind == "eval":
    plain_measure, calls = evaluation.heldout.measure, []
    def measure(*a):
        calls.append(1)
        kill() if len(calls) > step else None
        return plain_measure(*a)
    evaluation.heldout.measure = measure
if kind == "final":
    saving._replace = lambda part, folder: kill()
if kind == "interrupt":
    def training_step(self, *a, **k):
        if self.state.global_step == step and not getattr(self, "sent", False):
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)
        return super(ObjectiveLoop, self).training_step(*a, **k)
    ObjectiveLoop.training_step = training_step
try:
    r.run(parse(tree, "test", "run"), resume="--resume" in sys.argv, console=Console(quiet=True))
except errors.Interrupted as stop:
    print(stop)
    sys.exit(130)
"""


def _asked(tmp_path: Path, tree: dict[str, Any], what: str, *flags: str) -> list[str]:
    (tmp_path / "recipe.json").write_text(json.dumps(tree))
    return [what, str(tmp_path / "recipe.json"), *flags]


def drive(tmp_path: Path, tree: dict[str, Any], what: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """The run in a process of its own, which kills itself where `what` says."""
    return in_child(DRIVER, *_asked(tmp_path, tree, what, *flags), folder=tmp_path)


def driving(tmp_path: Path, tree: dict[str, Any], what: str, *flags: str) -> list[str]:
    """The command of that run in a fresh Python."""
    (tmp_path / "driver.py").write_text(DRIVER)
    return [sys.executable, str(tmp_path / "driver.py"), *_asked(tmp_path, tree, what, *flags)]
