"""A trainer with a tiny policy and rows, for tests of what happens from one update to the next."""

from typing import Any

from datasets import Dataset

import tiny
from trimtab.core import Plan
from trimtab.data.collate import Collator
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.likelihood import Likelihood
from trimtab.train import settings
from trimtab.train.trainer import ObjectiveTrainer


def dataset() -> Dataset:
    """Eight ragged rows."""
    batch = tiny.rows(((3, 5), (1, 1), (2, 2), (4, 7), (2, 9), (1, 3), (5, 1), (3, 2)))
    made = []
    for i in range(8):
        length = int(batch.attention_mask[i].sum())
        ids, labels = batch.input_ids[i, :length].tolist(), batch.labels[i, :length].tolist()
        made.append({"input_ids": ids, "labels": labels, "row_id": i})
    return Dataset.from_list(made)


def trainer(
    folder,
    plan: Plan | None = None,
    policy=None,
    rows=None,
    dropout: bool | None = None,
    window=None,
    packing=None,
    **training: Any,
) -> ObjectiveTrainer:
    """One SGD step over all rows unless told otherwise; `training` are TRL's arguments."""
    policy, plan = policy or tiny.model("llama_tied"), plan or Plan(Likelihood())
    add_objective_forward(policy)
    training = {
        "per_device_train_batch_size": 8,
        "max_steps": 1,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "use_cpu": True,
        **training,
    }
    tokenizer = tiny.tokenizer(["<unk>", *(f"w{i}" for i in range(tiny.VOCAB - 1))])
    tokenizer.pad_token = tokenizer.eos_token = "<unk>"
    return ObjectiveTrainer(
        model=policy,
        args=settings.build(settings.check(training), folder, seed=0),
        plan=plan,
        train_dataset=rows or dataset(),
        processing_class=tokenizer,
        data_collator=Collator(0, tiny.VOCAB),
        dropout=dropout,
        window=window,
        packing=packing,
    )
