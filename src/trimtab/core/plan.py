"""A method, its settings, and the plan that it builds for one run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    window: tuple[int, int] | None = None
    """(updates, times): the rows of so many updates are gone through so often before the next rows come"""

    def __post_init__(self) -> None:
        provided = frozenset().union(*(signal.provides for signal in self.signals))
        missing = sorted(self.objective.needs - provided)
        if missing:
            raise PlanError(
                f"{type(self.objective).__name__} needs the signal{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                f"the plan provides: {', '.join(sorted(provided)) or 'none'}"
            )
        if self.objective.per == "sequence" and self.reduction == "token_mean":
            raise PlanError(f"{type(self.objective).__name__} has one value a sequence: no mean over tokens")


@dataclass(frozen=True)
class Wants:
    """What a method needs of models and rows before its plan can be built."""

    roles: frozenset[str] = frozenset()
    """models besides the policy that a recipe must name, such as "teacher\""""
    start: bool = False
    """log-probabilities under the model that training starts from, as the signal "reference"; a recipe may name
    another model for it"""
    identity_layer: bool = False
    """an identity layer is put before the first one, and nothing else is trained"""
    pairs: bool = False
    """rows with a chosen and a rejected answer"""
    every_token: bool = False
    """prompts are learnt from like answers"""
    columns: tuple[str, ...] = ()
    """columns of the rows with one number for each answer token"""
    reward_model: bool = False
    """what is trained scores tokens and is no policy: held-out rows are judged by the objective"""
    scalar_head: bool = False
    """a head that gives each token one score takes the place of the language model's"""
    outcomes: bool = False
    """rows with a `label` that says whether the answer is right"""
    steps: bool = False
    """rows of TRL's stepwise type: `completions`, and a label for each"""


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
    wants: Wants | Callable[[Any], Wants] = Wants()
    """fixed, or by the method's settings"""

    def wanted(self, config: MethodConfig) -> Wants:
        """What these settings need."""
        return self.wants if isinstance(self.wants, Wants) else self.wants(config)
