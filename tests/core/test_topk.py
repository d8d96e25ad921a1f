"""The K most likely tokens and the rest of the mass: values by hand, limits, and that it is a coarsening."""

import math

import pytest
import torch

from trimtab.core import Head, LazyLogits, Losses, Objective, TokenBatch, TopKError, fused_loss, reduce, top_k, weights
from trimtab.core.topk import TopK, class_logprobs, left_out
from trimtab.objectives.divergence import forward_kl, jsd, reverse_kl

DIVERGENCES = [forward_kl, reverse_kl, jsd]
N, V, D = 12, 40, 6


class OverClasses(Objective):
    needs = frozenset({"teacher"})

    def __init__(self, divergence=forward_kl, temperature=1.0):
        self.divergence, self.temperature = divergence, temperature

    def __call__(self, batch: TokenBatch) -> Losses:
        values = self.divergence(*batch.classes(temperature=self.temperature))
        return batch.losses(values)


class WholeTable(Objective):
    def __call__(self, batch: TokenBatch) -> Losses:
        return batch.losses(forward_kl(batch.log_softmax(), batch.log_softmax("teacher")))


def logits(seed, rows=N, vocab=V, spread=2.0):
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def batch_of(student, teacher):
    labels = torch.cat([torch.tensor([-100]), torch.arange(len(student)) % 7])[None]
    return TokenBatch.from_labels(labels, {"policy": student, "teacher": teacher})


def test_values_worked_by_hand():
    table = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()
    found = top_k(table, 2, torch.tensor([3]))
    assert found.ids.tolist() == [[0, 2]]
    torch.testing.assert_close(found.logprobs.exp(), torch.tensor([[0.5, 0.3]]))
    torch.testing.assert_close(found.rest.exp(), torch.tensor([0.2]))
    torch.testing.assert_close(found.label_logprobs.exp(), torch.tensor([0.1]))
    student = torch.tensor([[0.25, 0.25, 0.25, 0.25]]).log()
    batch = TokenBatch.from_labels(torch.tensor([[-100, 3]]), {"policy": student, "teacher": found})
    q, p = batch.classes()
    torch.testing.assert_close(q.exp(), torch.tensor([[0.25, 0.25, 0.5]]))
    expected = 0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.4)
    torch.testing.assert_close(forward_kl(q, p), torch.tensor([expected]))


@pytest.mark.parametrize("number", [1, 3, V - 1, V])
def test_gradient_is_that_of_numbers(number):
    x = logits(1, 3).double().requires_grad_()
    ids = logits(2, 3).topk(number).indices
    keep = slice(None) if number < V else slice(0, number)  # without a rest its class has no gradient
    assert torch.autograd.gradcheck(lambda x: class_logprobs(x, ids)[:, keep], (x,))


def test_a_small_rest_is_not_lost():
    """1 - exp(logsumexp) is 0 in float32 here, but the rest is known to be 39 e^-30 / (1 + 39 e^-30)."""
    table = torch.full((1, V), -30.0)
    table[0, 5] = 0.0
    found = top_k(table, 1, torch.tensor([0]))
    torch.testing.assert_close(found.rest, torch.tensor([math.log(V - 1) - 30.0]))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_with_all_tokens_it_is_the_divergence_over_the_vocabulary(divergence):
    teacher = logits(2)
    grads = []
    for given in (top_k(teacher, V, torch.zeros(N, dtype=torch.long)), teacher):
        student = logits(1).requires_grad_()
        batch = batch_of(student, given)
        values = divergence(*batch.classes())
        values.sum().backward()
        grads.append((values.detach(), student.grad))
    assert torch.isneginf(top_k(teacher, V, torch.zeros(N, dtype=torch.long)).rest).all()
    torch.testing.assert_close(grads[0], grads[1])
    assert grads[0][1].isfinite().all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_it_is_a_coarsening(divergence):
    student, teacher = logits(1), logits(2)
    whole = divergence(student.log_softmax(-1), teacher.log_softmax(-1))
    before = torch.zeros(N)
    for number in (1, 2, 5, 20, V):
        values = divergence(*batch_of(student, top_k(teacher, number, torch.zeros(N, dtype=torch.long))).classes())
        assert (values >= before - 1e-5).all()
        before = values
    torch.testing.assert_close(before, whole)
    same = divergence(*batch_of(teacher, top_k(teacher, 3, torch.zeros(N, dtype=torch.long))).classes())
    torch.testing.assert_close(same, torch.zeros(N), atol=1e-6, rtol=0)


def test_two_hundred_steps_of_reverse_kl_do_not_empty_the_support():
    teacher = logits(2, 1)
    given = top_k(teacher, 4, torch.zeros(1, dtype=torch.long))
    student = logits(1, 1).requires_grad_()
    before = student.detach().softmax(-1)[0, given.ids[0]].sum()
    for _ in range(200):
        (grad,) = torch.autograd.grad(reverse_kl(*batch_of(student, given).classes()).sum(), student)
        student = (student.detach() - 2.0 * grad).requires_grad_()
    mass = student.detach().softmax(-1)[0, given.ids[0]].sum()
    assert mass > before
    torch.testing.assert_close(mass, given.logprobs.exp().sum(), atol=0.02, rtol=0)


