"""Matching a teacher of another vocabulary: common tokens and a class for the rest, segments, sorted probabilities."""

import itertools
import math

import pytest
import torch

from trimtab.core import Head, LazyLogits, OtherVocabulary, TokenBatch, fused_loss, reduce, weights
from trimtab.objectives import divergence as d
from trimtab.objectives.matching import Match
from trimtab.objectives.segments import MatchSegments, sorted_distance

DIVERGENCES = {"forward_kl": d.forward_kl, "reverse_kl": d.reverse_kl, "jsd": d.jsd, "todi": d.todi, "abkl": d.abkl}
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES.keys())


def batch(student, teacher, targets, segment, starts, merged, logprob):
    """A batch of one row from plain values; logits [N, V] and [N, V']."""
    labels = torch.tensor([[0, *targets]])
    return TokenBatch.from_labels(
        labels,
        {
            "policy": student,
            "teacher": OtherVocabulary(teacher),
            "segment": torch.tensor(segment),
            "starts": torch.tensor(starts, dtype=torch.bool),
            "merged": torch.tensor(merged, dtype=torch.bool),
            "segment_logprob": torch.tensor(logprob, dtype=torch.float32),
        },
    )


def matched(divergence=d.forward_kl, student_ids=(0, 1), teacher_ids=(1, 2), sizes=(3, 4), **settings):
    """Classes of single ids, and one for all others."""
    classes, others = [], []
    for ids, size in zip((student_ids, teacher_ids), sizes):
        classes.append(torch.tensor([list(ids).index(i) if i in ids else len(ids) for i in range(size)]))
        others.append(torch.tensor([i for i in range(size) if i not in ids], dtype=torch.long))
    return MatchSegments(divergence, *classes, student_alone=others[0], teacher_alone=others[1], **settings)


def test_the_loss_of_three_tokens_in_two_segments():
    q = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 3)
    # tokens 0 and 1 are one segment, which begins at the same byte on both sides; 2 is one that does not
    tokens = batch(
        q.log(), p.log(), [0, 1, 2], [0, 0, 1], [1, 0, 0], [1, 1, 1], [math.log(0.4), math.log(0.4), math.log(0.9)]
    )
    found = matched()(tokens)
    both = 0.2 * math.log(0.2 / 0.5) + 0.3 * math.log(0.3 / 0.3) + 0.5 * math.log(0.5 / 0.2)  # 0 is 1, 1 is 2
    first = 0.4 * math.log(0.4 / 0.25) + 0.6 * math.log(0.6 / 0.75)  # 0.5 times 0.5
    second = 0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4)
    torch.testing.assert_close(found.values, torch.tensor([both + first / 2, first / 2, second]))
    assert found.metrics["matched"] == (torch.tensor(1.0), torch.tensor(3.0))
    assert found.metrics["aligned"] == (torch.tensor(3.0), torch.tensor(3.0))


def test_tokens_that_begin_with_a_common_one_are_counted_as_that():
    q, p = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    tokens = batch(q.log(), p.log(), [0], [0], [1], [0], [math.log(0.2)])
    found = MatchSegments(d.forward_kl, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1, 2]))(tokens).values
    wanted = 0.3 * math.log(0.3 / 0.5) + 0.3 * math.log(0.3 / 0.5)  # no token of the student is of the rest
    assert found > wanted + 0.4 * 1e3
    found = MatchSegments(d.forward_kl, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1, 1]))(tokens).values
    torch.testing.assert_close(found, torch.tensor([0.3 * math.log(0.3 / 0.5) + 0.7 * math.log(0.7 / 0.5)]))


def test_a_segment_of_one_token_on_both_sides_is_compared_once():
    q, p = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    tokens = batch(q.log(), p.log(), [0], [0], [1], [0], [math.log(0.2)])
    both = 0.2 * math.log(0.2 / 0.5) + 0.5 * math.log(0.5 / 0.2)
    torch.testing.assert_close(matched()(tokens).values, torch.tensor([both]))


def test_tokens_outside_all_segments_have_their_cross_entropy_alone():
    q, p = torch.randn(3, 3, requires_grad=True), torch.randn(3, 4)
    tokens = batch(q, p, [0, 1, 2], [-1, -1, -1], [0, 0, 0], [0, 0, 0], [0.0, 0.0, 0.0])
    assert torch.equal(matched()(tokens).values, torch.zeros(3))
    found = matched(cross_entropy=0.25)(tokens).values
    torch.testing.assert_close(found, -0.25 * tokens.logprobs())
    assert matched()(tokens).metrics["aligned"][0] == 0


def random_batch(n=9, v=7, w=8):
    segment = [0, 0, 1, 2, 2, 2, -1, 3, 4][:n]
    starts = [1, 0, 1, 0, 0, 0, 0, 1, 0][:n]
    merged = [1, 1, 0, 1, 1, 1, 0, 0, 1][:n]
    logprob = torch.tensor([-1.0, -1.0, -0.5, -2.0, -2.0, -2.0, 0.0, -1.5, -0.1])
    student, teacher = (2 * torch.randn(n, v)).requires_grad_(), 2 * torch.randn(n, w)
    targets = torch.randint(0, v, (n,)).tolist()
    return student, teacher, batch(student, teacher, targets, segment, starts, merged, logprob.tolist())


