"""A trainer on rollouts of a tiny policy, whose advantage estimator keeps what it is given."""

from datasets import Dataset

import tiny
import tiny_folder
from trimtab.core import AdvantageEstimator, Plan
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.advantages import group_normalised
from trimtab.objectives.policy_gradient import PolicyGradient
from trimtab.train import settings
from trimtab.train.rollouts import RolloutTrainer


class Grouped(AdvantageEstimator):
    """GRPO's; keeps what it was given."""

    def __init__(self, candidates: int = 0, needs: frozenset = frozenset()):
        self.candidates, self.needs, self.seen = candidates, needs, []

    def __call__(self, rollouts):
        self.seen.append(rollouts)
        found = {"advantages": rollouts.of_token(group_normalised(rollouts.rewards, rollouts.group))}
        return found if rollouts.candidates is None else {**found, "candidates": rollouts.candidates}


def count_of_a(prompts, completions, completion_ids, **columns):
    """Counts tokens below 100, so that untrained models have something to gain."""
    return [float(sum(token < 100 for token in ids)) for ids in completion_ids]


def policy(seed: int = 0):
    model = tiny.model(
        "llama_tied", seed, vocab_size=tiny_folder.VOCAB, eos_token_id=0, pad_token_id=0, bos_token_id=None,
        initializer_range=0.1, max_position_embeddings=512,
    )  # fmt: skip
    model.generation_config.eos_token_id = 0
    return model


def dataset(rows: int = 8) -> Dataset:
    prompts = [[{"role": "user", "content": "x" * (i % 5 + 1)}] for i in range(rows)]
    return Dataset.from_list([{"prompt": prompt, "row_id": i} for i, prompt in enumerate(prompts)])


SETTINGS = {
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 6,
    "max_steps": 1,
    "learning_rate": 0.5,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "save_strategy": "no",
    "use_cpu": True,
}


def trainer(folder, plan: Plan, model=None, watch=None, rewards=None, correct=(1.0,), **changes) -> RolloutTrainer:
    model = model or policy()
    add_objective_forward(model)
    return RolloutTrainer(
        model=model,
        args=settings.build(settings.check({**SETTINGS, **changes}, "rollouts"), folder, 0, "rollouts"),
        plan=plan,
        reward_funcs=rewards or [count_of_a],
        train_dataset=dataset(),
        processing_class=tiny_folder.byte_tokenizer(),
        watch=watch,
        correct=correct,
    )


def grpo(**estimator) -> Plan:
    return Plan(PolicyGradient(0.2, 0.2), advantages=Grouped(**estimator))
