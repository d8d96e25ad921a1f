"""Tasks of the gym about rewards, preferences, distillation and scaffolds: what is malformed, hostile or good."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_gym import engine
from trimtab.common import user_code
from trimtab.common.errors import UserError
from trimtab.gym.evaluation import GymScores, evaluate
from trimtab.gym.judging import Rejected, Submitted
from trimtab.gym.submissions import pack
from trimtab.gym.task import TASKS, load_task
from trimtab.gym.workspace import Workspace

NAMES = ("sc-tool", "rw-pref")


@pytest.fixture(autouse=True)
def _folders_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def scored(folder: Path, name: str, files: dict[str, str | bytes | Path], seed: int = 0) -> GymScores:
    """What these outputs alone score."""
    task = load_task(TASKS / name).seeded(seed)
    workspace = Workspace.create(folder / "workspace")
    for path, content in files.items():
        data = content.read_bytes() if isinstance(content, Path) else content
        workspace.write(path, data.encode() if isinstance(data, str) else data)
    try:
        return evaluate(task, pack(workspace, task.settings.outputs)[0], engine())
    finally:
        workspace.remove()


def rejection(folder: Path, name: str, files: dict[str, str | bytes]) -> str:
    """Why these outputs are rejected: by the evaluator in this process, which is quicker."""
    task = load_task(TASKS / name)
    for path, content in files.items():
        place = folder / "outputs" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    environment = task.settings.environment
    submitted = Submitted(
        folder / "outputs", task.hidden, task.folder, engine(), task.settings.limits, environment=environment
    )
    with pytest.raises(Rejected) as caught:
        submitted.module("evaluator.py").validate(submitted)
    return str(caught.value)


def solution(name: str, which: str) -> dict[str, Path]:
    folder = load_task(TASKS / name).solution(which)
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_small_free_and_explains_itself(name):
    task = load_task(TASKS / name)
    assert task.settings.licence == "CC0-1.0"
    files = [path for path in task.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 300_000
    assert task.hint
    for metric in task.settings.metrics:
        assert f"`{metric.name}`" in task.description
    for output in task.settings.outputs:
        assert f"`{output}`" in task.description
        assert (task.workspace / output).is_file(), "the workspace begins with the baseline"


SCAFFOLDS = {
    "\0\xff": "no UTF-8 text",
    "": "ended early: ImportError: cannot import name 'solve'",
    "raise KeyError('x')": "ended early: KeyError: 'x'",
    "def solve(question, ask):\n    raise KeyError('no line')": "failed at every order; .*KeyError: 'no line'",
    "def solve(question, ask):\n    while True: ask(question)": "it asked more often than allowed",
    "import os\nos.write(3, b'[1]\\n')\ndef solve(question, ask): pass": "neither a prompt nor an answer",
}


@pytest.mark.parametrize("text", SCAFFOLDS)
def test_a_scaffold_that_fails_is_rejected_with_the_reason(tmp_path, text):
    assert re.search(SCAFFOLDS[text], rejection(tmp_path, "sc-tool", {"outputs/scaffold.py": text.encode("latin-1")}))


def test_totals_that_are_no_sums_of_money_are_wrong_and_no_fault_of_the_evaluator(tmp_path):
    text = "def solve(question, ask):\n    return [10**400, True, float('nan'), -1e999][hash(question) % 4]\n"
    found = scored(tmp_path, "sc-tool", {"outputs/scaffold.py": text})
    assert (found.metrics, found.message) == ({"success": 0.0}, "")


@pytest.mark.parametrize("text", ["", "null", "[1, 2", "[1, NaN]", "[1, true, {}]", "[1e999, 1]", f"[1, 1{'0' * 400}]"])
def test_anything_but_a_finite_number_for_each_reply_is_rejected(text):
    evaluator = user_code.load(str(TASKS / "rw-pref" / "evaluator.py"), "evaluator", "", "", UserError)
    with pytest.raises(Rejected, match="not 2 finite scores for 2 replies"):
        evaluator.numbers(text.encode(), 2)
    assert evaluator.numbers(b"[1, 0.5]", 2) == [1.0, 0.5]


@pytest.mark.slow
def test_features_that_raise_are_rejected_with_the_reason(tmp_path):
    text = "def features(prompt, response): return [1 / 0]"
    assert "ended with 1: ZeroDivisionError" in rejection(tmp_path, "rw-pref", {"outputs/features.py": text})


@pytest.mark.slow
def test_the_order_of_replies_tells_nothing(tmp_path):
    text = "import json, os\njson.dump(list(range(6000)), open('scores.json', 'w'))\nos._exit(0)\n"
    found = scored(tmp_path, "rw-pref", {"outputs/features.py": text})
    assert found.metrics["accuracy"] == pytest.approx(0.5, abs=0.05)


def test_the_pairs_of_the_workspace_are_those_of_the_script():
    folder = TASKS / "rw-pref"
    ran = subprocess.run([sys.executable, folder / "hidden" / "pairs.py"], capture_output=True, check=True)
    assert ran.stdout == (folder / "workspace" / "pairs.jsonl").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_outputs_that_are_missing_score_0_with_the_reason(tmp_path, name):
    found = scored(tmp_path, name, {})
    assert (found.score, found.private_score) == (0, 0)
    assert f"{load_task(TASKS / name).settings.outputs[0]} is missing" in found.message


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_baseline_scores_0_and_the_reference_80(tmp_path, name):
    for which, points, off in (("baseline", 0, 5), ("reference", 80, 8)):
        found = scored(tmp_path / which, name, solution(name, which))
        assert found.private_score == pytest.approx(points, abs=off), found