def test_a_policy_with_a_longer_head_is_cropped_to_what_the_teacher_knows():
    student = logits(1, vocab=V + 8)
    given = top_k(logits(2), 3, torch.zeros(N, dtype=torch.long))
    torch.testing.assert_close(batch_of(student, given).classes(), batch_of(student[:, :V], given).classes())


def test_blockwise_it_is_the_same_in_value_and_gradient(monkeypatch):
    from trimtab.core import vocab

    monkeypatch.setattr(vocab, "BLOCK_TOKENS", 5)
    monkeypatch.setattr(vocab, "SLICE_BYTES", 4 * V * 2)
    head, hidden = torch.nn.Linear(D, V, bias=False), torch.randn(N, D, requires_grad=True)
    given = top_k(logits(2), 4, torch.arange(N) % 7)
    plain = batch_of(head(hidden), given)
    weight = weights(plain, "token_mean")
    expected = reduce(OverClasses(reverse_kl)(plain), weight)
    wanted = torch.autograd.grad(expected, [hidden, head.weight])
    tokens = batch_of(hidden, given)
    tokens = TokenBatch.from_labels(torch.cat([torch.tensor([-100]), tokens.targets])[None], {"teacher": given})
    fused = fused_loss(OverClasses(reverse_kl), tokens, hidden, Head(head, V), weight)
    torch.testing.assert_close(fused.loss, expected)
    torch.testing.assert_close(torch.autograd.grad(fused.loss, [hidden, head.weight]), wanted)


def test_hidden_states_give_the_classes_of_the_whole_vocabulary():
    head, states = torch.nn.Linear(D, V), torch.randn(N, D)
    batch = batch_of(logits(1), LazyLogits(states, head, V))
    q, p = batch.classes(temperature=2.0)
    torch.testing.assert_close(p, (head(states) / 2).log_softmax(-1).detach())
    torch.testing.assert_close(q, (logits(1) / 2).log_softmax(-1))


def test_log_probabilities_of_the_answer_tokens_are_exact():
    teacher = logits(2)
    targets = torch.arange(N) % 7
    batch = batch_of(logits(1), top_k(teacher, 1, targets))
    torch.testing.assert_close(batch.logprobs(of="teacher"), teacher.log_softmax(-1).gather(1, targets[:, None])[:, 0])
    assert isinstance(batch[2:4].signals["teacher"], TopK)
    assert batch[2:4].logprobs(of="teacher").tolist() == batch.logprobs(of="teacher")[2:4].tolist()


@pytest.mark.parametrize("objective", [WholeTable(), OverClasses(temperature=2.0)])
def test_what_k_tokens_cannot_give_is_refused_by_the_objectives_name(objective):
    head, hidden = torch.nn.Linear(D, V), torch.randn(N, D)
    given = top_k(logits(2), 4, torch.zeros(N, dtype=torch.long))
    labels = torch.cat([torch.tensor([-100]), torch.zeros(N, dtype=torch.long)])[None]
    batch = TokenBatch.from_labels(labels, {"teacher": given})
    name = type(objective).__name__
    with pytest.raises(TopKError, match=f"{name} reads .* of the teacher, which only gives its 4 .*--teacher hidden"):
        fused_loss(objective, batch, hidden, Head(head, V), weights(batch, "token_mean"))


def test_what_the_classes_leave_out_by_hand():
    p = torch.tensor([[0.5, 0.05, 0.3, 0.15], [0.5, 0.1, 0.3, 0.1], [0.6, 0.0, 0.4, 0.0]])
    found = top_k(p.log(), 2, torch.tensor([0, 0, 0]))
    # the rest is 0.2 as (1/4, 3/4), then as (1/2, 1/2), then nothing
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(left_out(p.log(), found), torch.tensor([0.2 * (math.log(2) - entropy), 0.0, 0.0]))
    assert left_out(p.log(), top_k(p.log(), 4, torch.tensor([0, 0, 0]))).tolist() == [0, 0, 0]


def test_classes_and_what_they_leave_out_are_the_divergence_of_a_student_that_is_even_within_the_rest():
    teacher, student = logits(1), logits(2)
    found = top_k(teacher, 5, torch.zeros(N, dtype=torch.long))
    rest = torch.ones(N, V, dtype=torch.bool).scatter(-1, found.ids, False)
    student = torch.where(rest, -1.5, student)
    q, p = batch_of(student, found).classes()
    whole = forward_kl(student.log_softmax(-1), teacher.log_softmax(-1))
    torch.testing.assert_close(forward_kl(q, p) + left_out(teacher, found), whole)
    assert (left_out(teacher, found) <= found.rest.exp() * math.log(V - 5)).all()


@pytest.mark.parametrize("spread", [0.5, 2.0, 8.0])
def test_the_gradient_of_classes_is_exact_for_the_k_tokens_and_bounded_for_all_others(spread):
    teacher, student = logits(1), logits(2, spread=spread).requires_grad_()
    found = top_k(teacher, 5, torch.zeros(N, dtype=torch.long))
    forward_kl(*batch_of(student, found).classes()).sum().backward()
    off = student.grad - (student.softmax(-1) - teacher.softmax(-1)).detach()
    torch.testing.assert_close(off.gather(-1, found.ids), torch.zeros(N, 5), rtol=0, atol=1e-6)
    assert (off.abs().sum(-1) <= 2 * found.rest.exp() + 1e-6).all()
    assert (off.abs().sum(-1) > 0.1 * found.rest.exp()).all()
