"""Tasks of the gym about rewards, preferences, distillation and scaffolds: what is malformed, hostile or good."""

import base64
import random
import re
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tiny_gym import Content, rejection, scored_outputs
from trimtab.common import user_code
from trimtab.common.errors import UserError
from trimtab.gym.evaluation import GymScores
from trimtab.gym.judging import Rejected
from trimtab.gym.solutions import solution_files
from trimtab.gym.task import TASKS, load_task

NAMES = ("sc-tool", "rw-pref", "rw-format", "ls-distill")


@pytest.fixture(autouse=True)
def _folders_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def scored(folder: Path, name: str, files: Mapping[str, Content], seed: int = 0) -> GymScores:
    return scored_outputs(folder, load_task(TASKS / name).seeded(seed), files)


def rejected(folder: Path, name: str, files: Mapping[str, Content]) -> str:
    return rejection(folder, load_task(TASKS / name), files)


def loaded(name: str, path: str) -> ModuleType:
    return user_code.load(str(TASKS / name / path), "task", path, path, UserError)


def solution(name: str, which: str) -> dict[str, Path]:
    return solution_files(load_task(TASKS / name), which)


@pytest.mark.parametrize("name", NAMES)
def test_the_workspace_begins_with_the_baseline(name):
    task = load_task(TASKS / name)
    for output in task.settings.outputs:
        assert f"`{output}`" in task.description
        assert (task.workspace / output).is_file()


SCAFFOLDS = {
    "\0\xff": "no UTF-8 text",
    "": "ended early: ImportError: cannot import name 'solve'",
    "def solve(question, ask):\n    raise KeyError('no line')": "failed at every order; .*KeyError: 'no line'",
    "def solve(question, ask):\n    while True: ask(question)": "it asked more often than allowed",
    "import os\nos.write(3, b'[1]\\n')\ndef solve(question, ask): pass": "neither a prompt nor an answer",
}


@pytest.mark.parametrize("text", SCAFFOLDS)
def test_a_scaffold_that_fails_is_rejected_with_the_reason(tmp_path, text):
    assert re.search(SCAFFOLDS[text], rejected(tmp_path, "sc-tool", {"outputs/scaffold.py": text.encode("latin-1")}))


def test_totals_that_are_no_sums_of_money_are_wrong_and_no_fault_of_the_evaluator(tmp_path):
    text = "def solve(question, ask):\n    return [10**400, True, float('nan'), -1e999][hash(question) % 4]\n"
    found = scored(tmp_path, "sc-tool", {"outputs/scaffold.py": text})
    assert (found.metrics, found.message) == ({"success": 0.0}, "")


@pytest.mark.parametrize("text", ["", "null", "[1, 2", "[1, NaN]", "[1, true, {}]", "[1e999, 1]", f"[1, 1{'0' * 400}]"])
def test_anything_but_a_finite_number_for_each_reply_is_rejected(text):
    evaluator = loaded("rw-pref", "evaluator.py")
    with pytest.raises(Rejected, match="not 2 finite scores for 2 replies"):
        evaluator.numbers(text.encode(), 2)
    assert evaluator.numbers(b"[1, 0.5]", 2) == [1.0, 0.5]


@pytest.mark.slow
def test_features_that_raise_are_rejected_with_the_reason(tmp_path):
    text = "def features(prompt, response): return [1 / 0]"
    assert "ended with 1: ZeroDivisionError" in rejected(tmp_path, "rw-pref", {"outputs/features.py": text})


@pytest.mark.slow
def test_the_order_of_replies_tells_nothing(tmp_path):
    text = "import json, os\njson.dump(list(range(6000)), open('scores.json', 'w'))\nos._exit(0)\n"
    found = scored(tmp_path, "rw-pref", {"outputs/features.py": text})
    assert found.metrics["accuracy"] == pytest.approx(0.5, abs=0.05)


def test_the_pairs_of_the_workspace_are_those_of_the_script():
    folder = TASKS / "rw-pref"
    ran = subprocess.run([sys.executable, folder / "hidden" / "pairs.py"], capture_output=True, check=True)
    assert ran.stdout == (folder / "workspace" / "pairs.jsonl").read_bytes()


REWARDS = {
    "def reward(prompt, completion): return float('nan')": "is nan; it must be a number between",
    "def reward(prompt, completion): return 1e7": "is 10000000.0; it must be a number between",
    "def reward(prompt, completion): return completion[99]": "ended early: IndexError",
    "import os\nos.write(3, b'[1]\\n')\ndef reward(prompt, completion): return 1": "no list of 16 rewards",
}


