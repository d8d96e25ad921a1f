"""Answers that a policy might have written, with rewards and what signals might say of them."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

import tiny
from trimtab.core import IGNORE, Candidates, LazyLogits, Plan, Rollouts, Signal, TokenBatch, with_sampled_first
from trimtab.core.draws import inverse_cdf


class Reader(Signal):
    """Provides signals by name, for plans that are built and not run."""

    def __init__(self, *names: str):
        self.provides = frozenset(names)


def rollouts(
    lengths: tuple[int, ...],
    rewards: list[float],
    group: list[int] | None = None,
    candidates: Candidates | None = None,
    **signals: list | Tensor,
) -> Rollouts:
    """Answers of so many tokens; all to one prompt if no groups are given."""
    labels = torch.full((len(lengths), max(lengths) + 1), -100)
    for i, length in enumerate(lengths):
        labels[i, 1 : 1 + length] = 3
    return Rollouts(
        TokenBatch.from_labels(labels),
        torch.tensor(rewards),
        torch.tensor([0] * len(lengths) if group is None else group),
        {name: torch.as_tensor(value) for name, value in signals.items()},
        candidates,
    )


def signals_of_rollouts(plan: Plan, policy: PreTrainedModel, rows: tiny.Rows, buffer: tiny.Rows | None = None) -> dict:
    """What the objective of a plan reads of `rows`, where the policy wrote those of `buffer` (or `rows`).

    Rows with even ids earn 1 and the others -1; those with ids below 21 answer one prompt, the next ones another.
    """
    buffer = rows if buffer is None else buffer
    with torch.no_grad():
        logits = policy(input_ids=buffer.input_ids, attention_mask=buffer.attention_mask).logits
        batch = TokenBatch.align(logits, buffer.labels, row_id=buffer.row_id)
        candidates = None
        if plan.advantages.candidates:
            top = batch.log_softmax().topk(plan.advantages.candidates)
            candidates = with_sampled_first(top.indices, top.values, batch.targets, batch.logprobs())
        signals = {"old": batch.logprobs(), "normaliser": batch.logits().float().logsumexp(dim=-1)}
        for signal in plan.rollout_signals:
            for name, said in signal(policy, buffer.inputs()).items():
                ids = candidates.ids if isinstance(said, LazyLogits) else None
                signals[name] = batch.with_signals(**{name: said}).logprobs(of=name, ids=ids)
    answers = TokenBatch.from_labels(buffer.labels, row_id=buffer.row_id)
    rewards = 1.0 - 2 * (buffer.row_id % 2)
    found = plan.advantages(Rollouts(answers, rewards, buffer.row_id // 21, signals, candidates))
    kept = torch.isin(buffer.row_id[answers.row], rows.row_id)
    return {name: value[kept] for name, value in found.items()}


def written(policy: PreTrainedModel, rows: tiny.Rows) -> tiny.Rows:
    """The same prompts with answers of the same lengths that the policy draws, token by token, each row for itself."""
    ids, uniform = rows.input_ids.clone(), torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    for t in range(1, ids.size(1)):
        with torch.no_grad():
            probabilities = policy(input_ids=ids[:, :t]).logits[:, -1].softmax(-1)
        drawn = inverse_cdf(probabilities, uniform[: len(ids), t])
        ids[:, t] = torch.where(rows.labels[:, t] == IGNORE, ids[:, t], drawn)
    return rows._replace(input_ids=ids, labels=torch.where(rows.labels == IGNORE, IGNORE, ids))
