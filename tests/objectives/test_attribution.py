"""Attribution: identities of integrated gradients and of the maps, and gradients against finite differences."""

import math

import pytest
import torch
from torch import nn

from trimtab.core import EmbeddingPath, LabelledBatch
from trimtab.objectives.attribution import (
    AttributionDistillation,
    annealed,
    distance,
    integrated_gradients,
    points_on_path,
    soft_loss,
    token_map,
    views,
)

IDS = torch.tensor([[1, 2, 3, 4], [5, 1, 0, 0], [2, 6, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
CLASSES, NUMBERS = torch.tensor([0, 1, 1]), torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


class Net(nn.Module):
    """Embeddings, one attention-like mixing of tokens, tanh, and a head; float64."""

    def __init__(self, classes: int, seed: int = 0, width: int = 5):
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.mix = nn.Embedding(8, width), nn.Linear(width, width)
        self.head = nn.Linear(width, classes)
        self.double()

    def read(self, embedded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = (embedded @ self.mix(embedded).mT).masked_fill(~mask[:, None], -torch.inf)
        hidden = torch.tanh(scores.softmax(dim=-1) @ self.mix(embedded))
        return self.head((hidden * mask[..., None]).sum(dim=1))

    def path(self, steps: int = 1, ids: torch.Tensor = IDS, mask: torch.Tensor = MASK) -> EmbeddingPath:
        embedded = self.words(ids)
        points = points_on_path(embedded, steps)
        logits = self.read(points, mask.repeat(steps, 1)).unflatten(0, (steps, -1))
        return EmbeddingPath(logits, points, embedded)


def batch_of(student: Net, teacher: Net, steps: int = 1, labels: torch.Tensor = CLASSES, **how) -> LabelledBatch:
    paths = {"policy": student.path(steps), "teacher": teacher.path(steps)}
    return LabelledBatch(labels, MASK, torch.arange(3), paths, **how)


def attribution_loss(student: Net, teacher: Net, steps: int = 1, labels: torch.Tensor = CLASSES, **how) -> torch.Tensor:
    objective = AttributionDistillation(0.0, 1.0, steps=steps, **how)
    apart, _ = objective.compare(batch_of(student, teacher, steps, labels), create_graph=True)
    return apart.sum() / MASK.sum()


def attributed(net: Net, steps: int, labels: torch.Tensor = CLASSES) -> torch.Tensor:
    path = net.path(steps)
    return integrated_gradients(views(path.logits, labels)[0], path).detach()


def test_points_are_the_right_ends_of_equal_parts():
    embedded = torch.ones(1, 2, 3)
    found = points_on_path(embedded, 4)
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([0.25, 0.5, 0.75, 1.0]))


def test_one_step_is_gradient_times_input():
    net = Net(2)
    embedded = net.words(IDS).detach().requires_grad_()
    loss = nn.functional.cross_entropy(net.read(embedded, MASK), CLASSES, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, embedded)
    torch.testing.assert_close(attributed(net, 1), gradient * embedded.detach())


def test_the_batched_pass_over_the_steps_is_the_sum_written_as_a_loop():
    net, steps = Net(3), 4
    embedded, total = net.words(IDS).detach(), torch.zeros(3, 4, 5, dtype=torch.float64)
    for k in range(1, steps + 1):
        point = (k / steps * embedded).requires_grad_()
        loss = -net.read(point, MASK).log_softmax(-1)[:, 0].sum()
        total += torch.autograd.grad(loss, point)[0]
    torch.testing.assert_close(attributed(net, steps), embedded * total / steps)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_linear_answer_is_attributed_exactly(steps):
    net = Net(1)
    net.read = lambda embedded, mask: net.head((embedded * mask[..., None]).sum(dim=1))
    path = net.path(steps)
    found = integrated_gradients(path.logits[..., 0], path)
    torch.testing.assert_close(found.sum(dim=(1, 2)), path.answers[:, 0] - net.head.bias)


def test_attributions_add_up_to_the_answer_less_that_of_the_baseline_as_steps_grow():
    net = Net(2)
    difference = (
        views(net.path().logits, CLASSES)[0, 0]
        - views(net.read(torch.zeros(3, 4, 5, dtype=torch.float64), MASK)[None], CLASSES)[0, 0]
    )
    errors = [(attributed(net, m).sum(dim=(1, 2)) - difference).abs().max().item() for m in (8, 80, 800)]
    assert errors[2] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.3)  # of order 1/m
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.3)


def test_equal_weights_have_no_loss_and_no_gradient():
    net = Net(3)
    loss = attribution_loss(net, Net(3), steps=2)
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in net.parameters() if p.grad is not None)


