"""Pairs of tokens: which belong together, their division, and the engine against plain logits."""

import pytest
import torch

import tiny
from trimtab.core import Plan, PlanError, TokenBatch, count, reduce, vocab, weights
from trimtab.core.batch import COMPARED, IGNORE, answer_mask
from trimtab.core.pairs import PairedObjective
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.consistency import Consistency, consistency
from trimtab.objectives.likelihood import Likelihood
from trimtab.signals.columns import Column

LENGTHS = ((3, 5), (3, 2), (1, 4), (1, 8))
OBJECTIVE = PairedObjective(Likelihood(), Consistency(0.3))


def marks(rows, spans=((4, 6), (3, 5), (2, 3), (7, 8))):
    """The column [B, T]: of each sequence the tokens [start, end)."""
    found = torch.full(rows.labels.shape, -1.0)
    for row, (start, end) in enumerate(spans):
        found[row, start:end] = row % 2
    return found


def plain(rows, column, dtype=torch.float64):
    logits = torch.randn(*rows.labels.shape, 11, dtype=dtype, generator=torch.Generator().manual_seed(3))
    logits.requires_grad_()
    labels = rows.labels.where(rows.labels == IGNORE, rows.labels % 11)
    return logits, labels, TokenBatch.align(logits, labels, {COMPARED: column}, row_id=rows.row_id)


def test_the_loss_is_the_mean_of_two_token_means_and_the_mean_over_positions_of_the_consistency():
    rows = tiny.rows(LENGTHS)
    logits, labels, batch = plain(rows, marks(rows))
    found = reduce(OBJECTIVE(batch), weights(batch, "pair_mean", per="pair").double())
    nll = [
        torch.nn.functional.cross_entropy(logits[side::2, :-1].flatten(0, 1), labels[side::2, 1:].flatten())
        for side in (0, 1)
    ]
    # a token at t is predicted at t - 1
    first = torch.stack([logits[0, 3], logits[0, 4], logits[2, 1]])
    second = torch.stack([logits[1, 2], logits[1, 3], logits[3, 6]])
    expected = (nll[0] + nll[1]) / 2 + 0.3 * consistency(first, second).mean()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_alpha_zero_is_the_mean_of_both_token_means_and_not_the_pooled_mean():
    rows = tiny.rows(LENGTHS[:2])
    _, _, batch = plain(rows, marks(rows, ((4, 6), (3, 5))))
    weight = weights(batch, "pair_mean", per="pair")
    found = reduce(PairedObjective(Likelihood(), Consistency(0.0))(batch), weight)
    nll = -batch.logprobs()
    sides = [nll[batch.row % 2 == side].mean() for side in (0, 1)]
    torch.testing.assert_close(found, sum(sides) / 2, check_dtype=False)
    assert (found - nll.mean()).abs() > 1e-3


def test_gradients_of_the_term_reach_the_spans_of_both_sequences_and_nothing_else():
    rows = tiny.rows(LENGTHS)
    logits, _, batch = plain(rows, marks(rows))
    OBJECTIVE(batch).values[len(batch) :].sum().backward()
    reached = logits.grad.abs().sum(-1) > 0
    expected = torch.zeros_like(reached)
    expected[:, :-1] = marks(rows)[:, 1:] >= 0
    assert torch.equal(reached, expected)


def test_a_pair_without_marks_leaves_the_term_as_it_is_without_the_pair():
    rows = tiny.rows(LENGTHS)
    column = marks(rows)
    column[2:] = -1
    logits, labels, batch = plain(rows, column)
    weight = weights(batch, "pair_mean", per="pair")
    assert len(weight) == len(batch) + 2
    alone = TokenBatch.align(logits[:2], labels[:2], {COMPARED: column[:2]})
    torch.testing.assert_close(OBJECTIVE(batch).values[len(batch) :], OBJECTIVE(alone).values[len(alone) :])
    assert weight[len(batch) :].tolist() == [0.5, 0.5]


def test_no_marks_at_all_are_a_term_of_zero():
    rows = tiny.rows(LENGTHS)
    _, _, batch = plain(rows, torch.full(rows.labels.shape, -1.0))
    weight = weights(batch, "pair_mean", per="pair")
    assert len(weight) == len(batch)
    assert weight.sum().item() == pytest.approx(1)


def test_counts_of_micro_batches_add_up_and_are_those_of_the_weights():
    rows = tiny.rows(LENGTHS)
    column = marks(rows)
    whole = count(rows.labels, "pair_mean", column)
    assert whole.tolist() == [9, 10, 3]
    parts = [count(rows.labels[i : i + 2], "pair_mean", column[i : i + 2]) for i in (0, 2)]
    assert torch.equal(sum(parts), whole)
    _, _, batch = plain(rows, column)
    torch.testing.assert_close(weights(batch, "pair_mean", whole, "pair"), weights(batch, "pair_mean", None, "pair"))


def test_unequal_numbers_of_marked_tokens_are_refused():
    rows = tiny.rows(LENGTHS)
    for spans in (((4, 6), (3, 4), (2, 3), (7, 8)), ((4, 6), (3, 4), (2, 3), (6, 8))):
        _, _, batch = plain(rows, marks(rows, spans))
        with pytest.raises(ValueError, match="same number of compared tokens"):
            OBJECTIVE(batch)


def test_a_plan_of_another_reduction_is_refused():
    with pytest.raises(PlanError, match="pair_mean"):
        Plan(OBJECTIVE, (Column(COMPARED),), reduction="token_mean")
    with pytest.raises(PlanError, match="pair_mean"):
        Plan(Likelihood(), reduction="pair_mean")


@pytest.mark.parametrize("kind", ["llama_tied", "phi", "gemma2", "cohere"])
@pytest.mark.parametrize("small", [False, True])
def test_the_engine_and_plain_logits_agree_in_loss_metrics_and_gradients(kind, small, monkeypatch):
    """Tied heads, heads with a bias, a soft-cap and a scale; whole, and in blocks of a token."""
    if small:
        monkeypatch.setattr(vocab, "SLICE_BYTES", 1)
        monkeypatch.setattr(vocab, "BLOCK_TOKENS", 1)
    rows, objective = tiny.rows(LENGTHS), PairedObjective(Likelihood(), Consistency(3.0))
    column = marks(rows)
    policy = tiny.model(kind)
    logits = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    batch = TokenBatch.align(logits, rows.labels, {COMPARED: column})
    losses = objective(batch)
    loss = reduce(losses, weights(batch, "pair_mean", per="pair"))
    loss.backward()
    wanted = tiny.gradients(policy)
    policy.zero_grad()
    add_objective_forward(policy)
    signals = {COMPARED: column[:, 1:][answer_mask(rows.labels)]}
    call = tiny.call(objective, rows, signals, reduction="pair_mean")
    output = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=call)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(output.unreduced, losses.values.detach())
    assert tiny.relative_error(tiny.gradients(policy), wanted) < 1e-5
    assert output.metrics.keys() == losses.metrics.keys() == {"nll", "consistency", "answer_agreement"}
    for name, (total, number) in losses.metrics.items():
        assert output.metrics[name][0].item() == pytest.approx(total.item(), rel=1e-4)
        assert output.metrics[name][1] == number
