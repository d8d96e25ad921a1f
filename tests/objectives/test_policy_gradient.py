"""The clipped surrogate: by hand, at its limits, and as an objective on plain logits and in the engine."""

import math

import pytest
import torch
from torch import nn

from trimtab.core import Head, Plan, PlanError, TokenBatch, fused_loss, reduce, weights
from trimtab.objectives.divergence import reverse_kl
from trimtab.objectives.likelihood import Likelihood, k3
from trimtab.objectives.policy_gradient import PolicyGradient, Reinforce, ValueLoss, clipped, clipped_surrogate

LABELS = torch.tensor([[-100, -100, 3, 5, 2], [-100, 4, 1, -100, -100]])
N, V = 5, 7
ADVANTAGES = torch.tensor([1.0, -2.0, 0.5, 0.0, -1.0])


def at(*ratios: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities with gradient, and old ones, with these ratios."""
    old = torch.full((len(ratios),), -2.0)
    return (old + torch.tensor(ratios).log()).requires_grad_(), old


def tokens(**signals) -> tuple[torch.Tensor, TokenBatch]:
    logits = torch.randn(2, 5, V, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return logits, TokenBatch.align(logits, LABELS).with_signals(**signals)


def mean(objective, batch):
    return reduce(objective(batch), weights(batch, "token_mean"))


# ---------------------------------------------------------------- values and gradients


def test_the_surrogate_by_hand():
    new, old = at(1.0, 1.1, 1.5, 0.5, 1.0, 1.5, 0.9, 0.5)
    advantages = torch.tensor([2.0, 2, 2, 2, -2, -2, -2, -2])
    found = clipped_surrogate(new, old, advantages, 0.2, 0.28)
    assert found.tolist() == pytest.approx([-2, -2.2, -2.56, -1, 2, 3, 1.8, 1.6])


def test_the_gradient_is_that_of_the_ratio_and_exactly_zero_where_it_is_clipped():
    new, old = at(1.0, 1.5, 0.5, 1.5, 0.5)
    advantages = torch.tensor([2.0, 2, 2, -2, -2])
    clipped_surrogate(new, old, advantages, 0.2, 0.28).sum().backward()
    assert new.grad.tolist() == pytest.approx([-2, 0, -1, 3, 0])
    assert clipped(new, old, advantages, 0.2, 0.28).tolist() == [False, True, False, False, True]


def test_the_dual_clip_bounds_the_loss_of_negative_advantages_alone():
    new, old = at(2.9, 3.5, 3.5, 0.1)
    advantages = torch.tensor([-2.0, -2, 2, -2])
    found = clipped_surrogate(new, old, advantages, 0.2, 0.28, dual=3.0)
    found.sum().backward()
    assert found.tolist() == pytest.approx([5.8, 6, -2.56, 1.6])
    assert new.grad.tolist() == pytest.approx([5.8, 0, 0, 0])
    assert clipped(new, old, advantages, 0.2, 0.28, dual=3.0).tolist() == [False, True, True, True]


def test_a_token_that_has_no_advantage_was_not_clipped():
    new, old = at(0.1, 1.0, 5.0)
    assert not clipped(new, old, torch.zeros(3), 0.2, 0.2, dual=3.0).any()


def test_without_bounds_it_is_the_plain_ratio():
    new, old = at(0.1, 5.0, 0.1, 5.0)
    advantages = torch.tensor([1.0, 1, -1, -1])
    found = clipped_surrogate(new, old, advantages, None, None)
    assert found.tolist() == pytest.approx([-0.1, -5, 0.1, 5])
    assert not clipped(new, old, advantages, None, None).any()


def test_each_bound_can_stand_alone():
    new, old = at(5.0, 0.1)
    advantages = torch.tensor([1.0, -1])
    assert clipped_surrogate(new, old, advantages, 0.2, None).tolist() == pytest.approx([-5, 0.8])
    assert clipped_surrogate(new, old, advantages, None, 0.2).tolist() == pytest.approx([-1.2, 0.1])


def test_log_ratios_beyond_20_are_clamped():
    new = torch.tensor([-90.0, -1.0]).requires_grad_()
    found = clipped_surrogate(new, torch.tensor([-1.0, -90.0]), torch.tensor([1.0, -1.0]), None, None)
    found.sum().backward()
    torch.testing.assert_close(found, torch.tensor([-math.exp(-20), math.exp(20)]))
    assert new.grad.tolist() == [0, 0]


def test_neither_the_old_policy_nor_the_advantages_get_a_gradient():
    new, old = at(1.1)
    advantages = torch.ones(1).requires_grad_()
    clipped_surrogate(new, old.requires_grad_(), advantages, 0.2, 0.2).sum().backward()
    assert old.grad is None
    assert advantages.grad is None


def test_it_works_on_tables_of_candidates_too():
    new, old = at(1.0, 1.5, 0.5, 1.5)
    advantages = torch.tensor([2.0, 2, -2, -2])
    flat = clipped_surrogate(new, old, advantages, 0.2, 0.2, 3.0)
    table = clipped_surrogate(new.view(2, 2), old.view(2, 2), advantages.view(2, 2), 0.2, 0.2, 3.0)
    assert torch.equal(table.flatten(), flat)


# ---------------------------------------------------------------- as an objective


def test_where_no_old_policy_is_given_it_is_the_policy_itself():
    logits, batch = tokens(advantages=ADVANTAGES)
    losses = PolicyGradient(0.2, 0.2)(batch)
    torch.testing.assert_close(losses.values, -ADVANTAGES, rtol=0, atol=0)
    (found,) = torch.autograd.grad(losses.values.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad((-ADVANTAGES * batch.logprobs()).sum(), logits)
    torch.testing.assert_close(found, wanted)


def test_an_old_policy_that_is_given_is_what_the_ratio_is_measured_from():
    _, batch = tokens(advantages=ADVANTAGES)
    old = batch.logprobs().detach() - torch.tensor([0.5, -0.5, 0.1, 0.0, 0.3])
    losses = PolicyGradient(0.2, 0.28, dual=3.0)(batch.with_signals(old=old))
    wanted = clipped_surrogate(batch.logprobs(), old, ADVANTAGES, 0.2, 0.28, 3.0)
    torch.testing.assert_close(losses.values, wanted)
    ratio, number = losses.metrics["ratio"]
    assert ratio.item() == pytest.approx(sum(math.exp(x) for x in (0.5, -0.5, 0.1, 0, 0.3)), rel=1e-5)
    assert losses.metrics["clip_fraction"] == (2, 5)  # the first upwards, the second downwards
    assert number == N


def test_advantages_of_one_are_the_likelihood():
    logits, batch = tokens(advantages=torch.ones(N))
    (found,) = torch.autograd.grad(mean(PolicyGradient(0.2, 0.2), batch), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(mean(Likelihood(), batch), logits)
    torch.testing.assert_close(found, wanted)


def test_the_kl_to_the_reference_is_added_with_its_coefficient():
    _, batch = tokens(advantages=ADVANTAGES, reference=-2 * torch.rand(N))
    plain, found = PolicyGradient(0.2, 0.2)(batch), PolicyGradient(0.2, 0.2, kl=0.1)(batch)
    kl = k3(batch.logprobs(), batch.signals["reference"])
    torch.testing.assert_close(found.values, plain.values + 0.1 * kl)
    torch.testing.assert_close(found.metrics["kl"][0], kl.sum().detach())
    old = batch.logprobs().detach() - 0.1
    moved = PolicyGradient(0.2, 0.2, kl=0.1)(batch.with_signals(old=old))
    torch.testing.assert_close(moved.metrics["kl"][0], math.exp(0.1) * kl.sum().detach())
    assert PolicyGradient(0.2, 0.2, kl=0.1).needs == {"advantages", "reference"}
    assert "kl" not in plain.metrics


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_over_all_tokens_that_could_have_been_drawn_its_gradient_is_that_of_the_kl(shift):
    logits, reference = torch.randn(5).double().requires_grad_(), torch.randn(5).double().log_softmax(0)
    (wanted,) = torch.autograd.grad(reverse_kl(logits.log_softmax(0)[None], reference[None]).sum(), logits)
    old = (logits.detach() + shift * torch.randn(5)).log_softmax(0)  # who drew them
    labels = torch.stack([torch.full((5,), -100), torch.arange(5)], dim=1)
    batch = TokenBatch.align(logits.expand(5, 2, 5), labels)
    batch = batch.with_signals(old=old, reference=reference, advantages=torch.zeros(5))
    values = PolicyGradient(None, None, kl=1.0)(batch).values
    (found,) = torch.autograd.grad((values * old.exp()).sum(), logits)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_it_tells_entropy_likelihood_and_how_many_tokens_teach_nothing():
    _, batch = tokens(advantages=ADVANTAGES)
    for objective in (PolicyGradient(0.2, 0.2), Reinforce()):
        metrics = objective(batch).metrics
        assert metrics["zero_advantage"] == (1, 5)
        torch.testing.assert_close(metrics["nll"][0], -batch.logprobs().sum().detach())
        wanted = torch.distributions.Categorical(logits=batch.logits().detach()).entropy().sum()
        torch.testing.assert_close(metrics["entropy"][0], wanted)
        assert metrics["advantage"][0].item() == pytest.approx(-1.5)


def test_reinforce_is_the_log_probability_times_the_advantage_and_knows_no_old_policy():
    _, batch = tokens(advantages=ADVANTAGES)
    wanted = -ADVANTAGES * batch.logprobs()
    torch.testing.assert_close(Reinforce()(batch).values, wanted)
    torch.testing.assert_close(Reinforce()(batch.with_signals(old=torch.zeros(N))).values, wanted)


def test_without_advantages_a_plan_is_refused():
    with pytest.raises(PlanError, match="PolicyGradient needs the signal advantages"):
        Plan(PolicyGradient(0.2, 0.2))


def test_the_critic_learns_the_returns():
    values = torch.tensor([1.0, 2.0, 0.0, -1.0, 3.0], requires_grad=True)
    batch = TokenBatch.from_labels(LABELS, {"policy": values, "returns": torch.tensor([1.0, 0, 0, 1, 1])})
    losses = ValueLoss()(batch)
    assert losses.values.tolist() == [0, 4, 0, 4, 4]
    loss = reduce(losses, weights(batch, "sequence_mean"))  # the mean over an answer's tokens, then over answers
    assert loss.item() == pytest.approx((4 / 3 + 8 / 2) / 2)
    loss.backward()
    assert values.grad.tolist() == pytest.approx([0, 2 * 2 / 6, 0, 2 * -2 / 4, 2 * 2 / 4])
    assert losses.metrics["value"] == (5, 5)
    assert ValueLoss.needs == {"returns"}


# ---------------------------------------------------------------- in the engine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("objective", [PolicyGradient(0.2, 0.28, dual=3.0, kl=0.1), Reinforce()])
def test_the_engine_gives_the_value_and_the_gradient_of_plain_logits(monkeypatch, objective, dtype):
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", 3)
    monkeypatch.setattr("trimtab.core.vocab.SLICE_BYTES", 4 * V * 2)
    head = Head(nn.Linear(6, V, dtype=dtype), V, temperature=0.8)
    hidden = torch.randn(N, 6, dtype=dtype).requires_grad_()
    signals = {"advantages": ADVANTAGES, "old": -2 * torch.rand(N), "reference": -2 * torch.rand(N)}
    batch = TokenBatch.from_labels(LABELS, signals)
    weight = weights(batch, "token_mean")
    wanted = objective(batch.with_signals(policy=head(hidden)))
    found = fused_loss(objective, batch, hidden, head, weight)
    rtol, atol = (1e-4, 1e-6) if dtype == torch.float32 else (2**-6, 2**-9)
    torch.testing.assert_close(found.values, wanted.values.detach(), rtol=rtol, atol=atol)
    (expected,) = torch.autograd.grad(reduce(wanted, weight), hidden)
    (grad,) = torch.autograd.grad(found.loss, hidden)
    assert expected.abs().max() > 0
    torch.testing.assert_close(grad, expected, rtol=rtol, atol=atol)
    for name, (total, number) in wanted.metrics.items():
        torch.testing.assert_close(found.metrics[name][0], total, rtol=1e-3, atol=1e-5)
        assert found.metrics[name][1] == number
