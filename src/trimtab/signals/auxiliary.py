"""Auxiliary models trained on the policy's rollouts: a critic, and an online reward model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimtab.common import collectives
from trimtab.core import Losses, Objective, Reduction, RolloutBatch, Signal, TokenBatch, answer_mask, count
from trimtab.models.forward import ObjectiveCall
from trimtab.models.loading import cast
from trimtab.models.masters import train_in_float32
from trimtab.objectives.advantages import group_mean
from trimtab.objectives.policy_gradient import ValueLoss
from trimtab.objectives.reward_models import (
    Pairs,
    adaptive_margin,
    bradley_terry,
    difficulty_weights,
    online_answer_loss,
    online_prefix_loss,
)
from trimtab.signals.initial_policy import read_with
from trimtab.signals.reward_model import HeadScore, TokenRewardModel


class AuxiliaryModel(Signal):
    """A model with its own optimizer (AdamW without weight decay, a constant learning rate), trained for one pass over
    each batch of rollouts. Its trained weights become float32, see `trimtab.models.masters`.

    Args:
        model: whose forward takes an objective; its parameters with `requires_grad` are trained.
    """

    def __init__(self, model: nn.Module, learning_rate: float, max_grad_norm: float = 1.0):
        if getattr(model, "dtype", None) == torch.float16:  # without a scale for the loss its gradients would vanish
            cast(model, "float32")  # type: ignore[arg-type]
        train_in_float32(model)
        self.model, self.learning_rate, self.max_grad_norm = model, learning_rate, max_grad_norm
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=learning_rate, weight_decay=0.0)

    @property
    def models(self) -> list[Any]:
        return [self.model]

    def fit(
        self, rows: Mapping[str, Tensor], known: Mapping[str, Tensor], objective: Objective, how: Reduction,
        size: int, micro: int | None = None,
    ) -> float:  # fmt: skip
        """One update for every `size` rows, accumulated over `micro` rows at a time; returns the mean loss.

        Of several processes, which all have the same rows, each reads some of these and the gradients are added up.

        Args:
            rows: `input_ids`, `attention_mask`, `labels` [B, T], `row_id` [B].
            known: signals of the objective, [N] over all answer tokens.
        """
        losses = []
        row_of = TokenBatch.from_labels(rows["labels"]).row
        for start in range(0, len(rows["labels"]), size):
            labels = rows["labels"][start : start + size]
            weighed = known["weight"][(row_of >= start) & (row_of < start + size)] if "weight" in known else None
            if not answer_mask(labels).any() or (weighed is not None and not weighed.any()):
                continue  # the optimizer's momentum would make a step without a gradient
            total = count(labels, how)
            loss = torch.zeros((), device=labels.device)
            firsts = range(start, start + len(labels), micro or size)
            for first in firsts[collectives.rank() :: collectives.size()]:
                some = slice(first, min(first + (micro or size), start + len(labels)))
                own = (row_of >= some.start) & (row_of < some.stop)
                if own.any():
                    part = {key: value[some] for key, value in rows.items()}
                    of_part = {name: value[own] for name, value in known.items()}
                    loss += self._backward(part, of_part, objective, how, total)
            self._add_up(loss)
            nn.utils.clip_grad_norm_(self._trained, self.max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        return sum(losses) / max(len(losses), 1)

    def _add_up(self, loss: Tensor) -> None:
        """Add up the loss and the gradients of all processes; a weight that none has a gradient of gets none."""
        if collectives.size() == 1:
            return
        read = torch.tensor([p.grad is not None for p in self._trained], dtype=torch.float32, device=loss.device)
        collectives.add_up([loss, read])
        for p, number in zip(self._trained, read.tolist()):
            if number:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                collectives.add_up([p.grad])

    def _backward(
        self, rows: Mapping[str, Tensor], known: Mapping[str, Tensor], objective: Objective, how: Reduction,
        total: Tensor,
    ) -> Tensor:  # fmt: skip
        """Add the gradient of a micro-batch; returns its part of the loss."""
        width = int(rows["attention_mask"].sum(dim=1).max())  # without columns of padding
        ids, mask, labels = (rows[name][:, :width] for name in ("input_ids", "attention_mask", "labels"))
        call = ObjectiveCall(objective, labels, known, rows["row_id"], how, total)
        loss = self.model(input_ids=ids, attention_mask=mask, objective_call=call).loss
        loss.backward()
        return loss.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and the optimizer's moments, for a checkpoint."""
        state = {f"weight.{i}": p.detach().clone() for i, p in enumerate(self._trained)}
        for i, p in enumerate(self._trained):
            state |= {f"{name}.{i}": value.clone() for name, value in self._optimizer.state.get(p, {}).items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for i, p in enumerate(self._trained):
            p.copy_(state[f"weight.{i}"])
            for name in ("step", "exp_avg", "exp_avg_sq"):
                if f"{name}.{i}" in state:
                    device = "cpu" if name == "step" else p.device
                    self._optimizer.state[p][name] = state[f"{name}.{i}"].to(device)


class ValueModel(AuxiliaryModel):
    """The value of the prefix before each token, as "values" [N]; trained on the "returns" of the advantages.

    Args:
        reduction: of its loss over the tokens of an update, see `ValueLoss`.
    """

    provides = frozenset({"values"})

    def __init__(self, model: nn.Module, learning_rate: float, *, reduction: Reduction = "token_mean"):
        super().__init__(model, learning_rate)
        self.reduction: Reduction = reduction

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"values": read_with(HeadScore(), self.model, inputs, {})}

    def after_advantages(self, rollouts: RolloutBatch, advantages: Mapping[str, Any]) -> dict[str, float]:
        returns = {"returns": advantages["returns"]}
        sizes = rollouts.update_rows, rollouts.micro_rows
        return {"critic_loss": self.fit(rollouts.inputs, returns, ValueLoss(), self.reduction, *sizes)}


