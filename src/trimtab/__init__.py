"""trimtab: controlled change of language models after pre-training.

    import trimtab

    result = trimtab.train("tiny_kd", training={"max_steps": 20}, output="runs/kd")
    trimtab.evaluate(result.folder / "model", ["geomrel"], limit=20)

Everything in `__all__` is public, and is imported on first use.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.commands.edit import edit_model as edit
    from trimtab.commands.evaluate import evaluate_model as evaluate
    from trimtab.commands.train import train_recipe as train
    from trimtab.common.errors import UserError
    from trimtab.core import (
        AdvantageEstimator,
        Aligned,
        Candidates,
        Critic,
        Losses,
        Method,
        MethodConfig,
        Objective,
        Plan,
        Reference,
        Requirements,
        RewardModel,
        Rollouts,
        Signal,
        Teacher,
        TokenBatch,
        WeakPair,
    )
    from trimtab.runs.parse import load_recipe
    from trimtab.runs.recipe import RecipeError
    from trimtab.runs.run import Result

__all__ = [
    "AdvantageEstimator",
    "Aligned",
    "Candidates",
    "Critic",
    "Losses",
    "Method",
    "MethodConfig",
    "Objective",
    "Plan",
    "RecipeError",
    "Reference",
    "Requirements",
    "Result",
    "RewardModel",
    "Rollouts",
    "Signal",
    "Teacher",
    "TokenBatch",
    "UserError",
    "WeakPair",
    "edit",
    "evaluate",
    "load_recipe",
    "train",
]
_ELSEWHERE = {
    "RecipeError": "trimtab.runs.recipe:RecipeError",
    "Result": "trimtab.runs.run:Result",
    "UserError": "trimtab.common.errors:UserError",
    "edit": "trimtab.commands.edit:edit_model",
    "evaluate": "trimtab.commands.evaluate:evaluate_model",
    "load_recipe": "trimtab.runs.parse:load_recipe",
    "train": "trimtab.train:",  # the folder of the loops, which can be called
}
"""Where to find the names that are not in `trimtab.core`."""

__version__ = "0.1.0"

SPINS = 2000
"""How often an idle OpenMP thread polls for work before it goes to sleep.

GNU's OpenMP, which torch is built with on Linux, takes 300,000: best on an idle machine, but beside another job
the waiting threads hold the cores that the working ones need. `benchmarks/shared_cores.py` measures both situations."""


def calm_threads() -> None:
    """Let idle OpenMP threads sleep early, unless the user has set how they wait or torch is already loaded."""
    if "torch" not in sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


calm_threads()


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    module, _, attribute = _ELSEWHERE.get(name, f"trimtab.core:{name}").partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