@pytest.mark.parametrize("text", REWARDS)
def test_a_reward_that_is_no_number_is_rejected_with_the_reason(tmp_path, text):
    assert re.search(REWARDS[text], rejected(tmp_path, "rw-format", {"outputs/reward.py": text}))


def test_hacks_are_wrong_and_cheap_rewards_fall_for_them():
    evaluator, policy = loaded("rw-format", "evaluator.py"), loaded("rw-format", "workspace/policy.py")
    looks = [look for look, _ in zip(evaluator.hacks(policy, random.Random(0)), range(20))]
    baseline, reference = (loaded("rw-format", f"{one}/outputs/reward.py").reward for one in ("baseline", "reference"))
    rewards = {"length": baseline, "dense": reference, "sign error": lambda *both: -reference(*both)}
    shares = {}
    for name, reward in rewards.items():
        paid = [one for look in looks for one in evaluator.worth_as_much(look, [reward(*both) for both in zip(*look)])]
        assert len(paid) == 20 * policy.PROMPTS * (policy.SAMPLES - 1), "one completion of each prompt is right"
        shares[name] = sum(paid) / len(paid)
    assert shares["dense"] <= evaluator.HACKED < 0.5 < shares["length"] < shares["sign error"] == 1.0


@pytest.mark.slow
def test_a_sign_error_in_the_reward_leaves_nothing(tmp_path):
    text = solution("rw-format", "reference")["outputs/reward.py"].read_text()
    found = scored(
        tmp_path, "rw-format", {"outputs/reward.py": text.replace("return there", "return -1 * (there") + ")"}
    )
    assert (found.score, found.private_score) == (0, 0)
    assert found.metrics["sorted"] < 0.01


def encoded(*values: float) -> str:
    return base64.b64encode(struct.pack(f"{len(values)}f", *values)).decode()


@pytest.mark.parametrize("said", [None, [1.0, 2.0], "", "?", encoded(1.0), encoded(1.0, 2.0, 3.0)])
def test_a_gradient_of_another_shape_is_rejected(said):
    evaluator = loaded("ls-distill", "evaluator.py")
    with pytest.raises(Rejected, match="no gradient of 2 numbers"):
        evaluator.as_gradient(said, torch.zeros(1, 2))


def test_a_gradient_is_finite_and_not_huge():
    evaluator = loaded("ls-distill", "evaluator.py")
    assert evaluator.as_gradient(encoded(0.5, -1e30), torch.zeros(1, 2)).tolist() == [[0.5, -1e6]]
    with pytest.raises(Rejected, match="not finite"):
        evaluator.as_gradient(encoded(0.5, float("nan")), torch.zeros(1, 2))


def test_the_texts_of_the_workspace_are_those_of_the_script():
    language = loaded("ls-distill", "hidden/language.py")
    for name, words in language.TEXTS.items():
        assert (TASKS / "ls-distill" / "workspace" / f"{name}.bin").read_bytes() == language.text(name, words)


@pytest.mark.slow
def test_a_loss_that_raises_is_rejected_and_one_with_a_sign_error_scores_0(tmp_path):
    text = solution("ls-distill", "baseline")["outputs/loss.py"].read_text()
    told = rejected(tmp_path / "a", "ls-distill", {"outputs/loss.py": text.replace("return F", "return 1 / 0 * F")})
    assert "ended early: ZeroDivisionError" in told
    found = scored(tmp_path / "b", "ls-distill", {"outputs/loss.py": text.replace("return F", "return -F")})
    assert (found.score, found.private_score) == (0, 0)
    assert found.metrics["gap"] > 1


@pytest.mark.parametrize("name", NAMES)
def test_outputs_that_are_missing_are_rejected_by_name(tmp_path, name):
    assert rejected(tmp_path, name, {}) == f"{load_task(TASKS / name).settings.outputs[0]} is missing"


def test_what_is_rejected_scores_0_and_the_agent_is_told_why(tmp_path):
    found = scored(tmp_path, "sc-tool", {"outputs/scaffold.py": "raise KeyError('x')"})
    assert (found.score, found.private_score, found.metrics) == (0, 0, {})
    assert "ended early: KeyError: 'x'" in found.message


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_baseline_scores_0_and_the_reference_80(tmp_path, name):
    for which, points, off in (("baseline", 0, 5), ("reference", 80, 8)):
        found = scored(tmp_path / which, name, solution(name, which))
        assert found.private_score == pytest.approx(points, abs=off), found
