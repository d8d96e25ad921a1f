"""Models beside the policy that learn from its rollouts: a critic, and a reward model that keeps up with the policy."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimtab.core import Losses, Objective, Reduction, TokenBatch, answer_mask, count
from trimtab.models.forward import ObjectiveCall
from trimtab.objectives.advantages import group_mean
from trimtab.objectives.credit import adaptive_margin, difficulty_weights, online_prefix_loss
from trimtab.objectives.policy_gradient import Critic as CriticLoss
from trimtab.signals.credit import CreditModel
from trimtab.signals.start import read_with


class Learner:
    """A model with an optimizer of its own (AdamW without decay), which goes once through each batch of rollouts.

    Args:
        model: whose forward takes an objective; its parameters that need a gradient are trained.
        learning_rate: constant.
        max_grad_norm: of an update.
    """

    def __init__(self, model: nn.Module, learning_rate: float, max_grad_norm: float = 1.0):
        self.model, self.learning_rate, self.max_grad_norm = model, learning_rate, max_grad_norm
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=learning_rate, weight_decay=0.0)

    @property
    def models(self) -> list[Any]:
        """For whoever places them."""
        return [self.model]

    def fit(
        self, rows: Mapping[str, Tensor], told: Mapping[str, Tensor], objective: Objective, how: Reduction, size: int
    ) -> float:
        """One update on each `size` rows, of batches that hold all of them; returns the mean loss.

        Args:
            rows: `input_ids`, `attention_mask`, `labels` [B, T], `row_id` [B].
            told: signals of the objective, [N] over all answer tokens.
        """
        losses = []
        row_of = TokenBatch.from_labels(rows["labels"]).row
        for start in range(0, len(rows["labels"]), size):
            some = slice(start, start + size)
            own = (row_of >= start) & (row_of < start + size)
            labels = rows["labels"][some]
            if not answer_mask(labels).any():
                continue
            call = ObjectiveCall(
                objective,
                labels,
                {name: value[own] for name, value in told.items()},
                rows["row_id"][some],
                how,
                count(labels, how),
            )
            output = self.model(
                input_ids=rows["input_ids"][some], attention_mask=rows["attention_mask"][some], objective_call=call
            )
            output.loss.backward()
            nn.utils.clip_grad_norm_(self._trained, self.max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            losses.append(output.loss.item())
        return sum(losses) / max(len(losses), 1)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and the optimizer's moments, for a checkpoint."""
        state = {f"weight.{i}": p.detach().clone() for i, p in enumerate(self._trained)}
        for i, p in enumerate(self._trained):
            state |= {f"{name}.{i}": value.clone() for name, value in self._optimizer.state.get(p, {}).items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave."""
        for i, p in enumerate(self._trained):
            p.copy_(state[f"weight.{i}"])
            moments = {
                name: state[f"{name}.{i}"] for name in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{i}" in state
            }
            if moments:
                device = {name: value.to("cpu" if name == "step" else p.device) for name, value in moments.items()}
                self._optimizer.state[p] = device


class Critic(Learner):
    """The value of what stands before each answer token, as "values" [N]; learns the credit's "returns" afterwards."""

    provides = frozenset({"values"})

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"values": read_with(_Read(), self.model, inputs, {})}

    def after(self, rows: Mapping[str, Tensor], told: Mapping[str, Any], size: int) -> dict[str, float]:
        """One pass over the rollouts; returns what to log."""
        return {"critic_loss": self.fit(rows, {"returns": told["returns"]}, CriticLoss(), "sequence_mean", size)}


class _Read:
    needs = frozenset()
    per = "token"

    def __call__(self, batch: TokenBatch) -> Losses:
        return Losses(batch.logprobs(), {})


class OnlinePrefixReward(Learner):
    """An implicit prefix-value reward model that learns the outcomes of each batch of rollouts.

    It is measured from the policy that wrote them. Source: arXiv:2604.13197, online learning.

    Args:
        credit: a reward model whose scores come from a language model.
        learning_rate: constant.
        beta, margin: of the loss, see `online_prefix_loss`.
        adaptive: margins by how hard a prompt is, and each of a mixed group's two sides weighing half.
        when: "before" the credit reads the model, or "after" the credit is given.
    """

    provides = frozenset()

    def __init__(
        self,
        credit: CreditModel,
        learning_rate: float,
        *,
        beta: float,
        margin: float,
        adaptive: bool,
        when: Literal["before", "after"],
    ):
        super().__init__(credit.model.requires_grad_(True), learning_rate, max_grad_norm=10.0)
        self.beta, self.margin, self.adaptive, self.when = beta, margin, adaptive, when

    def outcomes(
        self, rows: Mapping[str, Tensor], old: Tensor, rewards: Tensor, group: Tensor, size: int
    ) -> dict[str, float]:
        """One pass over the rollouts; returns what to log.

        Args:
            rows: as of `fit`.
            old: [N] log-probabilities under the policy that wrote them.
            rewards: [R]; an answer with more than 0 is right.
            group: [R]
        """
        outcome = (rewards > 0).float()
        share = group_mean(outcome, group)
        mixed = ((share > 0) & (share < 1)).float()
        margin = (
            adaptive_margin(outcome, share, self.margin) if self.adaptive else torch.full_like(outcome, self.margin)
        )
        weight = difficulty_weights(outcome, share) if self.adaptive else mixed
        of_token = TokenBatch.from_labels(rows["labels"]).row
        told = {"old": old, "outcome": outcome[of_token], "margin": margin[of_token], "weight": weight[of_token]}
        return {"credit_loss": self.fit(rows, told, _Online(self.beta), "sequence_mean", size)}


class _Online:
    per = "prefix"
    needs = frozenset({"old", "outcome", "margin", "weight"})

    def __init__(self, beta: float):
        self.beta = beta

    def __call__(self, batch: TokenBatch) -> Losses:
        def of_row(name: str) -> Tensor:
            first = torch.zeros(len(batch.lengths), device=batch.targets.device)
            return first.index_put((batch.row,), batch.signals[name])

        ratios = batch.logprobs() - batch.signals["old"]
        values = online_prefix_loss(batch, ratios, of_row("outcome"), of_row("margin"), self.beta)
        return batch.losses(values * batch.signals["weight"])
