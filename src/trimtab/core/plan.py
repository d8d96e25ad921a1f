"""A method, its settings, and the plan that it builds for one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.core.batch import Candidates, TokenBatch
from trimtab.core.loss import Objective, Reduction
from trimtab.core.signals import Signal

KEPT = frozenset({"old", "normaliser"})
"""Signals of rollouts that no rollout signal has to provide: the loop keeps what the policy said while it wrote."""


class PlanError(UserError):
    """A plan whose parts do not fit together."""


class MethodConfig(BaseModel):
    """Settings of a method: unknown keys are errors, the text under a field is its help."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)

    def only(self, holds: bool, of: str, *names: str) -> None:
        """For validators: settings that do nothing under the others are at their defaults.

        Args:
            holds: whether they do something.
            of: when they do, in words: "loss: dpo".
            names: of the settings.

        Raises:
            ValueError: naming the first one that was changed.
        """
        if holds:
            return
        for name in names:
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                raise ValueError(f"{name} is {value} and would do nothing: it is of {of} alone; leave it out")


@dataclass(frozen=True)
class Rollouts:
    """Answers that the policy has just written, several to each prompt, and what is known of them.

    All answers of all processes that belong to one prompt are here, so that they can be compared.
    """

    batch: TokenBatch
    """their answer tokens, without signals"""
    rewards: Tensor
    """[R]"""
    group: Tensor
    """[R] which prompt, from 0"""
    signals: Mapping[str, Tensor]
    """"old": [N] log-probabilities (nats) of the answer tokens under the policy that wrote them, at its temperature;
    "normaliser": [N] log sum_v exp z_v of the same; and what the plan's `rollout_signals` say, [N] or [N, K]"""
    candidates: Candidates | None = None
    """where the advantage estimator asks for some"""

    outcome: Tensor | None = None
    """[R] 1 of a right answer, 0 of a wrong one, where that is known apart from what it earned"""

    def of_token(self, values: Tensor) -> Tensor:
        """[N]: for each token the value [R] of its answer."""
        return values[self.batch.row]

    def pick(self, kept: Tensor) -> "Rollouts":
        """The answers to some prompts, all of each; `kept` [R] bool."""
        batch, tokens = self.batch, self.of_token(kept)
        number = kept.cumsum(0) - 1
        picked = TokenBatch(
            batch.targets[tokens],
            number[batch.row[tokens]],
            batch.position[tokens],
            batch.row_id[kept],
            batch.lengths[kept],
            seed=batch.seed,
            step=batch.step,
        )
        group = self.group[kept].unique(return_inverse=True)[1]
        signals = {name: value[tokens] for name, value in self.signals.items()}
        candidates = None if self.candidates is None else self.candidates[tokens]  # type: ignore[index]
        outcome = None if self.outcome is None else self.outcome[kept]
        return Rollouts(picked, self.rewards[kept], group, signals, candidates, outcome)


class AdvantageEstimator:
    """Turns the rewards of rollouts into what the objective reads of each token. Subclasses are called."""

    candidates: int = 0
    """likeliest tokens of the policy to be kept at each place, the answer token among them; 0 for none"""
    needs: frozenset[str] = frozenset()
    """signals of the rollouts that it reads; all but `KEPT` a rollout signal of the plan must provide"""
    provides: frozenset[str] = frozenset({"advantages"})
    """signals of the objective"""

    def __call__(self, rollouts: Rollouts) -> dict[str, Tensor | Candidates]:
        """Signals of the objective, constants: [N], or `Candidates`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
    """All that a loop needs to know: which objective, fed by which signals, divided how."""

    objective: Objective
    signals: Sequence[Signal] = ()
    reduction: Reduction = "token_mean"
    window: tuple[int, int] | None = None
    """(updates, times): the rows of so many updates are gone through so often before the next rows come"""
    advantages: AdvantageEstimator | None = None
    """of a method that learns from rollouts"""
    rollout_signals: Sequence[Signal] = ()
    """read once for all updates on the same rollouts, for the advantages; their models may learn before or after"""

    def __post_init__(self) -> None:
        _check_kind(self.objective, Objective)
        for signal in (*self.signals, *self.rollout_signals):
            _check_kind(signal, Signal)
        if self.advantages is not None:
            _check_kind(self.advantages, AdvantageEstimator)
        given = [*self.signals, *([self.advantages] if self.advantages else [])]
        provided = frozenset().union(*(signal.provides for signal in given))
        missing = sorted(self.objective.needs - provided)
        if missing:
            raise PlanError(
                f"{type(self.objective).__name__} needs the signal{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                f"the plan provides: {', '.join(sorted(provided)) or 'none'}"
            )
        read = KEPT.union(*(signal.provides for signal in self.rollout_signals))
        if self.advantages and self.advantages.needs - read:
            raise PlanError(
                f"{type(self.advantages).__name__} needs {', '.join(sorted(self.advantages.needs - read))}, which no "
                "rollout signal of the plan provides"
            )
        if self.objective.per == "sequence" and self.reduction == "token_mean":
            raise PlanError(f"{type(self.objective).__name__} has one value a sequence: no mean over tokens")


def _check_kind(part: Any, kind: type) -> None:
    name = part.__name__ if isinstance(part, type) else type(part).__name__
    if not isinstance(part, kind):
        raise PlanError(
            f"{name} is no {kind.__name__}; write class {name}({kind.__name__}), and give an instance of it"
        )


@dataclass(frozen=True)
class Wants:
    """What a method needs of models and rows before its plan can be built."""

    roles: frozenset[str] = frozenset()
    """models besides the policy that a recipe must name, such as "teacher\""""
    start: bool | Literal["distribution"] = False
    """log-probabilities under the model that training starts from, as the signal "reference", or its whole
    distribution; a recipe may name another model for it"""
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
    credit: bool = False
    """a trained reward model, whose scores of tokens are the credit, as the reader `credit` of `build`. It provides
    "token_scores" [N]; with `credit_candidates` instead "credit" [N, K], its log-probabilities (nats) of the
    candidates, and of a model that is measured from another one "reward_model_reference" [N, K], those of the other"""
    credit_candidates: Literal["policy", "model"] | None = None
    """whose likeliest tokens are the candidates; in either case with the policy's log-probabilities of them"""
    credit_measured: bool = False
    """of `credit_candidates`: also what the model that it is measured from says of them"""
    window: tuple[int, int] | None = None
    """as the plan's"""
    critic: float | None = None
    """learning rate of a model that gives each answer token the value of what stands before it, as the reader `critic`
    of `build`, which provides "values" [N] and learns "returns" [N]"""
    critic_reduction: Reduction = "token_mean"
    """of the critic's squared errors in an update"""


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
    loop: Literal["supervised", "rollouts"] = "supervised"
    """learns from rows, or from its own answers to the prompts of rows"""

    def wanted(self, config: MethodConfig) -> Wants:
        """What these settings need."""
        return self.wants if isinstance(self.wants, Wants) else self.wants(config)
