"""TrRa: the KL to a fused teacher, its zero where nothing is to be learnt, and its gradient at the logits."""

import math

import pytest
import torch
from pydantic import ValidationError

import tiny
from tiny_rollouts import Reader
from trimtab.core import IGNORE, Aligned, Plan, PlanError, Reference, TokenBatch, reduce, weights
from trimtab.methods.trra import METHOD, Config
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.matching import Match
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel

ROWS = tiny.rows(((3, 5), (1, 1), (4, 7)))


def plan(strength: float, policy=None):
    """The reference is `tiny.model(seed=3)`, the aligned model that of seed 4."""
    return METHOD.build(
        Config(strength=strength),
        policy,
        reference=FrozenModel(tiny.model("llama", seed=3), name="reference"),
        aligned=FrozenModel(tiny.model("llama", seed=4), name="aligned"),
    )


def own_logits(seed: int, rows=ROWS):
    with torch.no_grad():
        return tiny.model("llama", seed=seed)(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits


def step(strength: float, seed: int, rows=ROWS):
    """Loss, per-token values and gradients of one engine step of the policy with the weights of `seed`."""
    policy = tiny.model("llama", seed=seed)
    add_objective_forward(policy)
    made = plan(strength, policy)
    signals = made.signals[0](policy, rows.inputs())
    call = tiny.call(made.objective, rows, signals, reduction=made.reduction)
    output = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=call)
    output.loss.backward()
    return output, tiny.gradients(policy)


@pytest.mark.parametrize(("strength", "seed"), [(0.0, 3), (1.0, 4)])
def test_a_policy_equal_to_the_end_of_the_scale_has_loss_0_and_gradient_0(strength, seed):
    output, grads = step(strength, seed)
    other, other_grads = step(1 - strength, seed)
    assert abs(output.loss.item()) < 1e-6
    largest = max(float(g.abs().max()) for g in other_grads.values())
    assert all(g.abs().max() < 1e-5 * largest for g in grads.values())
    assert other.loss.item() > 0.1


@pytest.mark.parametrize("strength", [-0.5, 0.0, 0.5, 1.0, 1.5, 4.0])
def test_each_token_costs_the_kl_from_the_softmax_of_the_mixed_logits(strength):
    output, _ = step(strength, 7)
    mixed = (1 - strength) * own_logits(3).double() + strength * own_logits(4).double()
    batch = TokenBatch.align(own_logits(7), ROWS.labels, {"mixed": mixed})
    p, q = batch.logits("mixed").softmax(-1), batch.logits().double().softmax(-1)
    torch.testing.assert_close(output.unreduced, (p * (p / q).log()).sum(-1).float(), rtol=1e-4, atol=1e-5)
    assert output.loss.item() == pytest.approx(output.unreduced.mean().item(), rel=1e-5)  # all 13 tokens alike


def test_the_gradient_at_the_logits_is_the_difference_of_the_softmaxes_over_the_tokens():
    logits = own_logits(7).requires_grad_()
    made = plan(1.5)
    batch = TokenBatch.align(logits, ROWS.labels).with_signals(**made.signals[0](None, ROWS.inputs()))
    reduce(made.objective(batch), weights(batch, made.reduction)).backward()
    mixed = -0.5 * own_logits(3) + 1.5 * own_logits(4)
    wanted = (logits.detach().softmax(-1) - mixed.softmax(-1)) / 13
    counts = torch.zeros_like(ROWS.labels, dtype=torch.bool)
    counts[:, :-1] = ROWS.labels[:, 1:] != IGNORE
    torch.testing.assert_close(logits.grad[counts], wanted[counts], rtol=1e-4, atol=1e-7)
    assert (logits.grad[~counts] == 0).all()


def test_a_constant_added_to_all_logits_of_a_token_changes_nothing():
    objective = plan(1.5).objective
    policy, teacher = torch.randn(1, 4, 9), torch.randn(1, 4, 9)
    labels = torch.tensor([[IGNORE, 1, 2, 3]])
    values = objective(TokenBatch.align(policy, labels, {"teacher": teacher})).values
    moved = TokenBatch.align(policy + torch.randn(1, 4, 1), labels, {"teacher": teacher + torch.randn(1, 4, 1)})
    torch.testing.assert_close(objective(moved).values, values, rtol=1e-5, atol=1e-6)


def test_rows_know_nothing_of_each_other():
    together, _ = step(1.5, 7)
    alone = torch.cat([step(1.5, 7, ROWS.pick([i]))[0].unreduced for i in range(3)])
    torch.testing.assert_close(together.unreduced, alone, rtol=1e-4, atol=1e-5)


