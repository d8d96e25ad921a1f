"""A trainer on rollouts from a server, for tests."""

from typing import Any

from tiny_rollout_trainer import SETTINGS, count_of_a, dataset
from trimtab.core import Plan
from trimtab.models.forward import add_objective_forward
from trimtab.train import settings
from trimtab.train.served import How
from trimtab.train.served_trainer import ServedRolloutTrainer


def served_trainer(
    folder: Any, plan: Plan, model: Any, tokenizer: Any, how: How, *, longest: int = 32, **changes: Any
) -> ServedRolloutTrainer:
    add_objective_forward(model.get_base_model() if hasattr(model, "merge_adapter") else model)
    return ServedRolloutTrainer(
        model=model,
        args=settings.build(settings.check({**SETTINGS, **changes}, "rollouts"), folder, 0, "rollouts"),
        plan=plan,
        reward_funcs=[count_of_a],
        train_dataset=dataset(),
        processing_class=tokenizer,
        correct=(1.0,),
        how=how,
        longest=longest,
    )
