"""What a method asks for before its plan can be built: rows, what is trained, and models besides the policy.

The models are declared here as plain values, which say what they are called in a recipe and whether it names them.
`trimtab.runs.models` holds, for each kind, what loads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from trimtab.common.errors import UserError
from trimtab.core.loss import Reduction

STORED = "column"
"""As `models.reference` in a recipe: no model, but what one said beforehand of the answers."""

RowKind = Literal["answers", "every_token", "pairs", "outcomes", "steps"]
"""Answers to prompts; the same, with prompts learnt from like answers; a chosen and a rejected answer; answers with a
`label` that says whether they are right; answers in steps (TRL's stepwise type) with a label for each."""
Trained = Literal["policy", "identity_layer", "scorer", "scalar_head"]
"""The policy; an identity layer before its first one, and nothing else; the policy as a reward model, that scores
tokens; the same with a head that gives each token one score in the place of the language model's."""
Named = Mapping[str, str | None]
"""`models` of a recipe: what it names under each key, if anything"""


class RequirementError(UserError):
    """Requirements that contradict themselves."""


@dataclass(frozen=True)
class ModelRequirement:
    """A model besides the policy; the kinds are below."""

    keys: ClassVar[tuple[str, ...]] = ()
    """what it is called under `models` in a recipe"""
    provides: ClassVar[tuple[str, ...]] = ()
    """arguments of `Method.build` that are its signals"""

    @property
    def what(self) -> str:
        """In words, for `trimtab show`."""
        return ", ".join(self.keys)

    def fault(self, named: Named) -> str:
        """What is wrong with the models of a recipe, as the end of "method NAME ...", or nothing."""
        for key in self.keys:
            if named.get(key) is None:
                return f"needs models.{key}; add it, for example: {key}: smollm2-135m"
        return ""

    def initial(self, named: Named) -> Literal["", "read", "copied"]:
        """Whether it is the initial policy: "read" will do with what is trained switched off, "copied" needs a copy."""
        return ""


@dataclass(frozen=True)
class Teacher(ModelRequirement):
    """The frozen model that distillation learns from, as the signal "teacher"."""

    reads: Literal["distribution", "answers"] = "distribution"
    """its whole distribution, or log-probabilities of the answer tokens alone"""
    keys = provides = ("teacher",)


@dataclass(frozen=True)
class Reference(ModelRequirement):
    """The model that changes are measured from, as the signal "reference": the initial policy, unless a recipe names
    another."""

    reads: Literal["answers", "candidates", "distribution"] = "answers"
    """log-probabilities of the answer tokens [N], or of the candidates of rollouts [N, K], or the whole distribution"""
    named: bool = False
    """a recipe must name it"""
    keys = provides = ("reference",)

    @property
    def what(self) -> str:
        return "reference" if self.named else "reference (the initial policy, unless named)"

    def fault(self, named: Named) -> str:
        if named.get("reference") == STORED and self.reads != "answers":
            read = "whole distributions" if self.reads == "distribution" else "other tokens than those of the answers"
            return (
                f"reads {read} of models.reference, and a column holds only what it says of the answers; name the model"
            )
        return super().fault(named) if self.named else ""

    def initial(self, named: Named) -> Literal["", "read", "copied"]:
        return "read" if not self.named and named.get("reference") is None else ""


@dataclass(frozen=True)
class Aligned(ModelRequirement):
    """A descendant of the reference whose alignment is set anew; whole distributions, as the signal "aligned"."""

    reads = "distribution"
    keys = provides = ("aligned",)


@dataclass(frozen=True)
class WeakPair(ModelRequirement):
    """A small model before and after its alignment: log-probabilities of the answer tokens, as the signals
    "weak_reference" and "weak_aligned"."""

    reads = "answers"
    keys = provides = ("weak_aligned", "weak_reference")


@dataclass(frozen=True)
class RewardModel(ModelRequirement):
    """A trained reward model, for advantages; the argument `reward_model` of `build`.

    It provides "token_scores" [N]. With `candidates` it provides "reward_model" [N, K] instead, its log-probabilities
    (nats) of the candidates, and if `measured` "reward_model_reference" [N, K], those of the model that it is measured
    from.
    """

    candidates: Literal["policy", "model"] | None = None
    """whose likeliest tokens are the candidates; in either case with the policy's log-probabilities of them"""
    measured: bool = False
    keys = provides = ("reward_model",)

    @property
    def what(self) -> str:
        return "reward_model (a trained one)"

    def fault(self, named: Named) -> str:
        if named.get("reward_model") is None:
            return "with these options needs models.reward_model, the folder of a trained reward model"
        return ""


@dataclass(frozen=True)
class Critic(ModelRequirement):
    """A model that learns the value of what stands before each answer token, from the reward model (or the policy) on:
    the signal "values" [N]. It learns "returns" [N], which the advantage estimator provides."""

    learning_rate: float
    reduction: Reduction = "token_mean"
    """of its squared errors in an update"""
    provides = ("critic",)

    @property
    def what(self) -> str:
        return "a critic, which learns along"

    def initial(self, named: Named) -> Literal["", "read", "copied"]:
        return "copied" if named.get("reward_model") is None else ""


Kind = TypeVar("Kind", bound=ModelRequirement)


@dataclass(frozen=True)
class Requirements:
    """Which rows, what is trained, and which models besides the policy.

    Raises:
        RequirementError: if two models are of one kind.
    """

    rows: RowKind = "answers"
    trains: Trained = "policy"
    models: tuple[ModelRequirement, ...] = ()
    columns: tuple[str, ...] = ()
    """of the rows, with one number for each answer token"""
    window: tuple[int, int] | None = None
    """(updates, times): the rows of so many updates are gone through so often before the next rows come"""

    def __post_init__(self) -> None:
        kinds = [type(one).__name__ for one in self.models]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise RequirementError(f"requirements name {kind} twice; name it once, with all that is read of it")

    @property
    def scores(self) -> bool:
        """What is trained is a reward model: held-out rows are judged by the objective."""
        return self.trains in ("scorer", "scalar_head")

    @property
    def keys(self) -> frozenset[str]:
        """Keys under `models` in a recipe that are read."""
        return frozenset(key for one in self.models for key in one.keys)

    @property
    def provides(self) -> tuple[str, ...]:
        """Arguments of `Method.build` besides the settings and the policy."""
        return tuple(name for one in self.models for name in one.provides)

    def model(self, kind: type[Kind]) -> Kind | None:
        """The one of a kind, if it is asked for."""
        return next((one for one in self.models if isinstance(one, kind)), None)
