"""RLOO: the expressions that TRL computes for the same tensors, answer by answer."""

import pytest
import torch

from tiny_rollouts import Reader, rollouts
from trimtab.core import PlanError, Reference, Requirements, TokenBatch, reduce, weights
from trimtab.methods.rloo import METHOD, Config

LENGTHS, V = (3, 1, 4, 2), 7


def plan(**settings):
    config = Config(**settings)
    return METHOD.build(config, None, Reader("reference") if config.kl else None)


@pytest.mark.parametrize("kl", [0.0, 0.05])
def test_value_and_gradient_are_those_of_trls_expressions(kl):
    mask = torch.zeros(4, 4)
    for i, length in enumerate(LENGTHS):
        mask[i, :length] = 1
    logits, ids = torch.randn(4, 5, V).requires_grad_(), torch.randint(0, V, (4, 4))
    labels = torch.cat([torch.full((4, 1), -100), torch.where(mask == 1, ids, -100)], dim=1)
    logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    old, ref = (logps.detach() + 0.15 * torch.randn(4, 4) for _ in range(2))
    # as TRL 1.16 computes them
    rewards = torch.tensor([1.0, 0.0, 0.5, 2.0]) - kl * ((old - ref) * mask).sum(-1)
    grouped = rewards.view(2, 2)
    advantages = rewards - ((grouped.sum(1, keepdim=True) - grouped) / 1).view(-1)
    ratio = torch.exp((logps * mask).sum(1) - (old * mask).sum(1))
    wanted = -torch.min(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages).mean()
    (wanted_grad,) = torch.autograd.grad(wanted, logits, retain_graph=True)

    made, flat = plan(kl=kl), mask.bool()
    found = made.advantages(rollouts(LENGTHS, [1.0, 0.0, 0.5, 2.0], [0, 0, 1, 1], old=old[flat], reference=ref[flat]))
    batch = TokenBatch.align(logits, labels).with_signals(old=old[flat], **found)
    losses = made.objective(batch)
    found = reduce(losses, weights(batch, made.reduction, per=made.objective.per))
    (found_grad,) = torch.autograd.grad(found, logits)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(found_grad, wanted_grad, rtol=1e-4, atol=1e-7)
    assert losses.metrics["ratio"][0].item() == pytest.approx(ratio.sum().item(), rel=1e-5)
    region = ((ratio < 0.8) & (advantages < 0)) | ((ratio > 1.2) & (advantages > 0))
    assert losses.metrics["clip_fraction"] == (region.sum(), 4)


def test_where_no_old_policy_is_given_the_gradient_is_the_advantage_times_that_of_the_whole_answer():
    labels = torch.tensor([[-100, 3, 4, 5], [-100, 2, -100, -100], [-100, -100, -100, -100]])
    logits = torch.randn(3, 4, V).requires_grad_()
    batch = TokenBatch.align(logits, labels).with_signals(advantages=torch.tensor([2.0, 2, 2, -1]))
    losses = plan().objective(batch)
    assert losses.values.tolist() == [-2, 1, 0]
    (found,) = torch.autograd.grad(losses.values.sum(), logits, retain_graph=True)
    logprobs = TokenBatch.align(logits, labels).logprobs()
    (wanted,) = torch.autograd.grad(-(2 * logprobs[:3].sum() - logprobs[3]), logits)
    torch.testing.assert_close(found, wanted)
    assert losses.metrics["ratio"] == (2, 2)  # the empty answer is none


def test_it_asks_for_the_initial_policy_for_its_kl_alone():
    assert METHOD.requirements(Config()).models == (Reference(),)
    assert METHOD.requirements(Config(kl=0.0)) == Requirements()
    assert plan(kl=0.0).advantages.needs == frozenset()
    assert plan().reduction == "sequence_mean"
    with pytest.raises(PlanError, match="LeaveOneOut needs reference, which no rollout signal"):
        METHOD.build(Config(), None)
