"""Which input tokens a classifier's decision rests on, and a loss that makes a student's agree with its teacher's.

Source: AD-KD (arXiv:2305.10010). Attributions are integrated gradients (arXiv:1703.01365) on the output of the block of
embeddings, with zero embeddings as the baseline.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.core import EmbeddingPath, LabelledBatch, Losses, Objective

Distance = Literal["square", "absolute", "smooth_l1"]
FLOOR = 1e-12
"""smallest norm that a map is divided by"""


def points_on_path(embedded: Tensor, steps: int) -> Tensor:
    """[m * R, S, H]: (k/m) E for k = 1..m, the right ends of m equal parts of the way from zero to E [R, S, H]."""
    shares = torch.arange(1, steps + 1, device=embedded.device, dtype=embedded.dtype) / steps
    return (shares[:, None, None, None] * embedded).flatten(0, 1)


def views(logits: Tensor, labels: Tensor) -> Tensor:
    """[V, m, R]: the numbers that are attributed, each a function of a row's logits.

    Regression: the squared error. Two classes: -log p of the label. More: -log p of each class.

    Args:
        logits: [m, R, C] float32.
        labels: [R] class numbers, or floats.
    """
    if labels.is_floating_point():
        return (logits[..., 0] - labels).square()[None]
    negative = -logits.log_softmax(dim=-1)
    if logits.size(-1) == 2:
        return negative.gather(-1, labels.expand(len(logits), -1)[..., None])[..., 0][None]
    return negative.movedim(-1, 0)


def integrated_gradients(view: Tensor, path: EmbeddingPath, *, create_graph: bool = False) -> Tensor:
    """[R, S, H] float32: A = E * mean over the points of the view's gradient there.

    Rows do not depend on each other, so the gradient of the sum over rows holds that of each.

    Args:
        view: [m, R] made from `path.logits`.
        create_graph: keep what is needed to differentiate A, through the gradient and through E.
    """
    assert path.points is not None
    assert path.embedded is not None
    gradient = torch.autograd.grad(view.sum(), path.points, create_graph=create_graph, retain_graph=True)[0]
    mean = at_least_float32(gradient).unflatten(0, (len(view), -1)).mean(dim=0)
    return mean * at_least_float32(path.embedded)


def at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def token_map(attributions: Tensor, mask: Tensor, top: int | None = None, norm: int = 2) -> Tensor:
    """[R, S] of norm 1 along the tokens: for each token the length of its attributions.

    Args:
        attributions: [R, S, H].
        mask: [R, S] bool: real tokens; the others are 0.
        top: count only so many dimensions of each token, those with the largest absolute values; None for all.
        norm: p of the norm along the tokens.
    """
    squares = attributions.square()
    if top is not None and top < attributions.size(-1):
        squares = squares.topk(top, dim=-1).values
    squares = squares.sum(dim=-1)
    real = mask & (squares > 0)  # the root has an infinite slope at 0
    lengths = torch.where(real, squares.where(real, torch.ones_like(squares)).sqrt(), 0.0)
    return lengths / torch.linalg.vector_norm(lengths, ord=norm, dim=-1, keepdim=True).clamp(min=FLOOR)


def distance(student_map: Tensor, teacher_map: Tensor, kind: Distance = "square") -> Tensor:
    """[R, S] unreduced: the square, the absolute value or smooth L1 (threshold 1) of the maps' differences."""
    if kind == "smooth_l1":
        return F.smooth_l1_loss(student_map, teacher_map, reduction="none")
    apart = student_map - teacher_map
    return apart.square() if kind == "square" else apart.abs()


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float, regression: bool = False) -> Tensor:
    """[R]: the cross-entropy of the student's probabilities under the teacher's, both at this temperature and not
    rescaled by its square; for regression the squared difference of their answers divided by the temperature.

    Args:
        student_logits, teacher_logits: [R, C] float32; the teacher's are detached here.
    """
    student, teacher = student_logits / temperature, teacher_logits.detach() / temperature
    if regression:
        return (student[:, 0] - teacher[:, 0]).square()
    return -(teacher.softmax(dim=-1) * student.log_softmax(dim=-1)).sum(dim=-1)