def test_a_map_worked_by_hand():
    attributions = torch.tensor([[[3.0, 4.0], [0.0, -12.0], [7.0, 7.0]]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(token_map(attributions, mask), torch.tensor([[5 / 13, 12 / 13, 0.0]]))
    torch.testing.assert_close(token_map(attributions, mask, norm=1), torch.tensor([[5 / 17, 12 / 17, 0.0]]))
    whole = torch.tensor([[4.0, 12.0, 0.0]]) / math.sqrt(160)
    torch.testing.assert_close(token_map(attributions, mask, top=1), whole)


def test_distances_worked_by_hand():
    ours, theirs = torch.tensor([[0.5, 2.0]]), torch.tensor([[0.0, 0.0]])
    torch.testing.assert_close(distance(ours, theirs), torch.tensor([[0.25, 4.0]]))
    torch.testing.assert_close(distance(ours, theirs, "absolute"), torch.tensor([[0.5, 2.0]]))
    torch.testing.assert_close(distance(ours, theirs, "smooth_l1"), torch.tensor([[0.125, 1.5]]))


def test_maps_have_unit_norm_and_a_token_without_attribution_has_a_finite_gradient():
    attributions = torch.randn(2, 4, 3, dtype=torch.float64)
    attributions[0, 1] = 0
    attributions.requires_grad_()
    found = token_map(attributions, torch.ones(2, 4).bool())
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, dtype=torch.float64))
    found[:, :2].sum().backward()
    assert torch.isfinite(attributions.grad).all()


def test_a_row_without_any_attribution_is_a_map_of_zeros_with_a_finite_gradient():
    attributions = torch.zeros(1, 3, 2, requires_grad=True)
    token_map(attributions, torch.ones(1, 3).bool()).sum().backward()
    assert (attributions.grad == 0).all()


def test_all_dimensions_or_more_are_the_map_without_a_limit():
    attributions, mask = torch.randn(2, 4, 6, dtype=torch.float64), torch.ones(2, 4).bool()
    for top in (6, 99):
        torch.testing.assert_close(token_map(attributions, mask, top), token_map(attributions, mask), rtol=0, atol=0)


def test_top_dimensions_change_the_teachers_map_alone():
    student, teacher = Net(2, 1), Net(2, 2)
    batch = batch_of(student, teacher)
    (ours, theirs), (cut, cut_theirs) = (next(AttributionDistillation(0, 1, top=top).maps(batch)) for top in (None, 2))
    torch.testing.assert_close(cut, ours, rtol=0, atol=0)
    assert not torch.allclose(cut_theirs, theirs)


def test_the_map_does_not_change_with_the_scale_of_the_view():
    net = Net(2)
    path = net.path(3)
    view = views(path.logits, CLASSES)[0]
    plain, scaled = (token_map(integrated_gradients(c * view, path), MASK) for c in (1.0, -7.5))
    torch.testing.assert_close(plain, scaled)


def test_the_id_under_padding_changes_nothing():
    student, teacher = Net(3, 1), Net(3, 2)
    before = attribution_loss(student, teacher, steps=2)
    other = IDS.masked_fill(~MASK, 7)
    paths = {"policy": student.path(2, other), "teacher": teacher.path(2, other)}
    apart, _ = AttributionDistillation(0, 1, steps=2).compare(
        LabelledBatch(CLASSES, MASK, torch.arange(3), paths), create_graph=True
    )
    torch.testing.assert_close(apart.sum() / MASK.sum(), before)


@pytest.mark.parametrize(("steps", "same"), [(1, True), (4, False)])
def test_of_two_classes_either_one_gives_the_same_map_at_one_step_alone(steps, same):
    net = Net(2)
    path = net.path(steps)
    maps = [
        token_map(integrated_gradients(views(path.logits, labels)[0], path), MASK) for labels in (CLASSES, 1 - CLASSES)
    ]
    assert torch.allclose(*maps, rtol=1e-9) == same


def test_the_loss_of_three_classes_is_the_sum_of_the_losses_of_their_views():
    student, teacher = Net(3, 1), Net(3, 2)
    batch = batch_of(student, teacher, 2)
    whole, _ = AttributionDistillation(0, 1, steps=2).compare(batch, create_graph=True)
    parts = []
    for c in range(3):
        ours, theirs = (
            token_map(integrated_gradients(-path.logits.log_softmax(-1)[..., c], path), MASK)
            for path in batch.paths.values()
        )
        parts.append((ours - theirs).square().sum(dim=-1))
    torch.testing.assert_close(whole, sum(parts))
    assert len(views(batch.paths["policy"].logits, CLASSES)) == 3


def test_a_regression_is_attributed_by_its_squared_error():
    path = Net(1).path(2)
    torch.testing.assert_close(views(path.logits, NUMBERS)[0], (path.logits[..., 0] - NUMBERS) ** 2)


