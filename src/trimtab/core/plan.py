"""The plan that a method builds for one run, and the advantages of rollouts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.core.batch import Candidates, TokenBatch
from trimtab.core.loss import Objective, Reduction
from trimtab.core.signals import Signal

KEPT = frozenset({"old", "normaliser"})
"""Signals of rollouts that no rollout signal has to provide: the loop keeps what the policy said while it wrote."""


class PlanError(UserError):
    """A plan whose parts do not fit together."""


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
