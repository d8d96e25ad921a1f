"""SFT is the negative log-likelihood of the answers."""

import math

import torch

from trimtab.core import IGNORE, TokenBatch, reduce, weights
from trimtab.methods.sft import METHOD, Config
from trimtab.objectives.likelihood import Likelihood

LABELS = torch.tensor([[IGNORE, 0, 1], [IGNORE, IGNORE, 2]])


def test_loss_is_minus_the_log_probability_of_the_next_token():
    logits = torch.log(
        torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [1, 1, 1]], [[1, 1, 1], [0.2, 0.7, 0.1], [1, 1, 1]]])
    )
    losses = Likelihood()(TokenBatch.align(logits, LABELS))
    torch.testing.assert_close(losses.values, -torch.log(torch.tensor([0.5, 0.6, 0.1])))
    total, number = losses.metrics["nll"]
    torch.testing.assert_close(total, torch.tensor(-math.log(0.5 * 0.6 * 0.1)))
    assert number == 3


def test_gradient_at_the_logits_is_q_minus_one_hot_over_the_tokens():
    logits = torch.zeros(2, 3, 3, requires_grad=True)
    batch = TokenBatch.align(logits, LABELS)
    reduce(Likelihood()(batch), weights(batch, "token_mean")).backward()
    third = torch.full((3,), 1 / 3)
    torch.testing.assert_close(logits.grad[0, 0], (third - torch.tensor([1.0, 0, 0])) / 3)
    torch.testing.assert_close(logits.grad[0, 1], (third - torch.tensor([0, 1.0, 0])) / 3)
    torch.testing.assert_close(logits.grad[1, 1], (third - torch.tensor([0, 0, 1.0])) / 3)
    assert logits.grad[:, 2].eq(0).all()
    assert logits.grad[1, 0].eq(0).all()


def test_the_plan_needs_no_other_model():
    plan = METHOD.build(METHOD.config(), None)
    assert isinstance(plan.objective, Likelihood)
    assert plan.objective.needs == frozenset()
    assert METHOD.wanted(Config()).roles == frozenset()
