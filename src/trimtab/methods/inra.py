"""InRa: train one inserted layer by SFT, DPO or from a fused teacher, and dial its strength at decoding time."""

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import Aligned, Method, MethodConfig, Plan, Reference, Requirements
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match
from trimtab.objectives.preference import dpo_plan
from trimtab.signals.fused import FusedTeacher


class Config(MethodConfig):
    loss: Literal["sft", "dpo", "trra"] = "sft"
    """How the layer is trained: on answers, on preferences, or on the mixed logits of `reference` and `aligned`."""
    beta: float = Field(0.005, gt=0)
    """Beta of DPO; only with loss dpo."""
    strength: float = Field(1.0, allow_inf_nan=False)
    """Strength of the fused teacher; only with loss trra."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.loss == "dpo", "loss: dpo", "beta")
        self.only(self.loss == "trra", "loss: trra", "strength")
        return self


def build(config: Config, policy: nn.Module, reference: Any = None, aligned: Any = None) -> Plan:
    if config.loss == "sft":
        return Plan(Likelihood())
    if config.loss == "dpo":
        return dpo_plan(config, policy, reference)
    return Plan(Match(forward_kl), signals=(FusedTeacher(reference, aligned, config.strength),))


def requires(config: Config) -> Requirements:
    match config.loss:
        case "trra":
            models = (Reference(reads="distribution", named=True), Aligned())
            return Requirements(trains="identity_layer", models=models)
        case "dpo":
            return Requirements(rows="pairs", trains="identity_layer", models=(Reference(),))
    return Requirements(trains="identity_layer")


METHOD = Method(
    paper="arXiv:2506.12704",
    claim="One layer in front of the first one carries a behaviour whose strength is chosen at decoding time.",
    equation="L = SFT, DPO or KL(fused || pi) on the identity layer;  z = (1 - lambda) z_unaligned + lambda z_aligned",
    config=Config,
    build=build,
    requires=requires,
)
