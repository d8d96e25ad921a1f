"""Runs that learn from completions of the policy, on tiny tasks."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from trimtab.runs import run as runs
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe

REWARD = '''
def letters(prompts, completions, completion_ids, **columns):
    """The share of tokens that are no special ones: something that an untrained model can gain."""
    return [sum(token > 130 for token in ids) / 8 for ids in completion_ids]

def keeping(prompts, completions, answer, info, row_id, **columns):
    """Writes down what it is given."""
    with open(__file__ + ".seen", "a") as out:
        for one, other, row, more in zip(answer, info, row_id, columns.get("more", [None] * len(prompts))):
            print(row, repr(one), repr(other), repr(more), file=out)
    return [float(i % 2) for i in range(len(prompts))]

def broken(prompts, completions, **columns):
    return [float("nan")] * len(prompts)
'''


def tree(files: Path, output: Path, method: str = "grpo", **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "method": method,
        "models": {"policy": str(files / "teacher")},
        "data": {"train": str(files / "tasks.jsonl"), "heldout": str(files / "tasks.jsonl"), "heldout_rows": 3},
        "reward": f"{files}/own.py:letters",
        "training": {
            "per_device_train_batch_size": 4,
            "num_generations": 4,
            "steps_per_generation": 2,
            "max_completion_length": 8,
            "max_steps": 6,
            "learning_rate": 0.02,
            "save_steps": 2,
        },
        "eval": {"every": 3, "answers": 2, "kl_to_initial": True},
        "output": str(output),
    }
    for key, value in changes.items():
        made[key] = {**made[key], **value} if isinstance(made.get(key), dict) else value
    return made


def parsed(made: dict) -> Recipe:
    recipe = parse(made, "test", "run")
    assert isinstance(recipe, Recipe)
    return recipe


def run(made: dict) -> Path:
    return runs.run(parsed(made), console=Console(quiet=True)).folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
