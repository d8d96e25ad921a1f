"""What the experiments on language models share: training without a run folder, held-out prompts, greedy answers."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from trimtab.core import Plan
from trimtab.data.synthetic import everyday
from trimtab.data.tokens import encode_prompts
from trimtab.runs.job import Job
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe
from trimtab.train import settings
from trimtab.train.trainer import ObjectiveTrainer


def where_first(path: Sequence[Mapping[str, float]], measure: str, wanted: float) -> dict[str, float] | None:
    """All measures where a path first reaches a value of one, on the straight line between the two points around it;
    None if it never does."""
    for before, behind in itertools.pairwise(path):
        if behind[measure] >= wanted:
            share = (wanted - before[measure]) / (behind[measure] - before[measure])
            return {name: (1 - share) * before[name] + share * behind[name] for name in before}
    return None


TRAINING = {
    "per_device_train_batch_size": 8,
    "max_grad_norm": 1.0,
    "warmup_steps": 2,
    "lr_scheduler_type": "cosine",
    "max_length": 256,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
}
"""Settings of the trainer that the tiny recipes share."""


def recipe(name: str, tree: dict[str, Any]) -> Recipe:
    """What `trimtab train` would be given, with the training of the tiny recipes below its own."""
    parsed = parse({**tree, "training": TRAINING | tree.get("training", {})}, name, name)
    assert isinstance(parsed, Recipe)
    return parsed


def train(job: Job, plan: Plan | None = None, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """Carry out the training of a job, and nothing else that a run does."""
    trainer = ObjectiveTrainer(
        model=job.policy,
        args=settings.build(job.recipe.training, Path(job.recipe.output), job.recipe.seed),
        plan=plan or job.plan,
        train_dataset=Dataset.from_list(job.train.rows),
        processing_class=job.tokenizer,
        data_collator=job.collator,
        window=job.window,
    )
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()


def prompts(number: int) -> list[str]:
    """Of the held-out rows of `trimtab:everyday`."""
    asked = [next(m["content"] for m in row["messages"] if m["role"] == "user") for row in everyday("heldout")]
    return list(dict.fromkeys(asked))[:number]


@torch.no_grad()
def answers(
    model: Any, tokenizer: Any, asked: list[str], new: int, at_once: int = 12, **options: Any
) -> list[list[int]]:
    """Ids of each greedy answer, without what follows its end."""
    found = []
    for start in range(0, len(asked), at_once):
        inputs = encode_prompts(tokenizer, asked[start : start + at_once])
        width = inputs["input_ids"].size(1)
        output = model.generate(**inputs, max_new_tokens=new, do_sample=False, **options)
        for row in output[:, width:].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            found.append(row[:end])
    return found