def test_the_frozen_models_get_no_gradient_and_stay_as_they_are():
    policy = tiny.model("llama", seed=7)
    add_objective_forward(policy)
    made = plan(1.5, policy)
    (fused,) = made.signals
    call = tiny.call(made.objective, ROWS, fused(policy, ROWS.inputs()))
    policy(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask, objective_call=call).loss.backward()
    assert all(p.grad is None and not p.requires_grad for model in fused.models for p in model.parameters())


def test_the_plan_is_the_forward_kl_to_the_fused_pair_without_temperature_or_cross_entropy():
    made = plan(0.75)
    assert isinstance(made.objective, Match)
    assert made.objective.divergence is forward_kl
    assert (made.objective.temperature, made.objective.cross_entropy) == (1.0, 0.0)
    assert made.signals[0].strength == 0.75
    assert made.reduction == "token_mean"


@pytest.mark.parametrize(("mask", "every"), [("completion", False), ("all", True)])
def test_mask_says_whether_prompts_are_learnt_from(mask, every):
    required = METHOD.requirements(Config(mask=mask))
    assert (required.rows == "every_token") is every
    assert required.models == (Reference(reads="distribution", named=True), Aligned())
    assert Config().mask == "completion"


def test_a_teacher_under_another_name_is_refused():
    nothing = Reader("reference")
    with pytest.raises(PlanError, match="Match needs the signal teacher"):
        Plan(Match(forward_kl, 1.0, 0.0), (nothing,))


@pytest.mark.parametrize(
    "setting", [{"strength": float("nan")}, {"strength": float("inf")}, {"mask": "prompt"}, {"lambda": 1.0}]
)
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Config(**setting)


def released(policy: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The authors' loss of one row's logits [L, V]: a KL over positions for each column, summed, over L."""
    p, q = teacher.softmax(0), policy.softmax(0)
    return (p * (p.log() - q.log())).sum() / len(policy)


@pytest.mark.parametrize("block", [None, 2])
def test_position_axis_is_the_released_loss_in_value_and_gradient(block, monkeypatch):
    if block:  # positions of a row in several blocks and slices
        monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", 2 * block)
        monkeypatch.setattr("trimtab.core.vocab._tokens", lambda *_: block)
    rows = tiny.rows(((3, 5), (1, 1), (4, 7)))
    rows.labels.copy_(rows.input_ids.masked_fill(rows.attention_mask == 0, IGNORE))
    policy = tiny.model("llama", seed=7)
    mixed = -0.5 * own_logits(3) + 1.5 * own_logits(4)
    logits = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    keep = [labels[1:] != IGNORE for labels in rows.labels]
    losses = [released(logits[b, :-1][mask], mixed[b, :-1][mask]) for b, mask in enumerate(keep)]
    torch.stack(losses).mean().backward()
    wanted = tiny.gradients(policy)

    ours = tiny.model("llama", seed=7)
    add_objective_forward(ours)
    made = METHOD.build(
        Config(strength=1.5, mask="all", compat="position_axis"),
        ours,
        reference=FrozenModel(tiny.model("llama", seed=3), name="reference"),
        aligned=FrozenModel(tiny.model("llama", seed=4), name="aligned"),
    )
    assert len(made.signals[0].models) == 2
    output = call_plan(made, ours, rows.inputs())
    output.loss.backward()
    assert output.loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    assert tiny.relative_error(tiny.gradients(ours), wanted) < 1e-4


def test_position_axis_masks_nothing():
    with pytest.raises(ValidationError, match="position_axis masks nothing; add mask=all"):
        Config(compat="position_axis")


def test_the_likelihood_of_the_tokens_is_added_to_the_whole_divergence():
    policy, teacher = torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.5, 0.5]]).log()
    made = METHOD.build(
        Config(nll_coef=0.3),
        None,
        *(FrozenModel(tiny.model("llama", seed=3), name=name) for name in ("reference", "aligned")),
    )
    batch = TokenBatch.from_labels(torch.tensor([[IGNORE, 0]]), {"policy": policy, "teacher": teacher})
    divergence = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    assert made.objective(batch).values.item() == pytest.approx(divergence - 0.3 * math.log(0.2), rel=1e-5)
    with pytest.raises(ValidationError, match="nll_coef is 0.3 but has no effect"):
        Config(mask="all", compat="position_axis", nll_coef=0.3)