Adaptive = bool | Literal["margin", "weight"]
"""both of: margins by prompt difficulty, and half the weight for each outcome of a mixed group; or one of them"""


class OnlineReward(AuxiliaryModel, ABC):
    """An implicit reward model trained on the outcomes of each batch of rollouts, relative to the policy that sampled
    them. Source: arXiv:2604.13197, online learning.

    Args:
        reward_model: whose scores come from a language model.
        when: "before" the model is read for the advantages, or "after".
        beta: scale of log-ratios.
    """

    needs = frozenset({"old"})
    batches = alike = 0
    """seen so far; of them those in which all completions of each prompt had one outcome"""

    def __init__(
        self, reward_model: TokenRewardModel, learning_rate: float, *, beta: float, when: Literal["before", "after"]
    ):
        super().__init__(reward_model.model.requires_grad_(True), learning_rate, max_grad_norm=10.0)
        self.beta, self.when = beta, when

    def before_advantages(self, rollouts: RolloutBatch) -> dict[str, float]:
        return self.learn(rollouts) if self.when == "before" else {}

    def after_advantages(self, rollouts: RolloutBatch, advantages: Mapping[str, Any]) -> dict[str, float]:
        return self.learn(rollouts) if self.when == "after" else {}

    def learn(self, rollouts: RolloutBatch) -> dict[str, float]:
        """One pass over the rollouts; returns metrics to log.

        If no group has both outcomes there is nothing to learn: the batch is counted, and the weights stay.
        """
        share = group_mean(rollouts.outcome, rollouts.group)
        loss = self._fit(rollouts, share)
        alike = not _mixed(share).any()
        self.batches, self.alike = self.batches + 1, self.alike + alike
        return {"reward_model_loss": loss, "share_correct": rollouts.outcome.mean().item(), "one_outcome": float(alike)}

    @abstractmethod
    def _fit(self, rollouts: RolloutBatch, share: Tensor) -> float:
        """The mean loss of one pass, see `fit`; `share` [R] of the completions of its prompt is correct."""

    def remarks(self) -> list[str]:
        if not self.alike:
            return []
        return [
            f"in {self.alike} of {self.batches} batches, all completions of each prompt had the same outcome: the "
            "reward model learned nothing from these. A completion is correct if the first reward is at least its "
            "`correct`"
        ]

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "batches": torch.tensor([self.batches, self.alike])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.batches, self.alike = state["batches"].tolist()


def _mixed(share: Tensor) -> Tensor:
    """[R]: whether the completions of its prompt have both outcomes."""
    return (share > 0) & (share < 1)


