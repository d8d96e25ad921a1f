"""GRPO: its advantages, its two means, and the expressions that TRL computes for the same tensors."""

import math

import pytest
import torch
from pydantic import ValidationError

from tiny_rollouts import Reader, rollouts
from trimtab.core import PlanError, Reference, Requirements, TokenBatch, reduce, weights
from trimtab.methods.grpo import METHOD, Config
from trimtab.objectives.advantages import group_normalised
from trimtab.objectives.policy_gradient import clipped_surrogate

LENGTHS, V = (3, 1, 4, 2), 7


def plan(**settings):
    config = Config(**settings)
    return METHOD.build(config, None, Reader("reference") if config.kl else None)


def padded():
    """A generation batch as TRL holds it, [B, T], and the same as answer tokens."""
    mask = torch.zeros(4, 4)
    for i, length in enumerate(LENGTHS):
        mask[i, :length] = 1
    logits = torch.randn(4, 5, V).requires_grad_()
    ids = torch.randint(0, V, (4, 4))
    labels = torch.cat([torch.full((4, 1), -100), torch.where(mask == 1, ids, -100)], dim=1)
    return logits, ids, mask, labels


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize(("mean", "loss_type"), [("token", "dapo"), ("row", "grpo")])
@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_value_and_gradient_are_those_of_trls_expressions(scale, mean, loss_type, kl):
    logits, ids, mask, labels = padded()
    rewards, group = torch.tensor([1.0, 0.0, 0.5, 2.0]), torch.tensor([0, 0, 1, 1])
    # as TRL 1.16 computes them, [B, T]
    logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    old = logps.detach() + 0.4 * torch.randn(4, 4)
    ref = logps.detach() + 0.4 * torch.randn(4, 4)
    grouped = rewards.view(2, 2)
    advantages = (grouped - grouped.mean(1, keepdim=True)).view(-1)
    if scale == "group":
        advantages = advantages / (grouped.std(1).repeat_interleave(2) + 1e-4)
    ratio = torch.exp(logps - old)
    per_token = -torch.min(ratio * advantages[:, None], torch.clamp(ratio, 0.8, 1.28) * advantages[:, None])
    if kl:
        per_token = per_token + kl * ratio * (torch.exp(ref - logps) - (ref - logps) - 1)
    if loss_type == "dapo":
        wanted = (per_token * mask).sum() / mask.sum()
    else:
        wanted = ((per_token * mask).sum(-1) / mask.sum(-1)).mean()
    (wanted_grad,) = torch.autograd.grad(wanted, logits, retain_graph=True)

    made = plan(scale_rewards=scale, mean=mean, kl=kl, epsilon_high=0.28)
    flat = mask.bool()
    signals = {"reference": ref[flat]} if kl else {}
    found = made.advantages(rollouts(LENGTHS, rewards.tolist(), group.tolist(), **signals))
    batch = TokenBatch.align(logits, labels).with_signals(old=old[flat], **found)
    found = reduce(made.objective(batch), weights(batch, made.reduction))
    (found_grad,) = torch.autograd.grad(found, logits)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(found_grad, wanted_grad, rtol=1e-5, atol=1e-7)


def test_an_answer_has_one_advantage_at_all_its_tokens():
    found = plan().advantages(rollouts(LENGTHS, [1.0, 0.0, 0.5, 2.0], [0, 1, 1, 0]))["advantages"]
    of_answers = group_normalised(torch.tensor([1.0, 0.0, 0.5, 2.0]), torch.tensor([0, 1, 1, 0]))
    assert found.tolist() == of_answers.repeat_interleave(torch.tensor(LENGTHS)).tolist()


def test_the_reference_is_read_once_and_only_for_a_kl():
    assert plan().advantages.provides == {"advantages"}
    assert METHOD.requirements(Config()) == Requirements()
    assert METHOD.requirements(Config(kl=0.04)).models == (Reference(),)
    assert plan(kl=0.04).advantages.needs == {"reference"}
    with pytest.raises(PlanError, match="GroupAdvantage needs reference, which no rollout signal"):
        METHOD.build(Config(kl=0.04), None)


def test_its_defaults_are_trls_and_the_upper_bound_is_the_lower_one_unless_given():
    objective = plan().objective
    assert (objective.low, objective.high, objective.kl, objective.dual) == (0.2, 0.2, 0, None)
    assert plan(epsilon=0.1).objective.high == 0.1
    assert plan(epsilon_high=0.28).objective.high == 0.28
    assert (plan().reduction, plan(mean="row").reduction) == ("token_mean", "sequence_mean")
    assert METHOD.loop == "rollouts"


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon_high": -1.0}, {"kl": -0.1}, {"scale_rewards": "batch"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Config(**wrong)


