"""MCC-KD: learn several rationales of a teacher, and give the same answer after whichever of them."""

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Requirements
from trimtab.core.batch import COMPARED
from trimtab.core.pairs import PairedObjective
from trimtab.objectives.consistency import Consistency
from trimtab.objectives.likelihood import Likelihood
from trimtab.signals.columns import Column


class Config(MethodConfig):
    alpha: float = Field(0.1, ge=0)
    """Weight of the consistency term; 0 is fine-tuning on the rationales (multi-CoT SFT), the paper's baseline."""
    temperature: float = Field(1.0, gt=0)
    """Both distributions over the answer are softmax(logits / temperature)."""
    smoothing_eps: float | None = Field(None, gt=0, lt=1)
    """Add this to every probability before the logarithm, as the authors' code does with 7e-5; for reproduction only,
    as it makes the distributions mostly uniform."""
    temperature_on: Literal["both", "target"] = "both"
    """Divide the logits of both distributions by the temperature, or of the target alone (the authors' code)."""
    direction: Literal["both", "from_first"] = "both"
    """KL in both directions with gradient to both sides; or from the rationale that stands earlier in the row, which
    is the target and gets no gradient."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.alpha > 0, "an alpha above 0", "temperature", "smoothing_eps", "temperature_on", "direction")
        self.only(self.temperature != 1, "a temperature other than 1", "temperature_on")
        return self


def build(config: Config, policy: nn.Module) -> Plan:
    consistency = Consistency(
        config.alpha, temperature=config.temperature, smoothing_eps=config.smoothing_eps,
        temperature_on=config.temperature_on, direction=config.direction,
    )  # fmt: skip
    objective = PairedObjective(Likelihood(), consistency)
    return Plan(objective, signals=(Column(COMPARED),), reduction="pair_mean")


METHOD = Method(
    paper="arXiv:2310.14747",
    claim="Learning from several rationales a question, with the same answer after each, generalises better than one.",
    equation="L = (CE_a + CE_b) / 2 + alpha (KL(p_b || p_a) + KL(p_a || p_b)) / 2, p at the tokens of the answer",
    config=Config,
    build=build,
    requires=Requirements(rows="rationales"),
)
