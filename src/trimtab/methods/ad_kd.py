"""AD-KD: a student classifier learns its teacher's probabilities, and to rest its decisions on the same tokens."""

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Requirements, Signal, Teacher
from trimtab.objectives.attribution import AttributionDistillation


class Config(MethodConfig):
    task: Literal["auto", "classification", "regression"] = "auto"
    """What the labels are; auto: as the teacher was trained."""
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the teacher's soft labels; the rows' own labels have 1 - alpha."""
    temperature: float = Field(2.0, gt=0)
    """Of the soft labels; the loss is not rescaled by its square."""
    anneal: bool = False
    """Lower the temperature to 1 from the first epoch to the last."""
    beta: float = Field(1.0, ge=0)
    """Weight of the distance of the attribution maps; 0 is plain distillation."""
    top: int | None = Field(None, ge=1)
    """Count only so many dimensions of each token in the teacher's map, those with the largest values; null for all."""
    steps: int = Field(1, ge=1)
    """Points of the integrated gradients; at 1 a gradient times the embeddings."""
    norm: Literal[1, 2] = 2
    """p of the norm along the tokens, to which each map is scaled."""
    distance: Literal["square", "absolute", "smooth_l1"] = "square"
    """Distance of two maps at a token."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.beta > 0, "a beta above 0", "top", "steps", "norm", "distance")
        self.only(self.alpha > 0, "an alpha above 0", "temperature", "anneal")
        return self


def build(config: Config, policy: nn.Module, teacher: Signal) -> Plan:
    objective = AttributionDistillation(
        config.alpha, config.beta, config.temperature, anneal=config.anneal, top=config.top, steps=config.steps,
        norm=config.norm, kind=config.distance,
    )  # fmt: skip
    return Plan(objective, signals=(teacher,), reduction="sequence_mean")


METHOD = Method(
    paper="arXiv:2305.10010",
    claim="A student that attributes its decisions to its teacher's tokens overfits less to spurious cues.",
    equation="L = (1 - a) L_task + a L_soft + b sum_views mean_tokens d(s, t), with s and t the maps |A| / ||A||",
    config=Config,
    build=build,
    requires=Requirements("labelled", trains="classifier", models=(Teacher(),)),
    loop="classification",
)
