"""TrRa: bake any alignment strength into the weights by distilling the mixed logits of two models."""

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import Aligned, Method, MethodConfig, Plan, Reference, Requirements
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.matching import Match
from trimtab.objectives.positions import PositionAxis
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.fused import FusedTeacher
from trimtab.signals.positions import WithPositionSums


class Config(MethodConfig):
    strength: float = Field(1.5, allow_inf_nan=False)
    """Strength (lambda): 0 is the reference, 1 the aligned model; values beyond extrapolate."""
    mask: Literal["completion", "all"] = "completion"
    """Which tokens are trained on: those of the answers, or of the prompts too (the authors' code)."""
    compat: Literal["position_axis"] | None = None
    """`position_axis`: the authors' code, whose softmax runs over the positions of a text instead of the vocabulary. It
    does not reach the fused teacher; for reproduction only."""
    nll_coef: float = Field(0.0, ge=0)
    """Coefficient of an added mean negative log-likelihood of the tokens."""

    @model_validator(mode="after")
    def _masks_nothing(self) -> "Config":
        if self.compat and self.mask != "all":
            raise ValueError(f"compat={self.compat} masks nothing; add mask=all")
        self.only(self.compat is None, "the loss over tokens (compat: null)", "nll_coef")
        return self


def build(config: Config, policy: nn.Module, reference: FrozenModel, aligned: FrozenModel) -> Plan:
    teacher = FusedTeacher(reference, aligned, config.strength)
    if config.compat:
        return Plan(PositionAxis(), signals=(WithPositionSums(teacher),), reduction="sequence_mean")
    return Plan(Match(forward_kl, nll_coef=config.nll_coef), signals=(teacher,))


METHOD = Method(
    paper="arXiv:2506.12704",
    claim="Reaches any strength between and beyond two models without repeating the alignment.",
    equation="L_t = KL(softmax((1 - lambda) h_reference + lambda h_aligned) || pi) - nll_coef log pi(y_t)",
    config=Config,
    build=build,
    requires=lambda config: Requirements(
        rows="every_token" if config.mask == "all" else "answers",
        models=(Reference(reads="distribution", named=True), Aligned()),
    ),
)
