"""DPO: prefer the chosen answer over the rejected one, relative to the initial policy."""

from pydantic import Field
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Reference, Requirements
from trimtab.objectives.preference import DPO
from trimtab.signals.columns import Column
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy


class Config(MethodConfig):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference; smaller values let the policy move further."""


def build(config: Config, policy: nn.Module, reference: FrozenModel | InitialPolicy | Column) -> Plan:
    return Plan(DPO(config.beta), signals=(reference,), reduction="sequence_mean")


METHOD = Method(
    paper="arXiv:2305.18290",
    claim="Aligns a model with preferences, without a reward model and without sampling.",
    equation="L = -log sigma(beta (sum_t log pi/pi_ref(chosen) - sum_t log pi/pi_ref(rejected)))",
    config=Config,
    build=build,
    requires=Requirements(rows="pairs", models=(Reference(),)),
)