def dense(divergence, student, teacher, tokens, temperature=1.0):
    """The same with an ordinary graph: the sum over all tokens."""
    log_q, log_p = (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    chosen = log_q.gather(1, tokens.targets[:, None])[:, 0]
    total = torch.zeros(())
    for i in tokens.signals["starts"].nonzero()[:, 0].tolist():
        q, p = log_q[i].exp(), log_p[i].exp()
        two = [torch.stack([one[a], one[b], 1 - one[a] - one[b]]).log()[None] for one, a, b in ((q, 0, 1), (p, 1, 2))]
        total = total + divergence(*two)[0]
    segment = tokens.signals["segment"]
    for s in range(int(segment.max()) + 1):
        inside = (segment == s).nonzero()[:, 0]
        if not tokens.signals["merged"][inside[0]]:
            continue
        log_s, log_t = chosen[inside].sum(), tokens.signals["segment_logprob"][inside[0]]
        two = [torch.stack([one, torch.log1p(-one.exp())])[None] for one in (log_s, log_t)]
        total = total + divergence(*two)[0]
    return total


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@every_divergence
def test_value_and_gradient_are_those_of_the_products_themselves(divergence, temperature):
    student, teacher, tokens = random_batch()
    found = matched(divergence, sizes=(7, 8), temperature=temperature)(tokens).values.sum()
    wanted = dense(divergence, student, teacher, tokens, temperature)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found, student)[0], torch.autograd.grad(wanted, student)[0], rtol=1e-4, atol=1e-5
    )


@every_divergence
def test_the_engine_in_small_blocks_gives_what_plain_logits_give(divergence, monkeypatch):
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", 2)  # cuts segments
    monkeypatch.setattr("trimtab.core.vocab.SLICE_BYTES", 4 * 7)
    _, _, tokens = random_batch()
    hidden, head = torch.randn(9, 4, requires_grad=True), torch.nn.Linear(4, 7)
    states, other = torch.randn(9, 5), torch.nn.Linear(5, 8)
    objective = matched(divergence, sizes=(7, 8), cross_entropy=0.2, sorted_rest=0.5)
    weight = weights(tokens, "token_mean")
    plain = tokens.with_signals(policy=head(hidden), teacher=OtherVocabulary(other(states).detach()))
    whole = reduce(objective(plain), weight)
    wanted = torch.autograd.grad(whole, [hidden, head.weight])
    lazy = tokens.with_signals(teacher=OtherVocabulary(LazyLogits(states, other, 8)))
    lazy = TokenBatch(**{**vars(lazy), "signals": {k: v for k, v in lazy.signals.items() if k != "policy"}})
    fused = fused_loss(objective, lazy, hidden, Head(head, 7), weight)
    torch.testing.assert_close(fused.loss, whole)
    torch.testing.assert_close(torch.autograd.grad(fused.loss, [hidden, head.weight]), wanted, rtol=1e-4, atol=1e-5)


@every_divergence
def test_one_vocabulary_on_both_sides_is_the_plain_divergence(divergence):
    student, teacher = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    tokens = batch(student, teacher, [1, 2, 3, 4], [0, 1, 2, 3], [1] * 4, [0] * 4, [0.0] * 4)
    found = matched(divergence, range(6), range(6), (6, 6))(tokens).values
    wanted = Match(divergence)(tokens.with_signals(teacher=teacher)).values
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), student)[0], torch.autograd.grad(wanted.sum(), student)[0]
    )


@every_divergence
def test_equal_models_give_no_loss_and_no_gradient(divergence):
    student, _, tokens = random_batch(w=7)
    log_q = student.detach().log_softmax(-1).gather(1, tokens.targets[:, None])[:, 0]
    segment = tokens.signals["segment"]
    own = torch.stack([log_q[segment == s].sum() if s >= 0 else torch.zeros(()) for s in segment.tolist()])
    same = tokens.with_signals(teacher=OtherVocabulary(student.detach().clone()), segment_logprob=own)
    found = matched(divergence, (0, 1, 4), (0, 1, 4), (7, 7), sorted_rest=0.3)(same).values
    (grad,) = torch.autograd.grad(found.sum(), student)
    torch.testing.assert_close(found, torch.zeros(9), rtol=0, atol=1e-5)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-5)


@every_divergence
def test_certain_and_impossible_segments_stay_finite(divergence):
    student = torch.tensor([[60.0, 0.0, 0.0], [0.0, 60.0, -60.0], [0.0, 0.0, -3e4]], requires_grad=True)
    tokens = batch(student, torch.zeros(3, 4), [0, 2, 2], [0, 1, 2], [0] * 3, [1] * 3, [0.0, -1e-9, -200.0])
    found = matched(divergence)(tokens).values
    (grad,) = torch.autograd.grad(found.sum(), student)
    assert found.isfinite().all()
    assert grad.isfinite().all()


def test_sorted_probabilities_lie_no_further_apart_than_under_any_pairing():
    q, p = torch.rand(1, 4) / 4, torch.rand(1, 5) / 5
    found = sorted_distance(q.log(), p.log())
    padded = torch.cat([q, torch.zeros(1, 1)], dim=1)
    best = min((padded[0, list(order)] - p[0]).abs().sum() for order in itertools.permutations(range(5)))
    torch.testing.assert_close(found, best[None])
    hand = sorted_distance(torch.tensor([[0.1, 0.5]]).log(), torch.tensor([[0.2, 0.1, 0.4]]).log())
    torch.testing.assert_close(hand, torch.tensor([0.1 + 0.1 + 0.1]))


def test_sorted_probabilities_are_added_where_vocabularies_are_compared():
    student, teacher, tokens = random_batch()
    without, with_it = (matched(sizes=(7, 8), sorted_rest=u)(tokens).values for u in (0.0, 0.5))
    starts = tokens.signals["starts"]
    rest = [2, 3, 4, 5, 6], [0, 3, 4, 5, 6, 7]
    distance = sorted_distance(student.log_softmax(-1)[:, rest[0]], teacher.log_softmax(-1)[:, rest[1]])
    torch.testing.assert_close(with_it - without, 0.5 * distance * starts)
