"""Log-probabilities of chosen ids against torch's own log-softmax."""

import math

import pytest
import torch

from trimtab.core.logprobs import token_logprobs, token_logprobs_and_entropy


def reference(logits, ids):
    flat = ids.reshape(len(ids), -1)
    return logits.log_softmax(-1).gather(-1, flat).reshape(ids.shape)


IDS = {
    "one id": torch.tensor([0, 5, 9, 5]),
    "three ids": torch.tensor([[0, 1, 2], [9, 8, 7], [3, 5, 4], [6, 0, 9]]),
    "an id twice": torch.tensor([[3, 3, 1], [2, 2, 2], [0, 9, 0], [4, 5, 6]]),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_value_and_gradient_are_those_of_torch_in_float64(ids):
    logits = (4 * torch.randn(4, 10, dtype=torch.float64)).requires_grad_()
    upstream = torch.randn(ids.shape, dtype=torch.float64)
    wanted = reference(logits, ids)
    (wanted_grad,) = torch.autograd.grad(wanted, logits, upstream)
    found = token_logprobs(logits, ids)
    (found_grad,) = torch.autograd.grad(found, logits, upstream.float())
    assert found.dtype == torch.float32
    assert found.shape == ids.shape
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_grad, wanted_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_bfloat16_logits_are_summed_in_float32(ids):
    logits = (4 * torch.randn(4, 10)).bfloat16()
    upstream = torch.randn(ids.shape)
    exact = logits.double().requires_grad_()
    wanted = reference(exact, ids)
    wanted.backward(upstream.double())
    leaf = logits.clone().requires_grad_()
    found = token_logprobs(leaf, ids)
    found.backward(upstream)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)  # no rounding but that of the logits
    assert leaf.grad.dtype == torch.bfloat16
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=2**-8, atol=1e-6)


def test_two_known_probabilities():
    logits = torch.tensor([[0.0, torch.tensor(3.0).log()]])  # probabilities 1/4 and 3/4
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([1])).exp(), torch.tensor([0.75]))


def test_gradient_is_one_hot_minus_softmax():
    logits = torch.zeros(1, 4, requires_grad=True)
    token_logprobs(logits, torch.tensor([2])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, -0.25, 0.75, -0.25]]))


def test_an_id_given_twice_counts_twice_in_the_gradient():
    logits = torch.zeros(1, 4, requires_grad=True)
    (token_logprobs(logits, torch.tensor([[2, 2]])) * torch.tensor([[1.0, 10.0]])).sum().backward()
    torch.testing.assert_close(logits.grad, 11 * torch.tensor([[-0.25, -0.25, 0.75, -0.25]]))


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[3e4, -3e4, 3e4]], requires_grad=True)
    found = token_logprobs(logits, torch.tensor([[0, 1]]))
    found.sum().backward()
    torch.testing.assert_close(found, torch.tensor([[-0.6931, -60000.6931]]), rtol=1e-3, atol=0)
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 1.0, -1.0]]), rtol=0, atol=1e-3)


def test_no_tokens_give_no_values_and_an_empty_gradient():
    logits = torch.zeros(0, 4, requires_grad=True)
    token_logprobs(logits, torch.zeros(0, dtype=torch.long)).sum().backward()
    assert logits.grad.shape == (0, 4)


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_the_entropy_comes_beside_the_same_log_probabilities_and_has_no_gradient(ids):
    logits = (4 * torch.randn(4, 10)).requires_grad_()
    upstream = torch.randn(ids.shape)
    wanted = token_logprobs(logits, ids)
    (wanted_grad,) = torch.autograd.grad(wanted, logits, upstream)
    found, entropy = token_logprobs_and_entropy(logits, ids)
    (found_grad,) = torch.autograd.grad(found, logits, upstream)
    assert torch.equal(found, wanted)
    assert torch.equal(found_grad, wanted_grad)
    assert not entropy.requires_grad
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits.detach()).entropy())


def test_the_entropy_of_two_known_distributions():
    logits = torch.tensor([[0.0, torch.tensor(3.0).log()], [0.0, -30_000.0]])
    _, entropy = token_logprobs_and_entropy(logits, torch.tensor([1, 0]))
    assert entropy.tolist() == pytest.approx([-0.25 * math.log(0.25) - 0.75 * math.log(0.75), 0])
