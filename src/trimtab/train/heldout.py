"""Metrics on held-out rows, summed over tokens and kept per row."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core import Losses, Objective, Plan, Signal, TokenBatch, answer_mask
from trimtab.models.forward import ObjectiveCall
from trimtab.objectives.divergence import forward_kl, reverse_kl
from trimtab.objectives.reward_models import RewardObjective, token_scores
from trimtab.signals.base import common_vocab, models_of, read_signals, without_unknown


class TokenMeasures(Objective):
    """An "objective" for evaluation only: it keeps a column per metric."""

    def __init__(self) -> None:
        self.columns: list[dict[str, Tensor]] = []

    def __call__(self, batch: TokenBatch) -> Losses:
        self.columns.append(token_measures(batch))
        return batch.losses(self.columns[-1]["nll"])


def token_measures(batch: TokenBatch) -> dict[str, Tensor]:
    """[N] each: nll, entropy (nats), top1 (0 or 1); with a teacher forward_kl, reverse_kl, agreement, teacher_nll; with
    the initial policy kl_to_initial, KL(policy || initial policy)."""
    log_q = batch.log_softmax("policy")
    best = log_q.argmax(dim=-1)
    measures = {
        "nll": -batch.logprobs(),
        "entropy": -(log_q.exp() * log_q).sum(dim=-1),
        "top1": (best == batch.targets).float(),
    }
    if "teacher" in batch.signals:
        log_p = batch.log_softmax("teacher")
        measures |= {
            "forward_kl": forward_kl(log_q, log_p),
            "reverse_kl": reverse_kl(log_q, log_p),
            "agreement": (best == log_p.argmax(dim=-1)).float(),
            "teacher_nll": -batch.logprobs(of="teacher"),
        }
    if "start" in batch.signals:
        measures["kl_to_initial"] = reverse_kl(log_q, batch.log_softmax("start"))
    return measures


@torch.no_grad()
def measure(
    policy: nn.Module, batches: Iterable[Mapping[str, Tensor]], signals: Sequence[Signal] = ()
) -> dict[int, dict[str, float]]:
    """Sums over the answer tokens of each row.

    Args:
        policy: with `add_objective_forward`; called as in training, so wrapped and sharded models work.
        batches: of prepared rows, on the policy's device.
        signals: of a frozen teacher and of the initial policy, if any.

    Returns:
        row_id -> {"tokens": count, measure: sum over the row's answer tokens}.
    """
    was_training = policy.training
    policy.eval()
    rows: dict[int, dict[str, float]] = {}
    others = models_of(signals)
    for inputs in batches:
        known = (
            without_unknown(inputs, common_vocab(others)) if others else inputs
        )  # a policy draws padding of its head
        found = read_signals(signals, policy, known)
        reader = TokenMeasures()
        call = ObjectiveCall(reader, inputs["labels"], found, inputs["row_id"])
        policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], objective_call=call)
        lengths = answer_mask(inputs["labels"]).sum(dim=1).tolist()
        names = list(reader.columns[0]) if reader.columns else []
        columns = {name: torch.cat([part[name] for part in reader.columns]).double().cpu() for name in names}
        start = 0
        for row, length in zip(inputs["row_id"].tolist(), lengths):
            sums = {name: column[start : start + length].sum().item() for name, column in columns.items()}
            rows[row] = {"tokens": length, **sums}
            start += length
    policy.train(was_training)
    return dict(sorted(rows.items()))


def _read(
    policy: nn.Module, batches: Iterable[Mapping[str, Tensor]], plan: Plan, kind: Callable[[Any], Any]
) -> Iterator[tuple[list[int], Any]]:
    """Of each batch its row_ids, and an objective of `kind`, which is only read, with what it keeps of them."""
    was_training = policy.training
    policy.eval()
    for inputs in batches:
        reader = kind(plan.objective)
        found = read_signals(plan.signals, policy, inputs)
        call = ObjectiveCall(reader, inputs["labels"], found, inputs["row_id"], "sequence_mean")
        policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], objective_call=call)
        yield inputs["row_id"].tolist(), reader
    policy.train(was_training)


class HeldoutRewards(Objective):
    """An "objective" without a loss: collects a reward model's metrics of each answer or pair."""

    per = "sequence"

    def __init__(self, objective: RewardObjective):
        self.objective, self.needs, self.leaf = objective, objective.needs, objective.leaf
        self.found: dict[str, Tensor] = {}

    def __call__(self, batch: TokenBatch) -> Losses:
        self.found = self.objective.evaluate(batch, token_scores(batch, self.objective.source))
        return batch.losses(torch.zeros(len(batch.lengths), device=batch.targets.device))


@torch.no_grad()
def evaluate(policy: nn.Module, batches: Iterable[Mapping[str, Tensor]], plan: Plan) -> dict[int, dict[str, float]]:
    """Metrics of a reward model on each held-out row.

    Args:
        policy: as of `measure`.
        batches: of prepared rows with all that the plan's signals read.
        plan: with a `RewardObjective`.

    Returns:
        row_id -> {"tokens": 1, "reward_loss", "reward_accuracy", and "brier" where there are outcomes}.
    """
    rows: dict[int, dict[str, float]] = {}
    for ids, reader in _read(policy, batches, plan, HeldoutRewards):
        columns = {REWARDS[name]: one.tolist() for name, one in reader.found.items() if name in REWARDS}
        for i, row in enumerate(ids[:: len(ids) // len(columns["reward_loss"])]):  # of a pair one
            rows[row] = {"tokens": 1, **{name: column[i] for name, column in columns.items()}}
    return dict(sorted(rows.items()))


class HeldoutPreferences(Objective):
    """An "objective" that is only read: it keeps what that of preferences says of each pair."""

    per = "sequence"

    def __init__(self, objective: Objective):
        self.objective, self.needs = objective, objective.needs
        self.found: dict[str, Tensor] = {}

    def __call__(self, batch: TokenBatch) -> Losses:
        self.found = self.objective.preferences(batch)
        return batch.losses(torch.zeros(len(batch.lengths), device=batch.targets.device))


@torch.no_grad()
def preferences(policy: nn.Module, batches: Iterable[Mapping[str, Tensor]], plan: Plan) -> dict[int, dict[str, float]]:
    """Preference metrics on held-out pairs, relative to the reference of training.

    Args:
        policy: as of `measure`.
        batches: of prepared pairs.
        plan: of a method that learns from pairs.

    Returns:
        row_id -> `PER_ROW`.
    """
    rows: dict[int, dict[str, float]] = {}
    for ids, reader in _read(policy, batches, plan, HeldoutPreferences):
        columns = {name: values.tolist() for name, values in reader.found.items()}
        for i, row in enumerate(ids[::2]):
            rows[row] = {name: column[i] for name, column in columns.items()}
    return rows


PER_ROW = ("preference_accuracy", "preference_margin")
"""Metrics of rows that are not sums over tokens; a row may lack them."""
REWARDS = {"objective": "reward_loss", "accuracy": "reward_accuracy", "brier": "brier"}
"""Metric of a reward objective -> its name in run folders."""


def summary(rows: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Means over tokens (sums over rows first), of `PER_ROW` over rows, and perplexity = exp(nll) if there is nll; of
    the rows that have the measure."""
    tokens = sum(row["tokens"] for row in rows.values())
    names = list(dict.fromkeys(name for row in rows.values() for name in row if name not in ("tokens", *PER_ROW)))
    having = {name: [row for row in rows.values() if name in row] for name in names}
    means = {name: sum(row[name] for row in some) / sum(row["tokens"] for row in some) for name, some in having.items()}
    for name in PER_ROW:
        if known := [row[name] for row in rows.values() if name in row]:
            means[name] = sum(known) / len(known)
    perplexity = {"perplexity": torch.tensor(means["nll"], dtype=torch.float64).exp().item()} if "nll" in means else {}
    return {"rows": len(rows), "tokens": tokens, **perplexity, **means}
