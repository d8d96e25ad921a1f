"""The plan that a method builds for one run, and the advantages of rollouts."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.core.auxiliary import AuxiliaryLoss
from trimtab.core.batch import Candidates, TokenBatch
from trimtab.core.loss import Objective, Reduction
from trimtab.core.signals import Signal

KEPT = frozenset({"old", "normaliser"})
"""Signals of rollouts that no rollout signal has to provide: the loop keeps the policy's outputs from sampling."""


class PlanError(UserError):
    """A plan whose parts do not fit together."""


@dataclass(frozen=True)
class Rollouts:
    """Completions just sampled from the policy, with all of the completions of each prompt."""

    batch: TokenBatch
    """their completion tokens, without signals"""
    rewards: Tensor
    """[R]"""
    group: Tensor
    """[R] which prompt, from 0"""
    signals: Mapping[str, Tensor]
    """"old": [N] log-probabilities (nats) of the tokens under the policy that sampled them, at its temperature;
    "normaliser": [N] log sum_v exp z_v of the same; and what the plan's `rollout_signals` provide, [N] or [N, K]"""
    candidates: Candidates | None = None
    """if the advantage estimator asks for any"""
    outcome: Tensor | None = None
    """[R] 1 for a correct completion, 0 for an incorrect one, if known independently of the reward"""

    def of_token(self, values: Tensor) -> Tensor:
        """[N]: for each token the value [R] of its completion."""
        return values[self.batch.row]

    def pick(self, kept: Tensor) -> "Rollouts":
        """The completions of some prompts, all of each; `kept` [R] bool."""
        batch, tokens = self.batch, self.of_token(kept)
        number = kept.cumsum(0) - 1
        picked = replace(
            batch[tokens],  # type: ignore[index]
            row=number[batch.row[tokens]],
            row_id=batch.row_id[kept],
            lengths=batch.lengths[kept],
        )
        group = self.group[kept].unique(return_inverse=True)[1]
        signals = {name: value[tokens] for name, value in self.signals.items()}
        candidates = None if self.candidates is None else self.candidates[tokens]  # type: ignore[index]
        outcome = None if self.outcome is None else self.outcome[kept]
        return Rollouts(picked, self.rewards[kept], group, signals, candidates, outcome)


class AdvantageEstimator:
    """Turns the rewards of rollouts into what the objective reads for each token; subclasses implement __call__."""

    candidates: int = 0
    """number of the policy's most likely tokens to keep at each position, including the sampled one; 0 for none"""
    needs: frozenset[str] = frozenset()
    """signals of the rollouts it reads; a rollout signal of the plan must provide all but `KEPT`"""
    provides: frozenset[str] = frozenset({"advantages"})
    """signals it gives the objective"""

    def __call__(self, rollouts: Rollouts) -> dict[str, Tensor | Candidates]:
        """Signals of the objective, constants: [N], or `Candidates`."""
        raise NotImplementedError


class Sampler:
    """The policy as it was at the beginning of a round, which samples the rejected answers of pairs."""

    max_new_tokens: int = 256
    """longest sampled answer"""
    temperature: float = 1.0

    def as_it_was(self, policy: nn.Module) -> AbstractContextManager:
        """A context in which the policy has the weights with which it samples."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
    """Everything a training loop needs: the objective, its signals, and its reduction."""

    objective: Objective
    signals: Sequence[Signal] = ()
    reduction: Reduction = "token_mean"
    advantages: AdvantageEstimator | None = None
    """for a method that learns from rollouts"""
    rollout_signals: Sequence[Signal] = ()
    """read once per batch of rollouts, for the advantages"""
    rejected: Sampler | None = None
    """of a method whose rows have chosen answers alone; a part of `signals`, so that it is told of updates"""
    auxiliary: AuxiliaryLoss | None = None
    """a term beside the objective's that looks inside the policy"""

    def __post_init__(self) -> None:
        _check_kind(self.objective, Objective)
        for signal in (*self.signals, *self.rollout_signals):
            _check_kind(signal, Signal)
        if self.advantages is not None:
            _check_kind(self.advantages, AdvantageEstimator)
        if self.auxiliary is not None:
            _check_kind(self.auxiliary, AuxiliaryLoss)
        given = [*self.signals, *([self.advantages] if self.advantages else [])]
        provided = frozenset().union(*(signal.provides for signal in given))
        for part in (self.objective, *([self.auxiliary] if self.auxiliary else [])):
            missing = sorted(part.needs - provided)
            if missing:
                raise PlanError(
                    f"{type(part).__name__} needs the signal{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                    f"the plan provides: {', '.join(sorted(provided)) or 'none'}"
                )
        read = KEPT.union(*(signal.provides for signal in self.rollout_signals))
        if self.advantages and self.advantages.needs - read:
            raise PlanError(
                f"{type(self.advantages).__name__} needs {', '.join(sorted(self.advantages.needs - read))}, which no "
                "rollout signal of the plan provides"
            )
        if self.objective.per == "sequence" and self.reduction == "token_mean":
            raise PlanError(
                f"{type(self.objective).__name__} has one value per sequence, so there is no mean over tokens"
            )
        for kind in ("pair", "preference"):
            if (self.objective.per == kind) != (self.reduction == f"{kind}_mean"):
                raise PlanError(
                    f"{type(self.objective).__name__} is per {self.objective.per}, and the reduction is "
                    f"{self.reduction}; {kind}_mean goes with an objective per {kind}"
                )


def _check_kind(part: Any, kind: type) -> None:
    name = part.__name__ if isinstance(part, type) else type(part).__name__
    if not isinstance(part, kind):
        raise PlanError(
            f"{name} is not a subclass of {kind.__name__}; write class {name}({kind.__name__}) and pass an instance"
        )
