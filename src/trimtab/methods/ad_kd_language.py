"""AD-KD for models that generate: distillation in which the student's answers also rest on the prompt's same tokens."""

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Requirements, Signal, Teacher
from trimtab.objectives import divergence as d
from trimtab.objectives.answer_maps import AnswerAttribution
from trimtab.objectives.matching import Match
from trimtab.signals.attributed import AttributedTeacher

MOST_VIEWS = 4
"""each costs a double backward"""


class Config(MethodConfig):
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the divergence from the teacher; the rows' own answers have 1 - alpha."""
    divergence: Literal[
        "forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl", "akl", "todi", "abkl"
    ] = "forward_kl"
    """As of kd, with its defaults; forward_kl has the gradient of the paper's cross-entropy with the teacher."""
    temperature: float = Field(2.0, gt=0)
    """Of the divergence; the loss is not rescaled by its square."""
    beta: float = Field(1.0, ge=0)
    """Weight of the distance of the attribution maps; 0 is plain distillation."""
    positions: int | None = Field(None, ge=1, le=MOST_VIEWS)
    """Attribute single next tokens, at so many answer tokens drawn from each row; null for the answer as a whole."""
    candidates: int = Field(1, ge=1, le=MOST_VIEWS)
    """The teacher's most likely next tokens at each of these positions; positions x candidates is at most 4."""
    top: int | None = Field(None, ge=1)
    """Count only so many dimensions of each token in the teacher's map, those with the largest values; null for all."""
    norm: Literal[1, 2] = 2
    """p of the norm along the prompt's tokens, to which each map is scaled."""
    distance: Literal["square", "absolute", "smooth_l1"] = "square"
    """Distance of two maps at a token."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.beta > 0, "a beta above 0", "positions", "candidates", "top", "norm", "distance")
        self.only(self.positions is not None, "positions", "candidates")
        self.only(self.alpha > 0, "an alpha above 0", "divergence", "temperature")
        views = (self.positions or 1) * self.candidates
        if views > MOST_VIEWS:
            raise ValueError(
                f"positions x candidates is {views}, and each of these views costs a double backward; take at most "
                f"{MOST_VIEWS}"
            )
        return self


def build(config: Config, policy: nn.Module, teacher: Signal) -> Plan:
    objective = Match(
        getattr(d, config.divergence), config.temperature, 1 - config.alpha, ranks=config.divergence == "akl"
    )
    if not config.beta:
        return Plan(objective, signals=(teacher,))
    reads = AttributedTeacher(teacher, config.positions, config.candidates, config.top, config.norm)  # type: ignore[arg-type]
    return Plan(objective, signals=(reads,), auxiliary=AnswerAttribution(config.beta, config.norm, config.distance))


def _requirements(config: Config) -> Requirements:
    return Requirements(models=(Teacher(inside=config.beta > 0),))


METHOD = Method(
    paper="arXiv:2305.10010",
    claim="A student that attributes its answers to its teacher's tokens of the prompt learns why, and not what alone.",
    equation="L = mean_t [(1 - a) (-log q(y_t)) + a D(p_t, q_t)] + b sum_views mean_tokens d(s, t), s = |A| / ||A||, "
    "A = E * d log q(y | x) / dE",
    config=Config,
    build=build,
    requires=_requirements,
)
