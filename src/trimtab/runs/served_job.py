"""A job whose completions come from a server."""

from typing import Any

from trimtab.runs import rollouts_key
from trimtab.runs.job import Job
from trimtab.train.rollouts import RolloutTrainer, how_generated


def how_sampled(job: Job, args: Any, generation: Any) -> str:
    """How completions are generated, in words."""
    recipe = job.recipe
    if recipe.rollouts.engine != "vllm":
        return how_generated(args, generation)
    said = str(rollouts_key.said(recipe, args)).removeprefix("vllm ")
    return f"by the vLLM server at {recipe.rollouts.server} {said}"


def rollout_trainer(job: Job, **given: Any) -> RolloutTrainer:
    """The trainer of the recipe's engine."""
    recipe = job.recipe
    if recipe.rollouts.engine != "vllm":
        return RolloutTrainer(**given)
    from trimtab.train.served import How
    from trimtab.train.served_trainer import ServedRolloutTrainer

    key = recipe.rollouts
    assert key.server is not None
    how = How(key.server, key.weights_folder, key.wait, key.timeout, rollouts_key.computes_in(recipe), key.tolerance)
    longest = max(map(len, job.train.prompts), default=0) + job.args.max_completion_length
    return ServedRolloutTrainer(**given, how=how, longest=longest)
