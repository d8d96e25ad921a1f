"""Several teachers as one: the average of their log-probabilities, or for each row the one that it names."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimtab.core import Head, LazyLogits, Signal, TokenBatch, label_logprobs
from trimtab.signals.frozen import FrozenModel


class Teachers(Signal):
    """Gives "teacher" as `FrozenModel` does: `LazyLogits`, or with `reads="answers"` log-probabilities [N].

    With `weights` w, scaled to sum 1, the logits are sum_i w_i log p_i, whose softmax is the normalised product of
    the p_i^{w_i}, the distribution q with the least sum_i w_i KL(q || p_i). With `routes` a row is read by one
    teacher alone.

    Args:
        teachers: that give distributions, over the policy's ids.
        weights: one for each teacher, positive.
        routes: [rows of the source] which teacher, by index; row i has the `row_id` i + n * rows.
    """

    name = "teacher"
    provides = frozenset({name})

    def __init__(
        self,
        teachers: Sequence[FrozenModel],
        *,
        weights: Sequence[float] | None = None,
        routes: Tensor | None = None,
        reads: Literal["distribution", "answers"] = "distribution",
    ):
        assert (weights is None) != (routes is None)
        self.teachers, self.routes = list(teachers), routes
        self.weights = None if weights is None else [weight / sum(weights) for weight in weights]
        self.distribution = reads == "distribution"

    @property
    def models(self) -> list[Any]:
        return [model for teacher in self.teachers for model in teacher.models]

    @property
    def vocab_size(self) -> int:
        return min(teacher.vocab_size for teacher in self.teachers)

    def at_checkpoint(self) -> None:
        for teacher in self.teachers:
            teacher.at_checkpoint()

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        found = self._average(policy, inputs) if self.routes is None else self._routed(policy, inputs, self.routes)
        if self.distribution:
            return {self.name: found}
        head = Head(found.head, found.vocab_size, temperature=self.temperature)
        return {self.name: label_logprobs(TokenBatch.from_labels(inputs["labels"]), found.hidden, head)}

    def _average(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> LazyLogits:
        assert self.weights is not None
        parts: list[LazyLogits] = [teacher(policy, inputs)[teacher.name] for teacher in self.teachers]
        vocab = min(part.vocab_size for part in parts)
        sizes = [part.hidden.size(-1) for part in parts]
        weighted = list(zip(self.weights, (part.head for part in parts), strict=True))

        def head(hidden: Tensor) -> Tensor:
            """[n, V] nats, not normalised."""
            total = hidden.new_zeros(len(hidden), vocab, dtype=torch.float32)
            for (weight, one), states in zip(weighted, hidden.split(sizes, dim=-1), strict=True):
                total += weight * one(states)[:, :vocab].log_softmax(-1, dtype=torch.float32)
            return total

        return LazyLogits(torch.cat([part.hidden for part in parts], dim=-1), head, vocab)

    def _routed(self, policy: nn.Module | None, inputs: Mapping[str, Tensor], routes: Tensor) -> LazyLogits:
        """States behind the index of the teacher that they are of."""
        labels, row_id = inputs["labels"], inputs["row_id"]
        of_row = routes.to(row_id.device)[row_id % len(routes)]
        of_token = of_row[TokenBatch.from_labels(labels).row]
        parts: dict[int, LazyLogits] = {}
        for index in of_row.unique().tolist():
            rows = {name: inputs[name][of_row == index] for name in ("input_ids", "attention_mask", "labels", "row_id")}
            teacher = self.teachers[index]
            parts[index] = teacher(policy, rows)[teacher.name]
        width = max(part.hidden.size(-1) for part in parts.values())
        dtype = next(iter(parts.values())).hidden.dtype
        states = labels.new_zeros(len(of_token), 1 + width, dtype=dtype)
        states[:, 0] = of_token
        for index, part in parts.items():
            states[of_token == index, 1 : 1 + part.hidden.size(-1)] = part.hidden
        return LazyLogits(states, _by_index(parts, self.vocab_size), self.vocab_size)


def _by_index(parts: Mapping[int, LazyLogits], vocab: int) -> Callable[[Tensor], Tensor]:
    def head(states: Tensor) -> Tensor:
        logits = states.new_zeros(len(states), vocab, dtype=torch.float32)
        for index, part in parts.items():
            mine = states[:, 0] == index
            logits[mine] = part.head(states[mine, 1 : 1 + part.hidden.size(-1)])[:, :vocab].float()
        return logits

    return head
