"""A frozen classifier as the teacher of another, and the plan's loss on a batch of labelled texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.core import EmbeddingPath, LabelledBatch, Plan, Signal, reduce
from trimtab.core.loss import checked_rows
from trimtab.models.classifier import read_path
from trimtab.models.forward import ObjectiveOutput


class FrozenClassifier(Signal):
    """A frozen classifier in eval mode: its dropout would change the maps."""

    def __init__(self, model: Any, name: str = "teacher"):
        self.model, self.name, self.provides = model.eval().requires_grad_(False), name, frozenset({name})

    @property
    def models(self) -> Sequence[Any]:
        return (self.model,)

    def read(self, inputs: Mapping[str, Tensor], steps: int) -> EmbeddingPath:
        """What it says at `steps` points; only with these is a graph kept, from its embeddings on."""
        with torch.set_grad_enabled(steps > 0):
            return read_path(self.model, inputs, steps, constant=True)


def labelled_batch(
    plan: Plan, policy: Any, inputs: Mapping[str, Tensor], *, tokens_per_row: Tensor | float | None = None,
    epoch: int = 0, epochs: int = 1, steps: int | None = None,
) -> LabelledBatch:  # fmt: skip
    """A micro-batch as read by the policy and the plan's classifiers.

    Args:
        inputs: `input_ids`, `attention_mask` [R, S], `labels`, `row_id` [R], and `attributed` [R, S] where maps leave
            out more than padding.
        steps: points of the path; as many as the objective asks for if not given.
    """
    number: int = getattr(plan.objective, "steps", 0) if steps is None else steps
    paths = {
        signal.name: signal.read(inputs, number) for signal in plan.signals if isinstance(signal, FrozenClassifier)
    }
    paths["policy"] = read_path(policy, inputs, number)
    mask = inputs.get("attributed", inputs["attention_mask"]).bool()
    return LabelledBatch(inputs["labels"], mask, inputs["row_id"], paths, tokens_per_row, epoch, epochs)


def call_on_labels(
    plan: Plan, policy: Any, inputs: Mapping[str, Tensor], rows: Tensor | float | None = None, **known: Any
) -> ObjectiveOutput:
    """The plan's loss on a micro-batch; as `call_plan` for texts with labels.

    Args:
        rows: of the whole update, divided by the number of processes if these average their gradients.
        known: see `labelled_batch`.
    """
    batch = labelled_batch(plan, policy, inputs, **known)
    losses = checked_rows(plan.objective(batch), plan.objective, len(batch.labels))  # type: ignore[arg-type]
    weight = torch.ones_like(losses.values) / (len(batch.labels) if rows is None else rows)
    values = losses.values.detach().float()
    return ObjectiveOutput(loss=reduce(losses, weight), metrics=losses.metrics, unreduced=values)  # type: ignore[arg-type]
