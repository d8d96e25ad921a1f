"""DPO: prefer the chosen answer over the rejected one, relative to the initial policy."""

from typing import Any

from pydantic import Field
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Reference, Requirements, Signal
from trimtab.objectives.preference import DPO


class Config(MethodConfig):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference; smaller values let the policy move further."""


def build(config: Any, policy: nn.Module, reference: Signal) -> Plan:
    """The plan of any config with a `beta`."""
    return Plan(DPO(config.beta), signals=(reference,), reduction="sequence_mean")


METHOD = Method(
    paper="arXiv:2305.18290",
    claim="Aligns a model with preferences, without a reward model and without sampling.",
    equation="L = -log sigma(beta (sum_t log pi/pi_ref(chosen) - sum_t log pi/pi_ref(rejected)))",
    config=Config,
    build=build,
    requires=Requirements(rows="pairs", models=(Reference(),)),
)
