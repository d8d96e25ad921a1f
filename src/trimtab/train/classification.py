"""The third loop: classifiers, and regressions on texts, on transformers' Trainer."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trimtab.core import LabelledBatch, Plan
from trimtab.models.forward import ObjectiveOutput
from trimtab.objectives.attribution import AttributionDistillation, soft_loss, task_loss
from trimtab.signals.classifier import call_on_labels, labelled_batch
from trimtab.train.base import ObjectiveLoop

MEANS = ("correct", "cross_entropy", "squared_error", "soft_loss", "attribution_loss", "map_cosine")
"""numbers of a held-out row that are averaged"""


class ClassificationTrainer(ObjectiveLoop):
    """Runs a plan's objective on texts with labels; datasets hold prepared rows (`input_ids`, `labels`, `row_id`).

    Args:
        epoch_updates: updates of an epoch.
        epochs: of the whole training, begun ones counted.
    """

    counts = "tokens_read"

    def __init__(self, *args: Any, plan: Plan, epoch_updates: int, epochs: int, **kwargs: Any):
        self.epoch_updates, self.epochs = epoch_updates, epochs
        self._tokens_per_row: Tensor | None = None
        super().__init__(*args, **kwargs)
        self._begin(plan)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.train_dataset.column_names)  # type: ignore[union-attr]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """The rows of this update, divided by the number of processes, which average their gradients. Its tokens in a
        row are kept: maps are compared by token."""
        self._update.clear()
        rows = torch.tensor(float(sum(len(batch["labels"]) for batch in batch_samples)))
        sums = [sum(batch[key].sum().cpu() for batch in batch_samples) for key in ("attention_mask", "attributed")]
        counts = self.accelerator.reduce(torch.stack([rows, *sums]).float().to(device), "sum")  # type: ignore[arg-type]
        assert isinstance(counts, Tensor)
        self.totals.answer_tokens += counts[1].item()
        self._tokens_per_row = counts[2] / counts[0]
        return counts[0] / self.accelerator.num_processes

    def _forward(self, model: torch.nn.Module, inputs: Mapping[str, Tensor], total: Any, **known: Any) -> Any:
        epoch = min(self.state.global_step // self.epoch_updates, self.epochs - 1)
        how: dict[str, Any] = {"tokens_per_row": self._tokens_per_row, "epoch": epoch, "epochs": self.epochs}
        return call_on_labels(self.plan, model, inputs, total, **how)

    def compute_loss(
        self, model: torch.nn.Module, inputs: Mapping[str, Tensor], return_outputs: bool = False,
        num_items_in_batch: Tensor | float | None = None,
    ) -> Any:  # fmt: skip
        output: ObjectiveOutput = self._loss(model, inputs, num_items_in_batch)
        return (output.loss, output) if return_outputs else output.loss


@contextmanager
def _evaluated(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def measure(policy: Any, batches: Iterable[Mapping[str, Tensor]], plan: Plan) -> dict[int, dict[str, float]]:
    """Held-out numbers of each row, without dropout.

    Returns:
        row_id -> `MEANS`, as far as the plan has them, and `label`, `answer`, with a teacher `teacher_answer`.
    """
    rows: dict[int, dict[str, float]] = {}
    with _evaluated(policy):
        for inputs in batches:
            with torch.set_grad_enabled(getattr(plan.objective, "steps", 0) > 0):
                columns = {name: found.detach() for name, found in _columns(plan, policy, inputs).items()}
            lists = {name: found.tolist() for name, found in columns.items()}
            for place, row in enumerate(inputs["row_id"].tolist()):
                rows[row] = {"tokens": 1, **{name: found[place] for name, found in lists.items()}}
    return dict(sorted(rows.items()))


def _columns(plan: Plan, policy: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """[R] each."""
    batch, objective = labelled_batch(plan, policy, inputs), plan.objective
    answers, labels = batch.paths["policy"].answers, batch.labels
    found = {"label": labels, "answer": _answer(answers), **_task_columns(answers, labels)}
    if not isinstance(objective, AttributionDistillation):
        return found
    teacher = batch.paths["teacher"].answers
    found |= {
        "teacher_answer": _answer(teacher),
        "soft_loss": soft_loss(answers, teacher, objective.temperature, batch.regression),
        **{f"teacher_{name}": found for name, found in _task_columns(teacher, labels).items()},
    }
    if objective.steps:
        apart, found["map_cosine"] = objective.compare(batch, create_graph=False)
        found["attribution_loss"] = apart / batch.mask.sum(dim=1)
    return found


def _task_columns(answers: Tensor, labels: Tensor) -> dict[str, Tensor]:
    loss = task_loss(answers, labels)
    if labels.is_floating_point():
        return {"squared_error": loss}
    return {"cross_entropy": loss, "correct": (_answer(answers) == labels).float()}


def _answer(logits: Tensor) -> Tensor:
    """[R] the most likely class, or the number."""
    return logits[:, 0] if logits.size(-1) == 1 else logits.argmax(dim=-1)


def summary(rows: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Means over rows."""
    some = next(iter(rows.values()))
    means = {name: sum(row[name] for row in rows.values()) / len(rows) for name in MEANS if name in some}
    return {"rows": len(rows), "tokens": len(rows), **means}


def maps(policy: Any, batches: Iterable[Mapping[str, Tensor]], plan: Plan) -> list[dict[str, Any]]:
    """Attribution maps of rows, for the class of the label, without dropout.

    Returns:
        For each row `row_id`, the ids of its tokens, and the maps of `student` and `teacher`, a number for each.
    """
    objective = plan.objective
    if not isinstance(objective, AttributionDistillation) or not objective.steps:
        return []
    found = []
    with _evaluated(policy), torch.enable_grad():
        for inputs in batches:
            batch = labelled_batch(plan, policy, inputs)
            views = list(objective.maps(batch))
            for place, row in enumerate(inputs["row_id"].tolist()):
                ours, theirs = views[_view(batch, place, len(views))]
                real = batch.mask[place]
                sides = {"student": ours[place].detach()[real].tolist(), "teacher": theirs[place][real].tolist()}
                found.append({"row_id": row, "ids": inputs["input_ids"][place][real].tolist(), **sides})
    return found


def _view(batch: LabelledBatch, place: int, number: int) -> int:
    return int(batch.labels[place]) if number > 1 else 0
