"""DPO: prefer the chosen answer over the rejected one, relative to the initial policy."""

from pydantic import Field

from trimtab.core import Method, MethodConfig, Reference, Requirements
from trimtab.objectives.preference import dpo_plan


class Config(MethodConfig):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference; smaller values let the policy move further."""


METHOD = Method(
    paper="arXiv:2305.18290",
    claim="Aligns a model with preferences, without a reward model and without sampling.",
    equation="L = -log sigma(beta (sum_t log pi/pi_ref(chosen) - sum_t log pi/pi_ref(rejected)))",
    config=Config,
    build=dpo_plan,
    requires=Requirements(rows="pairs", models=(Reference(),)),
)
