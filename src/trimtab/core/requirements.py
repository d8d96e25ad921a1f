"""What a method requires: rows, what is trained, and models besides the policy, which `trimtab.runs.models` loads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from trimtab.common.errors import UserError
from trimtab.core.loss import Reduction

SELF_INITIAL = "self:initial"
"""Value of `models.teacher` in a recipe for the policy as it was before training."""
STORED = "column"
"""Value of `models.reference` in a recipe for log-probabilities computed beforehand, instead of a model."""

RowKind = Literal[
    "answers", "every_token", "pairs", "outcomes", "steps", "rationales", "sampled_pairs", "labelled"
]  # fmt: skip
"""Answers to prompts; the same, with prompts trained on like answers; a chosen and a rejected answer; answers with a
`label` that says whether they are correct; answers in steps (TRL's stepwise type) with a label for each; several
rationales a question, of which two are drawn each time; answers, each beside a rejected one that the policy samples in
training; texts with a label, a class or a number."""
Trained = Literal["policy", "identity_layer", "scorer", "scalar_head", "classifier"]
"""The policy; only an identity layer before its first layer; the policy as a reward model that scores tokens; the same
with a scalar head instead of the language model's; a classifier of texts, or a regression on them."""
Named = Mapping[str, str | None]
"""`models` of a recipe: the model named under each key, if any"""


class RequirementError(UserError):
    """Requirements that contradict themselves."""


@dataclass(frozen=True)
class ModelRequirement:
    """A model besides the policy; the kinds are below."""

    keys: ClassVar[tuple[str, ...]] = ()
    """its key under `models` in a recipe"""
    provides: ClassVar[tuple[str, ...]] = ()
    """arguments of `Method.build` that are its signals"""

    @property
    def what(self) -> str:
        """In words, for `trimtab show`."""
        return ", ".join(self.keys)

    def fault(self, named: Named) -> str:
        """What is wrong with the models of a recipe, completing "method NAME ...", or nothing."""
        for key in self.keys:
            if named.get(key) is None:
                return f"needs models.{key}; add it, for example: {key}: smollm2-135m"
        return ""

    def initial(self, named: Named) -> Literal["", "read", "copied"]:
        """Whether it is the initial policy: "read" with the trained part switched off, or "copied"."""
        return ""


@dataclass(frozen=True)
class Teacher(ModelRequirement):
    """The frozen model to distil from, as the signal "teacher"."""

    reads: Literal["distribution", "answers"] = "distribution"
    """its whole distribution, or only log-probabilities of the answer tokens"""
    own_tokenizer: bool = False
    """it reads rows with a tokenizer and a chat template of its own, and shares no ids with the policy"""
    inside: bool = False
    """gradients at its embeddings are read with each batch, so it is one live model that reads what the policy reads"""
    keys = provides = ("teacher",)

    def initial(self, named: Named) -> Literal["", "read", "copied"]:
        return "read" if named.get("teacher") == SELF_INITIAL else ""


@dataclass(frozen=True)
class Reference(ModelRequirement):
    """The model that the policy is regularised towards, as the signal "reference": the initial policy, unless a recipe
    names another."""

    reads: Literal["answers", "candidates", "distribution"] = "answers"
    """log-probabilities of the answer tokens [N], or of the candidates of rollouts [N, K], or the whole distribution"""
    named: bool = False
    """whether a recipe must name it"""
    keys = provides = ("reference",)

    @property
    def what(self) -> str:
        return "reference" if self.named else "reference (the initial policy, unless named)"

    def fault(self, named: Named) -> str:
        if named.get("reference") == STORED and self.reads != "answers":
            read = "whole distributions" if self.reads == "distribution" else "tokens outside the answers"
            return f"reads {read} from models.reference, but a column only holds those of the answers; name the model"
        return super().fault(named) if self.named else ""

    def initial(self, named: Named) -> Literal["", "read", "copied"]:
        return "read" if not self.named and named.get("reference") is None else ""


@dataclass(frozen=True)
class Aligned(ModelRequirement):
    """An aligned version of the reference, read as whole distributions: the signal "aligned"."""

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
    """whose most likely tokens are the candidates; the policy's log-probabilities come with them in either case"""
    measured: bool = False
    keys = provides = ("reward_model",)

    @property
    def what(self) -> str:
        return "reward_model (trained)"

    def fault(self, named: Named) -> str:
        if named.get("reward_model") is None:
            return "with these options needs models.reward_model, the folder of a trained reward model"
        return ""


@dataclass(frozen=True)
class Critic(ModelRequirement):
    """A value model of the prefix before each token, initialised from the reward model (or the policy): the signal
    "values" [N]. It is trained on "returns" [N], which the advantage estimator provides."""

    learning_rate: float
    reduction: Reduction = "token_mean"
    """reduction of its squared errors in an update"""
    provides = ("critic",)

    @property
    def what(self) -> str:
        return "a critic, trained along with the policy"

    def initial(self, named: Named) -> Literal["", "read", "copied"]:
        return "copied" if named.get("reward_model") is None else ""


Kind = TypeVar("Kind", bound=ModelRequirement)


@dataclass(frozen=True)
class Requirements:
    """Which rows, what is trained, and which models besides the policy, at most one of a kind."""

    rows: RowKind = "answers"
    trains: Trained = "policy"
    models: tuple[ModelRequirement, ...] = ()
    columns: tuple[str, ...] = ()
    """columns of the rows with one number for each answer token"""
    window: tuple[int, int] | None = None
    """(updates, times): how many passes are made over the rows of a window of updates before the next window"""

    def __post_init__(self) -> None:
        kinds = [type(one).__name__ for one in self.models]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise RequirementError(
                f"requirements name {twice} twice; name it once, with everything that is read from it"
            )

    @property
    def scores(self) -> bool:
        """Whether a reward model is trained, so that the objective evaluates held-out rows."""
        return self.trains in ("scorer", "scalar_head")

    @property
    def inside(self) -> bool:
        """Whether the teacher and the policy are differentiated at their embeddings, the policy twice."""
        teacher = self.model(Teacher)
        return teacher is not None and teacher.inside

    @property
    def keys(self) -> frozenset[str]:
        """Keys under `models` in a recipe that are read."""
        return frozenset(key for one in self.models for key in one.keys)

    @property
    def provides(self) -> tuple[str, ...]:
        """Arguments of `Method.build` besides config and policy."""
        return tuple(name for one in self.models for name in one.provides)

    def model(self, kind: type[Kind]) -> Kind | None:
        """The required model of a kind, if any."""
        return next((one for one in self.models if isinstance(one, kind)), None)
