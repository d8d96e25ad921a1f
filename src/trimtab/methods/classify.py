"""Classify: fine-tune a classifier, or a regression on texts: the teacher of ad_kd, and the baseline without one."""

from typing import Literal

from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Requirements
from trimtab.objectives.attribution import Classify


class Config(MethodConfig):
    task: Literal["auto", "classification", "regression"] = "auto"
    """What the labels are; auto: numbers with a decimal point are a regression, all else classes."""


def build(config: Config, policy: nn.Module) -> Plan:
    return Plan(Classify(), reduction="sequence_mean")


METHOD = Method(
    paper="maximum likelihood",
    claim="An encoder with a new head learns the labels.",
    equation="L = -log p(y), or (f - y)^2 for numbers",
    config=Config,
    build=build,
    requires=Requirements("labelled", trains="classifier"),
    loop="classification",
)