class OnlinePrefixReward(OnlineReward):
    """Trained on prefixes: see `online_prefix_loss` and `Adaptive`."""

    per = "prefix"

    def __init__(self, *args: Any, margin: float, adaptive: Adaptive, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.margin, self.adaptive = margin, adaptive

    def _fit(self, rollouts: RolloutBatch, share: Tensor) -> float:
        outcome = rollouts.outcome
        assert rollouts.old is not None
        margin, weight = torch.full_like(outcome, self.margin), _mixed(share).float()
        if self.adaptive in (True, "margin"):
            margin = adaptive_margin(outcome, share, self.margin)
        if self.adaptive in (True, "weight"):
            weight = difficulty_weights(outcome, share)
        row = TokenBatch.from_labels(rollouts.inputs["labels"]).row
        known = {"old": rollouts.old, "outcome": outcome[row], "margin": margin[row], "weight": weight[row]}
        sizes = rollouts.update_rows, rollouts.micro_rows
        objective = OnlineOutcomes(self.beta, self.per)
        return self.fit(rollouts.inputs, known, objective, "sequence_mean", *sizes)


class OnlineAnswerReward(OnlinePrefixReward):
    """Trained on whole completions, as an implicit PRM: see `online_answer_loss`."""

    per = "sequence"


class OnlinePairReward(OnlineReward):
    """Trained on pairs, as a DPO reward model: the sum of -log sigma(beta (R_correct - R_incorrect)) over the pairs of
    an update, R the summed log-ratio of a completion. See `pairs_of`."""

    def _fit(self, rollouts: RolloutBatch, share: Tensor) -> float:
        assert rollouts.old is not None
        lengths = TokenBatch.from_labels(rollouts.inputs["labels"]).lengths
        order = pairs_of(rollouts.outcome, rollouts.group, lengths)
        pieces = rollouts.old.split(lengths.tolist())
        known = {"reference": torch.cat([pieces[row] for row in order.tolist()] or [rollouts.old[:0]])}

        def half(chosen: Tensor, rejected: Tensor) -> Tensor:  # both of a pair carry its loss
            return bradley_terry(chosen, rejected, beta=self.beta) / 2

        objective = Pairs("ratio", "sum", half)
        some = {key: value[order] for key, value in rollouts.inputs.items()}
        micro = None if rollouts.micro_rows is None else _even(rollouts.micro_rows)
        return self.fit(some, known, objective, "sum", _even(rollouts.update_rows), micro)


def _even(number: int) -> int:
    """Rows of whole pairs."""
    return max(2, number - number % 2)


def pairs_of(outcome: Tensor, group: Tensor, lengths: Tensor) -> Tensor:
    """[2P] completions, correct and incorrect in turn: in each group the first correct one with the first incorrect one
    and so on, as many as the rarer outcome has. Completions without tokens are skipped.

    Args:
        outcome, group, lengths: [R]
    """
    order: list[int] = []
    for one in group.unique().tolist():
        sides = [torch.nonzero((group == one) & (lengths > 0) & (outcome == y))[:, 0].tolist() for y in (1, 0)]
        order += [row for pair in zip(*sides) for row in pair]
    return torch.tensor(order, dtype=torch.long, device=outcome.device)


class OnlineOutcomes(Objective):
    """`online_prefix_loss` per prefix, or `online_answer_loss` per sequence, times "weight"."""

    needs = frozenset({"old", "outcome", "margin", "weight"})

    def __init__(self, beta: float, per: str):
        self.beta, self.per = beta, per

    def __call__(self, batch: TokenBatch) -> Losses:
        ratios = batch.logprobs() - batch.signals["old"]
        of_prefixes = self.per == "prefix"
        loss = online_prefix_loss if of_prefixes else online_answer_loss
        values = loss(batch, ratios, _of_row(batch, "outcome"), _of_row(batch, "margin"), self.beta)
        return batch.losses(values * (batch.signals["weight"] if of_prefixes else _of_row(batch, "weight")))


def _of_row(batch: TokenBatch, name: str) -> Tensor:
    """[R] of a signal that all tokens of a completion share; 0 for a completion without tokens."""
    first = torch.zeros(len(batch.lengths), device=batch.targets.device)
    return first.index_put((batch.row,), batch.signals[name])
