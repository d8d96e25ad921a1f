"""The list of checks for GPUs runs, on the CPU, and says what failed and what could not be run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.append(str(SCRIPTS))


@pytest.fixture
def kit(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS.parent / "benchmarks"))
    import gpu_checks

    return gpu_checks


def results(kit, folder: Path, words: list[str], budget: float = 60) -> dict[str, tuple[str, str]]:
    context = kit.Context(torch.device("cpu"), True)
    found = kit.carried_out(words, context, folder / "cpu" / "checks.json", budget)
    assert json.loads((folder / "cpu" / "checks.json").read_text())["checks"] == found
    return {one["check"]: (one["result"], one["detail"]) for one in found}


def test_there_are_thirty_checks_and_each_method_has_one(kit):
    assert len(kit.CASES) >= 30
    assert sum(name.endswith("equal the CPU's") for name in kit.CASES) >= 20


def test_numbers_are_held_against_the_cpu_and_what_needs_a_gpu_is_not_run(kit, tmp_path):
    found = results(kit, tmp_path, ["draws", "head and loss", "kd: loss", "sdpa", "early", "flash", "FSDP2", "fp16"])
    for name, (result, detail) in found.items():
        wanted = ("not run", "on the CPU") if "flash" in name or name == "FSDP2" else ("ok", detail)
        assert (result, detail) == wanted, name
    assert found["fp16"][1].startswith("refused: training.fp16=True needs a GPU")


def test_what_does_not_hold_is_a_failure_and_a_spent_budget_is_not(kit, tmp_path, monkeypatch):
    def wrong(context):
        raise AssertionError("apart by 1")

    monkeypatch.setitem(kit.CASES, "draws equal the CPU's", wrong)
    assert results(kit, tmp_path, ["draws"]) == {"draws equal the CPU's": ("FAILED", "AssertionError: apart by 1")}
    spent = results(kit, tmp_path, ["draws"], budget=-1)
    assert spent["draws equal the CPU's"][0] == "not run"


@pytest.mark.slow  # runs of tiny recipes, two processes, and torch.compile
def test_the_whole_list_holds_on_the_cpu(tmp_path):
    words = [sys.executable, str(SCRIPTS / "gpu_checks.py"), "--device", "cpu", "--tiny", "--budget", "1000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, "--results-dir", str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout
    assert " 0 failed" in done.stdout
