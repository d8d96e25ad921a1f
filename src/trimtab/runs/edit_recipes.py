"""Editors as recipes: what each method of `trimtab edit` trains, on which rows, with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.data import edit_rows
from trimtab.data.edits import Edit

EditMethod = Literal["etcon", "locft_bf", "ft_m", "lora"]
EDIT_STAGES: dict[EditMethod, tuple[str, ...]] = {
    "etcon": ("tpsft", "consolidate"), "locft_bf": ("edit",), "ft_m": ("edit",), "lora": ("edit",),
}  # fmt: skip
"""method -> the runs of a step; the last one's model is the step's"""
PLAIN = {"lr_scheduler_type": "constant", "max_grad_norm": 1.0, "bf16": False, "gradient_checkpointing": False,
         "max_length": 1024, "save_strategy": "steps", "save_steps": 50, "save_total_limit": 1}  # fmt: skip
BATCH = 8
"""edits of a mini-batch"""


@dataclass(frozen=True)
class EditStage:
    """A recipe of a step, and its rows."""

    name: str
    tree: dict[str, Any]
    rows: list[dict[str, Any]]


def early_layers(total: int) -> list[int]:
    """Layers 4 to 8 of 32, where locate-then-edit methods change facts, and the same share of fewer layers."""
    first = round(4 * total / 32)
    return [first, max(first, round(8 * total / 32))]


def stages_of(
    method: EditMethod, model: str, edits: Sequence[Edit], thoughts: Sequence[str], *, layers: int, chat: bool,
    folder: Path, seed: int,
) -> list[EditStage]:  # fmt: skip
    """The recipes of one step, in their order.

    Args:
        model: to start from.
        thoughts: of `etcon`, a chain for each edit; may be empty.
        layers: number of the model's layers.
        chat: whether the tokenizer has a chat template.
        folder: of the step; its rows and runs lie there.

    `ft_m` is masked cross-entropy in what writes the MLP's output of the last layer, 25 updates a step; `locft_bf` the
    same weights, 25 epochs over mini-batches of the step's edits; `lora` cross-entropy with adapters everywhere;
    `etcon` PSFT on the model's own chains in the early layers, then GRPO with the reward edit.
    """
    size = min(BATCH, len(edits))
    late = {"mlp": layers - 1, "parts": ["down_proj"]}
    learn = edit_rows.answers(edits, chat)
    name, *later = EDIT_STAGES[method]
    if method == "ft_m":
        training = {"max_steps": 25, "learning_rate": 5.0e-4, "per_device_train_batch_size": size}
        tree = {"method": "sft", "scope": late, "training": training}
    elif method == "locft_bf":
        training = {"num_train_epochs": 25, "learning_rate": 5.0e-4, "per_device_train_batch_size": size}
        tree = {"method": "sft", "scope": late, "training": training}
    elif method == "lora":
        training = {"num_train_epochs": 25, "learning_rate": 1.0e-3, "per_device_train_batch_size": size}
        lora = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
        tree = {"method": "sft", "scope": "lora", "models": {"lora": lora}, "training": training}
    else:
        refresh = 8
        rows = edit_rows.chains(edits, thoughts, chat)
        learn = rows * -(-refresh * size // len(rows))  # a window meets each edit several times
        tree = {
            "method": "psft",
            "options": {"epsilon": 0.28, "refresh": refresh},
            "scope": {"mlp": early_layers(layers), "parts": ["down_proj"]},
            "training": {"max_steps": 40, "learning_rate": 1.0e-3, "per_device_train_batch_size": size},
        }
    found = [_stage(name, tree, learn, model, folder, seed)]
    if method == "etcon":
        grpo = {
            "method": "grpo",
            "options": {"epsilon": 0.2, "epsilon_high": 0.3, "dual_clip": 3.0, "kl": 0.01, "kl_form": "paper",
                        "kl_max": 10.0, "eps": 1.0e-6, "mean": "token"},
            "reward": [{"name": "edit", "correct": 0.85}],
            "training": {"max_steps": 20, "learning_rate": 1.0e-5, "num_generations": 10, "weight_decay": 0.01,
                         "per_device_train_batch_size": 10 * min(4, len(edits)), "max_completion_length": 128,
                         "top_p": 0.99},
        }  # fmt: skip
        found.append(_stage(later[0], grpo, edit_rows.tasks(edits, chat), f"{folder}/{name}/model", folder, seed))
    return found


def _stage(
    name: str, tree: dict[str, Any], rows: list[dict[str, Any]], model: str, folder: Path, seed: int
) -> EditStage:
    plain = dict(PLAIN)
    if tree["method"] == "grpo":
        del plain["max_length"]
    whole = {
        **tree,
        "models": {"policy": model, **tree.get("models", {})},
        "data": {"train": f"{folder}/{name}.jsonl", "max_dropped": 0.0},
        "training": {**plain, **tree["training"]},
        "seed": seed,
        "output": f"{folder}/{name}",
    }
    return EditStage(name, whole, rows)
