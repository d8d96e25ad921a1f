"""The recipe's `rollouts`: what samples the completions that a method learns from."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trimtab.runs.models_key import Dtype, RecipeSection

if TYPE_CHECKING:
    from trimtab.runs.recipe import Recipe

OF_GENERATE = ("generation_kwargs", "cache_implementation", "use_transformers_continuous_batching")
"""training arguments that only transformers' generation reads"""
OF_ENGINE = "vllm_importance_sampling_"
"""how those begin that only an engine's rollouts read"""


def _address(given: Any) -> Any:
    if isinstance(given, str) and not given.startswith(("http://", "https://")):
        raise ValueError(f"no address; write http://{given.rpartition('://')[2] or 'HOST:PORT'}")
    return given


class RolloutsKey(RecipeSection):
    """What samples the completions."""

    engine: Literal["generate", "vllm"] = "generate"
    """`generate`: the policy itself, in the training process. `vllm`: a server that was started with `vllm serve`; it
    gets the weights before each batch of rollouts, and its log-probabilities are compared with the policy's then."""
    server: Annotated[str | None, BeforeValidator(_address)] = None
    """Of vllm: its address, `http://HOST:PORT`."""
    weights_folder: str = "/dev/shm/trimtab-weights"
    """Of vllm: a folder that trainer and server share, for weights as files; the server is started with
    TRIMTAB_WEIGHTS_FOLDER set to it. Not used by a server that takes weights by NCCL."""
    dtype: Dtype | None = None
    """Of vllm: what the server is to compute in; that of training by default (bfloat16 with training.bf16, otherwise
    models.dtype)."""
    tolerance: float | None = Field(None, gt=0)
    """Of vllm: nats between the log-probabilities of server and policy after a transfer of weights, averaged over
    tokens, above which the run ends; null: 0.001 in float32, 0.12 in bfloat16, 0.05 in float16."""
    wait: float = Field(60.0, ge=0)
    """Of vllm: seconds to wait for a server that is not up, at the start and when it is gone during training."""
    timeout: float = Field(600.0, gt=0)
    """Of vllm: seconds to wait for the answer to one request, such as all completions of a prompt."""


def fault(recipe: "Recipe", loop: str) -> str | None:
    """Why `rollouts` does not fit the rest of the recipe; None if it does."""
    rollouts, training = recipe.rollouts, recipe.training
    set_here = sorted(rollouts.model_fields_set)
    if loop != "rollouts":
        if not set_here or rollouts == RolloutsKey.model_validate({}):
            return None
        return f"method {recipe.method} samples no completions; leave out rollouts"
    if rollouts.engine != "vllm":
        idle = [key for key in set_here if key != "engine" and getattr(rollouts, key) != _default(key)]
        if idle:
            return f"rollouts.{idle[0]} is read by rollouts.engine: vllm alone; add that, or leave it out"
        if corrected := [key for key in training if key.startswith(OF_ENGINE)]:
            return (
                f"training.{corrected[0]} corrects for an engine, and the policy samples its completions itself; leave "
                "it out, or give rollouts.engine: vllm"
            )
        return None
    if rollouts.server is None:
        return "rollouts.engine: vllm asks a server; add rollouts.server: http://HOST:PORT"
    for key in OF_GENERATE:
        if training.get(key):
            return f"training.{key} is an argument of transformers' generate, which vLLM does not know; leave it out"
    return None


def _default(key: str) -> Any:
    return RolloutsKey.model_fields[key].default


def said(recipe: "Recipe", args: Any) -> str | None:
    """For signatures; None where the policy samples itself.

    Args:
        args: the GRPOConfig.
    """
    if recipe.rollouts.engine != "vllm":
        return None
    from trimtab.train.importance import correction_of

    return f"vllm in {computes_in(recipe)}, correction {correction_of(args) or 'none'}"


def computes_in(recipe: "Recipe") -> str:
    """The dtype of an engine."""
    training = recipe.training
    own = "bfloat16" if training.get("bf16") else "float16" if training.get("fp16") else recipe.models.dtype
    return recipe.rollouts.dtype or own
