"""A method, its settings, and the plan that it builds for one run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from trimtab.core.loss import Objective, Reduction


class PlanError(ValueError):
    """A plan whose parts do not fit together."""


class MethodConfig(BaseModel):
    """Settings of a method: unknown keys are errors, the text under a field is its help."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class Provider(Protocol):
    """The part of a signal that a plan checks (see `trimtab.signals.base.Signal`)."""

    provides: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """All that a loop needs to know: which objective, fed by which signals, divided how."""

    objective: Objective
    signals: Sequence[Provider] = ()
    callbacks: Sequence[Any] = ()
    """transformers callbacks, for signals that change during training"""
    reduction: Reduction = "token_mean"

    def __post_init__(self) -> None:
        provided = frozenset().union(*(signal.provides for signal in self.signals))
        missing = sorted(self.objective.needs - provided)
        if missing:
            raise PlanError(
                f"{type(self.objective).__name__} needs the signal{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                f"the plan provides: {', '.join(sorted(provided)) or 'none'}"
            )
        if self.objective.per != "token":
            raise PlanError(
                f"{type(self.objective).__name__} is an objective per {self.objective.per}; "
                "the engine takes objectives per token"
            )


@dataclass(frozen=True)
class Method:
    """What a file in `methods/` exports as METHOD."""

    paper: str
    """"arXiv:..." or the name of the source"""
    claim: str
    """what the paper says it does, in one sentence"""
    equation: str
    """the loss of one token, as plain text"""
    config: type[MethodConfig]
    build: Callable[..., Plan]
    """build(config, policy, **models) -> Plan"""
    roles: frozenset[str] = field(default_factory=frozenset)
    """models besides the policy that a recipe must name, such as "teacher\""""
