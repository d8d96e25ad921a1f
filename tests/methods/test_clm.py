"""CLM: DPO on an inserted layer alone, measured against the same network around it."""

import math
from functools import partial

import pytest
import torch
from pydantic import ValidationError

import tiny
from trimtab.core import Reference, Requirements, TokenBatch
from trimtab.methods.clm import METHOD, Config
from trimtab.models.forward import add_objective_forward
from trimtab.models.identity_layer import bypass, insert_identity_layer, train_only_identity_layer
from trimtab.objectives.preference import DPO
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy

PAIRS = tiny.rows(((3, 5), (3, 2), (2, 4), (2, 7)))


def prepared(kind: str = "llama_tied", beta: float = 0.1):
    """A policy with a trainable identity layer, and its plan."""
    policy = insert_identity_layer(tiny.model(kind))
    train_only_identity_layer(policy)
    add_objective_forward(policy)
    return policy, METHOD.build(Config(beta=beta), policy, reference=InitialPolicy(partial(bypass, policy)))


def call(policy, plan):
    (reference,) = plan.signals
    made = tiny.call(plan.objective, PAIRS, reference(policy, PAIRS.inputs()), reduction=plan.reduction)
    return policy(input_ids=PAIRS.input_ids, attention_mask=PAIRS.attention_mask, objective_call=made)


def train(policy, plan, steps: int = 12) -> list[float]:
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        output = call(policy, plan)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    return losses


@torch.no_grad()
def logits(policy):
    return policy(input_ids=PAIRS.input_ids, attention_mask=PAIRS.attention_mask, use_cache=False).logits


@pytest.mark.parametrize("kind", ["llama_tied", "qwen3", "gpt2"])
def test_it_starts_at_log_2_with_the_network_itself_as_reference(kind):
    policy, plan = prepared(kind)
    output = call(policy, plan)
    assert output.loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert output.metrics["margin"][0] == 0


def test_the_gradient_reaches_the_layer_and_nothing_else():
    policy, plan = prepared()
    train(policy, plan, steps=1)  # on the first update what stands before the zeros has no gradient
    call(policy, plan).loss.backward()
    grads = tiny.gradients(policy)
    assert all(name.startswith("model.layers.0.") for name in grads)
    assert all(grad.abs().sum() > 0 for grad in grads.values())


def test_around_the_trained_layer_the_network_is_the_original_to_the_last_bit():
    policy, plan = prepared()
    before = logits(policy)
    assert torch.equal(before, logits(tiny.model("llama_tied")))
    losses = train(policy, plan)
    with bypass(policy):
        assert torch.equal(logits(policy), before)
    assert not torch.allclose(logits(policy), before, atol=1e-2)
    assert losses[-1] < losses[0] - 0.1


def test_the_margin_of_the_chosen_answers_grows_with_the_strength_on_both_sides():
    policy, plan = prepared()
    train(policy, plan)
    aligned = logits(policy)
    with bypass(policy):
        unaligned = logits(policy)
    margins = []
    for strength in (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0):
        mixed = TokenBatch.align(torch.lerp(unaligned, aligned, strength), PAIRS.labels)
        start = TokenBatch.align(unaligned, PAIRS.labels)
        ratios = mixed.row_sum(mixed.logprobs() - start.logprobs())
        margins.append((ratios[0::2] - ratios[1::2]).sum().item())
    assert margins == sorted(margins)
    assert margins[2] == 0
    assert margins[0] < -0.1
    assert margins[-1] > margins[4] > 0.1


def test_the_plan_is_dpo_with_pairs_an_identity_layer_and_no_second_model():
    _, plan = prepared()
    assert isinstance(plan.objective, DPO)
    assert plan.reduction == "sequence_mean"
    (reference,) = plan.signals
    assert isinstance(reference, InitialPolicy)
    required = METHOD.requirements(Config())
    assert required == Requirements("pairs", "identity_layer", (Reference(),))
    assert Config().beta == 0.01
    assert plan.objective.beta == 0.1


def test_another_model_may_be_the_reference():
    reference = FrozenModel(tiny.model("llama_tied"), name="reference")
    policy, _ = prepared()
    assert call(policy, METHOD.build(Config(), policy, reference=reference)).loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("setting", [{"beta": 0.0}, {"beta": -1.0}, {"strength": 1.0}])
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Config(**setting)