def annealed(temperature: float, epoch: int, epochs: int) -> float:
    """The temperature of an epoch, from `temperature` in the first to 1 in the last; of a single epoch `temperature`
    itself, where the paper's formula divides by zero."""
    return temperature + (1 - temperature) * epoch / max(epochs - 1, 1)


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """[R]: the cross-entropy of the labels, or for regression the squared error."""
    if labels.is_floating_point():
        return (logits[:, 0] - labels).square()
    return F.cross_entropy(logits, labels, reduction="none")


class Classify(Objective):
    """loss = -log p of the label, or the squared error"""

    per = "sequence"

    def __call__(self, batch: LabelledBatch) -> Losses:  # type: ignore[override]
        answers = batch.paths["policy"].answers
        values = task_loss(answers, batch.labels)
        return batch.losses(values, **task_metrics(answers, batch.labels, values))


class AttributionDistillation(Objective):
    """loss = (1 - a) L_task + a L_soft + b L_attr, L_attr summed over views and averaged over the update's tokens

    Args:
        soft: a.
        attribution: b; 0 is plain distillation, and no gradient is taken at the embeddings.
        temperature: of the soft loss.
        anneal: lower it to 1 from epoch to epoch.
        top: dimensions of a token that count in the teacher's map; None for all.
        steps: m, points of the path.
        norm: p of a map's norm.
        kind: the distance between maps.
    """

    needs = frozenset({"teacher"})
    per = "sequence"

    def __init__(
        self, soft: float, attribution: float, temperature: float = 1.0, *, anneal: bool = False,
        top: int | None = None, steps: int = 1, norm: int = 2, kind: Distance = "square",
    ):  # fmt: skip
        self.soft, self.attribution, self.temperature, self.anneal = soft, attribution, temperature, anneal
        self.top, self.norm = top, norm
        self.kind: Distance = kind
        self.steps = steps if attribution else 0

    def __call__(self, batch: LabelledBatch) -> Losses:  # type: ignore[override]
        policy, teacher = batch.paths["policy"], batch.paths["teacher"]
        temperature = self.temperature
        if self.anneal:
            temperature = annealed(temperature, batch.epoch, batch.epochs)
        task = task_loss(policy.answers, batch.labels)
        soft = soft_loss(policy.answers, teacher.answers, temperature, batch.regression)
        values = (1 - self.soft) * task + self.soft * soft
        metrics = {**task_metrics(policy.answers, batch.labels, task), "soft_loss": soft}
        if self.attribution:
            apart, cosines = self.compare(batch, create_graph=torch.is_grad_enabled())
            values = values + self.attribution * apart / batch.mean_tokens
            metrics |= {"attribution_loss": (apart.sum(), batch.mask.sum()), "map_cosine": cosines}
        return batch.losses(values, **metrics)

    def compare(self, batch: LabelledBatch, *, create_graph: bool) -> tuple[Tensor, Tensor]:
        """[R] distances of the maps, summed over a row's tokens and over views; [R] their cosines, mean over views."""
        apart, cosines, number = torch.zeros(()), torch.zeros(()), 0
        for student_map, teacher_map in self.maps(batch, create_graph=create_graph):
            apart = apart + distance(student_map, teacher_map, self.kind).sum(dim=-1)
            cosines = cosines + F.cosine_similarity(student_map.detach(), teacher_map, dim=-1)
            number += 1
        return apart, cosines / number

    def maps(self, batch: LabelledBatch, *, create_graph: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """For each view the maps [R, S] of student and teacher; the teacher's is a constant."""
        policy, teacher = batch.paths["policy"], batch.paths["teacher"]
        for ours, theirs in zip(views(policy.logits, batch.labels), views(teacher.logits, batch.labels)):
            of_teacher = integrated_gradients(theirs, teacher).detach()
            of_student = integrated_gradients(ours, policy, create_graph=create_graph)
            yield (
                token_map(of_student, batch.mask, norm=self.norm),
                token_map(of_teacher, batch.mask, self.top, self.norm),
            )


def task_metrics(answers: Tensor, labels: Tensor, loss: Tensor) -> dict[str, Tensor]:
    """The task's loss under its name, and for classes whether the answer is correct; [R] each."""
    if labels.is_floating_point():
        return {"squared_error": loss}
    return {"cross_entropy": loss, "correct": (answers.argmax(dim=-1) == labels).float()}
