"""The only division by a count."""

import pytest
import torch

from trimtab.core import IGNORE, Losses, TokenBatch, count, reduce, weights
from trimtab.core.loss import Objective
from trimtab.methods import hpd
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match

I = IGNORE  # noqa: E741

# answers of 3, 0, 1, 2 and 0 tokens; the first label of the fourth row predicts nothing
LABELS = torch.tensor([[I, 5, 5, 5], [I, I, I, I], [I, I, 5, I], [5, I, 5, 5], [I, I, I, I]])
VALUES = torch.tensor([1.0, 2.0, 6.0, 10.0, 3.0, 5.0])


def scalar(how, total=None):
    batch = TokenBatch.from_labels(LABELS)
    return reduce(Losses(VALUES, {}), weights(batch, how, total)).item()


def test_token_mean_divides_by_the_answer_tokens():
    assert scalar("token_mean") == pytest.approx(27 / 6)


def test_sequence_mean_gives_every_row_with_an_answer_the_same_share():
    assert scalar("sequence_mean") == pytest.approx((9 / 3 + 10 / 1 + 8 / 2) / 3)


def test_sequence_sum_is_the_mean_over_rows_with_an_answer_of_their_sums():
    assert scalar("sequence_sum") == pytest.approx((9 + 10 + 8) / 3)


def test_sum_divides_by_nothing():
    assert scalar("sum") == 27


@pytest.mark.parametrize(
    "how, expected",
    [("token_mean", 27 / 60), ("sequence_mean", (3 + 10 + 4) / 60), ("sequence_sum", 27 / 60), ("sum", 27 / 60)],
)
def test_a_total_that_is_given_replaces_the_count_of_this_batch(how, expected):
    assert scalar(how, 60) == pytest.approx(expected)
    assert scalar(how, torch.tensor(60)) == pytest.approx(expected)


def test_count_is_what_each_reduction_divides_by():
    assert count(LABELS, "token_mean") == 6
    assert count(LABELS, "sequence_mean") == count(LABELS, "sequence_sum") == 3
    assert count(LABELS, "sum") == 0


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "sequence_sum", "sum"])
def test_the_count_of_the_batch_itself_is_the_default_total(how):
    batch = TokenBatch.from_labels(LABELS)
    torch.testing.assert_close(weights(batch, how), weights(batch, how, count(LABELS, how)))


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("processes", [1, 3])
def test_weights_of_an_update_sum_to_the_number_of_averaging_processes(how, processes):
    parts = [LABELS[:1], LABELS[1:2], LABELS[2:]]
    total = sum(count(part, how) for part in parts) / processes
    summed = sum(weights(TokenBatch.from_labels(part), how, total).sum() for part in parts)
    assert summed.item() == pytest.approx(processes)


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean"])
def test_loss_does_not_depend_on_how_rows_are_grouped(how):
    total = count(LABELS, how)
    split = 0.0
    for part, values in ((LABELS[:2], VALUES[:3]), (LABELS[2:], VALUES[3:])):
        split += reduce(Losses(values, {}), weights(TokenBatch.from_labels(part), how, total)).item()
    assert split == pytest.approx(scalar(how))


def test_sum_does_not_depend_on_how_rows_are_grouped():
    parts = [(LABELS[:2], VALUES[:3]), (LABELS[2:], VALUES[3:])]
    total = sum(count(part, "sum") for part, _ in parts)
    split = sum(
        reduce(Losses(values, {}), weights(TokenBatch.from_labels(part), "sum", total)).item() for part, values in parts
    )
    assert split == pytest.approx(scalar("sum"))


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "sum"])
def test_no_answer_tokens_give_a_zero_that_is_finite(how):
    empty = torch.full((2, 3), I)
    batch = TokenBatch.from_labels(empty)
    assert weights(batch, how).shape == (0,)
    assert reduce(Losses(torch.zeros(0), {}), weights(batch, how)) == 0
    assert reduce(Losses(torch.zeros(0), {}), weights(batch, how, 7)) == 0


def test_weights_are_float32_whatever_the_total():
    batch = TokenBatch.from_labels(LABELS)
    for how in ("token_mean", "sequence_mean", "sum"):
        for total in (None, 4, 4.0, torch.tensor(4)):
            assert weights(batch, how, total).dtype == torch.float32


def test_the_gradient_of_the_loss_at_a_value_is_its_weight():
    batch = TokenBatch.from_labels(LABELS)
    values = VALUES.clone().requires_grad_()
    reduce(Losses(values, {}), weights(batch, "sequence_mean")).backward()
    torch.testing.assert_close(values.grad, torch.tensor([1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 6, 1 / 6]))


@pytest.mark.parametrize("how", ["mean", "", "Token_mean", None])
def test_an_unknown_reduction_is_refused_by_name(how):
    with pytest.raises(ValueError, match=f"token_mean, sequence_mean, sequence_sum or sum, not {how!r}"):
        weights(TokenBatch.from_labels(LABELS), how)
    with pytest.raises(ValueError, match=f"sequence_sum, sum, pair_mean, preference_mean, not {how!r}"):
        count(LABELS, how)


def test_the_objectives_are_objectives():
    for objective in (Likelihood(), Match(forward_kl, 1.0, 0.0), hpd.HPD(hpd.Config())):
        assert isinstance(objective, Objective)
    assert not isinstance(forward_kl, Objective)