def test_the_kl_of_the_paper_is_the_estimate_alone_and_trls_is_times_the_ratio():
    # at the only token pi/pi_old = 2 and pi_ref/pi = 1/2: the estimate is 1/2 - 1 + log 2
    old = ref = torch.tensor([0.2]).log()
    estimate = 0.5 - 1 + math.log(2)
    batch = TokenBatch.from_labels(torch.tensor([[-100, 0]]))

    def done(form):
        logits = torch.tensor([[0.4, 0.6]]).log().requires_grad_()
        objective = plan(kl=0.04, kl_form=form).objective
        given = batch.with_signals(policy=logits, advantages=torch.zeros(1), old=old, reference=ref)
        losses = objective(given)
        (gradient,) = torch.autograd.grad(losses.values.sum(), logits)
        return losses.values.item(), losses.metrics["kl"][0].item(), gradient[0, 0].item()

    value, logged, gradient = done("paper")
    assert (value, logged) == pytest.approx((0.04 * estimate, estimate), rel=1e-5)
    assert gradient == pytest.approx(0.04 * (1 - 0.5) * (1 - 0.4), rel=1e-5)  # d/dlog pi = 1 - pi_ref/pi
    value, logged, gradient = done("trl")
    assert (value, logged) == pytest.approx((0.04 * 2 * estimate, 2 * estimate), rel=1e-5)
    assert gradient == pytest.approx(0.04 * 2 * (estimate + 1 - 0.5) * (1 - 0.4), rel=1e-5)
    assert Config().kl_form == "trl"
    assert "0.04, with\nkl_form paper" in Config.model_fields["kl"].description


@pytest.mark.parametrize("eps", [1e-4, 1e-6])
def test_groups_of_equal_rewards_have_advantages_of_exactly_zero(eps):
    rewards = torch.tensor([0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 1 / 3, 1 / 3, 1 / 3])  # with float32 sums .9 would give .056
    found = group_normalised(rewards, torch.arange(3).repeat_interleave(3), True, eps)
    assert found.tolist() == [0.0] * 9


def test_advantages_with_the_eps_of_verl_worked_by_hand():
    rewards = torch.tensor([1.0, 0.3, 0.3, 0.0])  # mean .4, deviations .6 -.1 -.1 -.4, variance .54 / 3 = .18
    found = plan(eps=1e-6).advantages(rollouts(LENGTHS, rewards.tolist(), [0] * 4))["advantages"]
    std = math.sqrt(0.18) + 1e-6
    wanted = torch.tensor([0.6, -0.1, -0.1, -0.4]) / std
    torch.testing.assert_close(found, wanted.repeat_interleave(torch.tensor(LENGTHS)), rtol=1e-6, atol=0)
    assert found[[0, 3, 4, 8]].sum().abs() < 1e-5
    scaled = group_normalised(7 * rewards, torch.zeros(4, dtype=torch.long), True, 1e-12)
    torch.testing.assert_close(scaled, group_normalised(rewards, torch.zeros(4, dtype=torch.long), True, 1e-12))


def test_dual_clip_bounds_what_a_token_with_a_negative_advantage_costs_worked_by_hand():
    # A = -1: r = 2 costs 2, r = 4 costs at most 3 and has no gradient; A = 1: r = 4 is clipped at 1.3
    logprobs = torch.tensor([2.0, 4.0, 4.0, 0.5], dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([-1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    objective = plan(dual_clip=3, epsilon_high=0.3).objective
    values = clipped_surrogate(
        logprobs, torch.zeros_like(logprobs), advantages, objective.low, objective.high, objective.dual
    )
    (grad,) = torch.autograd.grad(values.sum(), logprobs)
    torch.testing.assert_close(values, torch.tensor([2.0, 3.0, -1.3, 0.8], dtype=torch.float64))
    torch.testing.assert_close(grad, torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    assert plan().objective.dual is None


def test_kl_max_bounds_the_estimate_of_a_token_and_ends_its_gradient_worked_by_hand():
    # pi_ref/pi = 4, 20, 1/2 and e^-12: estimates 4 - 1 - log 4, 20 - 1 - log 20 > 10, log 2 - 1/2, and 11 > 10
    reference = math.log(0.5) + torch.tensor([4.0, 20.0, 0.5, math.exp(-12)]).log()  # pi = 1/2
    batch = TokenBatch.from_labels(torch.tensor([[-100, 0, 0, 0, 0]]))

    def done(**options):
        logits = torch.zeros(4, 2, requires_grad=True)
        objective = plan(kl=0.01, kl_form="paper", **options).objective
        losses = objective(batch.with_signals(policy=logits, advantages=torch.zeros(4), reference=reference))
        (gradient,) = torch.autograd.grad(losses.values.sum(), logits)
        of_logprob = 100 * gradient[:, 0] / (1 - 0.5)
        return (100 * losses.values.detach()).tolist(), of_logprob.tolist(), losses.metrics["kl"][0].item()

    values, gradient, logged = done(kl_max=10.0)
    wanted = [3 - math.log(4), 10.0, math.log(2) - 0.5, 10.0]
    assert values == pytest.approx(wanted, rel=1e-5)
    assert gradient == pytest.approx([-3.0, 0.0, 0.5, 0.0], rel=1e-5)  # 1 - pi_ref/pi
    assert logged == pytest.approx(sum(wanted), rel=1e-5)
    values, gradient, _ = done()
    assert values[1] == pytest.approx(19 - math.log(20), rel=1e-5)
    assert gradient == pytest.approx([-3.0, -19.0, 0.5, 1.0], rel=1e-4)


def test_options_that_would_mean_nothing_are_refused():
    with pytest.raises(ValidationError, match="a kl above 0"):
        Config(kl_max=10.0)
    with pytest.raises(ValidationError, match="dual_clip"):
        Config(dual_clip=1.0)
    with pytest.raises(ValidationError, match="scale_rewards: group"):
        Config(scale_rewards="none", eps=1e-6)