@pytest.mark.parametrize(
    ("classes", "steps", "how"),
    [
        (2, 1, {}),
        (3, 2, {}),
        (1, 2, {}),
        (2, 3, {"norm": 1, "kind": "absolute"}),
        (2, 1, {"kind": "smooth_l1", "top": 2}),
    ],
)
def test_the_gradient_of_the_attribution_loss_agrees_with_finite_differences(classes, steps, how):
    """Without the second derivative it would miss what a weight does to the gradient at the embeddings."""
    student, teacher = Net(classes, 1), Net(classes, 2)
    labels = NUMBERS if classes == 1 else CLASSES
    attribution_loss(student, teacher, steps, labels, **how).backward()
    for weight in (student.words.weight, student.mix.weight, student.head.weight):
        for place in ((1, 0), (0, 2)) if len(weight) > 1 else ((0, 1), (0, 2)):
            ends = []
            for move in (1e-6, -1e-6):
                with torch.no_grad():
                    weight[place] += move
                ends.append(attribution_loss(student, teacher, steps, labels, **how).item())
                with torch.no_grad():
                    weight[place] -= move
            numeric = (ends[0] - ends[1]) / 2e-6
            assert weight.grad[place].item() == pytest.approx(numeric, rel=1e-4, abs=1e-9)
    assert all(p.grad is None for p in teacher.parameters())


def test_without_attribution_the_loss_is_plain_distillation_and_at_temperature_one_its_gradient_that_of_kl():
    student, teacher = Net(3, 1), Net(3, 2)
    batch = batch_of(student, teacher)
    values = AttributionDistillation(1.0, 0.0)(batch).values
    log_p, log_q = (batch.paths[name].answers.log_softmax(-1) for name in ("teacher", "policy"))
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    torch.testing.assert_close(values, kl + entropy)  # a cross-entropy: KL and a constant
    ours, theirs = (torch.autograd.grad(one.sum(), student.head.weight, retain_graph=True)[0] for one in (values, kl))
    torch.testing.assert_close(ours, theirs)


def test_the_soft_loss_divides_by_the_temperature_and_is_not_rescaled():
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p, q = torch.tensor([0.0, 2.0]).softmax(-1), torch.tensor([1.0, 0.0]).log_softmax(-1)
    torch.testing.assert_close(soft_loss(student, teacher, 2.0), -(p * q).sum()[None])
    torch.testing.assert_close(soft_loss(student[:, :1], teacher[:, :1], 4.0, True), torch.tensor([0.25]))


def test_the_temperature_falls_to_one_in_the_last_epoch_and_one_epoch_divides_by_no_zero():
    assert [annealed(3.0, epoch, 5) for epoch in range(5)] == [3.0, 2.5, 2.0, 1.5, 1.0]
    assert annealed(3.0, 0, 1) == 3.0


def test_the_loss_weighs_the_task_the_teacher_and_the_maps():
    student, teacher = Net(2, 1), Net(2, 2)
    batch = batch_of(student, teacher)
    found = AttributionDistillation(0.8, 5.0, 2.0)(batch)
    task = nn.functional.cross_entropy(batch.paths["policy"].answers, CLASSES)
    soft = soft_loss(batch.paths["policy"].answers, batch.paths["teacher"].answers, 2.0).mean()
    whole = 0.2 * task + 0.8 * soft + 5 * attribution_loss(student, teacher)
    torch.testing.assert_close(found.values.mean(), whole)
    total, tokens = found.metrics["attribution_loss"]
    assert tokens == 9
    assert not total.requires_grad
    assert total.item() / 9 == pytest.approx(attribution_loss(student, teacher).item(), rel=1e-6)


def test_parts_of_an_update_weigh_as_the_whole_does():
    student, teacher = Net(3, 1), Net(3, 2)
    objective = AttributionDistillation(0.5, 2.0)
    whole = objective(batch_of(student, teacher)).values.sum() / 3
    parts = []
    for rows in ([0, 2], [1]):
        paths = {
            name: net.path(ids=IDS[rows], mask=MASK[rows]) for name, net in (("policy", student), ("teacher", teacher))
        }
        part = LabelledBatch(CLASSES[rows], MASK[rows], torch.tensor(rows), paths, tokens_per_row=9 / 3)
        parts.append(objective(part).values.sum() / 3)
    torch.testing.assert_close(sum(parts), whole)


def test_metrics_are_means_over_rows():
    found = AttributionDistillation(0.5, 1.0)(batch_of(Net(2, 1), Net(2, 2))).metrics
    for name in ("cross_entropy", "correct", "soft_loss", "map_cosine"):
        assert found[name][1] == 3, name
    assert 0 <= found["correct"][0] <= 3
