"""Runs that learn from completions of the policy, on tiny tasks."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

import tiny_folder
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


def lay_out(folder: Path) -> Path:
    """Everything that `tree` and `with_models` name, but reward models."""
    tiny_folder.lay_out(folder)
    tasks = [{"prompt": f"count {i}", "answer": str(i)} for i in range(16)]
    tiny_folder.write_jsonl(folder / "tasks.jsonl", tasks)
    (folder / "own.py").write_text(REWARD)
    tiny_folder.save(folder / "other", seed=5)
    return folder


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
            "learning_rate": 0.1,
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


def reward_models(files: Path, folder: Path) -> dict[str, str]:
    """Reward models that start from the policy: method -> folder."""
    rows = {
        "q_rm": tiny_folder.pair_rows(8),
        "ipvrm": [{**row, "label": i % 2} for i, row in enumerate(tiny_folder.chat_rows(8))],
    }
    found = {}
    for name, own in rows.items():
        made = tiny_folder.recipe(files, name, output=str(folder / name), eval={"every": None, "prompts": []})
        made["models"] = {"policy": str(files / "teacher")}
        made["data"] = {"train": tiny_folder.write_jsonl(folder / f"{name}.jsonl", own)}
        made["training"] |= {"max_steps": 2, "save_steps": 2}
        found[name] = str(run(made) / "model")
    return found


WITH_MODELS = {
    "ppo": {
        "method": "ppo",
        "options": {"token_reward": "outcome", "advantage": "gae", "kl_coef": 0.1, "critic_learning_rate": 0.01},
    },
    "ppo of scores": {"method": "ppo", "options": {"critic_learning_rate": 0.01}, "credit": "q_rm"},
    "reinforce of scores": {
        "method": "reinforce",
        "options": {"token_reward": "tokens", "center": True},
        "credit": "q_rm",
    },
    "distrl": {"method": "distrl", "options": {"online": "frozen"}, "credit": "ipvrm"},
    "distrl, kl": {
        "method": "distrl",
        "options": {"kl": 0.1, "kl_threshold": 0.0, "max_accuracy": 0.9},
        "credit": "ipvrm",
    },
    "distrl, online": {
        "method": "distrl",
        "options": {"online": "before", "online_learning_rate": 0.01},
        "credit": "ipvrm",
    },
    "distrl, online pairs": {
        "method": "distrl",
        "options": {"online": "after", "online_loss": "dpo_rm", "online_learning_rate": 0.01},
        "credit": "ipvrm",
    },
    "lco of a model": {"method": "lco", "options": {"advantage": "q_rm", "num_candidates": 3}, "credit": "ipvrm"},
    "lco of log-ratios": {
        "method": "lco",
        "options": {"advantage": "dpo_rm", "candidates": "policy", "loss": "mse"},
        "credit": "ipvrm",
    },
    "opd": {"method": "opd", "teacher": True},
}


def with_models(
    files: Path, judges: dict[str, str], name: str, output: Path, methods: dict[str, Any] | None = None
) -> dict[str, Any]:
    told = (methods or WITH_MODELS)[name]
    made = tree(files, output, told["method"], options=told.get("options", {}))
    if "credit" in told:
        made["models"]["reward_model"] = judges[told["credit"]]
    if "teacher" in told:
        made["models"]["teacher"] = str(files / "other")
    made["training"] |= {"max_steps": 4}
    made["eval"] = {"answers": 1}
    return made
