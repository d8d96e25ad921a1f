"""What is trained is switched off for one forward: the model that training started from, to the last bit."""

from functools import partial

import pytest
import torch
from torch import nn

import tiny
from trimtab.core import Objective, Plan, TokenBatch, reduce, weights
from trimtab.models.adapters import add_lora
from trimtab.models.forward import add_objective_forward
from trimtab.models.identity_layer import bypass, identity_layer, insert_identity_layer, train_only_identity_layer
from trimtab.signals.base import call_plan
from trimtab.signals.initial_policy import InitialPolicy, own_logprobs

ROWS = tiny.rows()
KINDS = ("llama_tied", "gemma2", "gpt2")


def base(kind: str):
    model = tiny.model(kind)
    add_objective_forward(model)
    return model


def with_lora(kind: str):
    policy = add_lora(base(kind), {"r": 2, "target_modules": "all-linear"}, seed=1)
    return policy, policy.disable_adapter


def with_identity_layer(kind: str):
    policy = insert_identity_layer(tiny.model(kind))
    train_only_identity_layer(policy)
    add_objective_forward(policy)
    return policy, partial(bypass, policy)


def moved(policy: nn.Module) -> nn.Module:
    """The same policy after a step in which every trained weight moved."""
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return policy


@pytest.mark.parametrize("make", [with_lora, with_identity_layer])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_base_model_to_the_last_bit_whatever_was_trained(kind, make):
    wanted = own_logprobs(base(kind), ROWS.inputs())
    policy, off = make(kind)
    signal = InitialPolicy(off)
    for model in (policy, moved(policy)):
        assert torch.equal(signal(model, ROWS.inputs())["reference"], wanted)
    assert not torch.allclose(own_logprobs(policy, ROWS.inputs()), wanted, atol=1e-2)


@pytest.mark.parametrize("make", [with_lora, with_identity_layer])
def test_afterwards_the_policy_is_trained_as_before(make):
    policy, off = make("llama_tied")
    moved(policy)
    before = own_logprobs(policy, ROWS.inputs())
    InitialPolicy(off)(policy, ROWS.inputs())
    assert torch.equal(own_logprobs(policy, ROWS.inputs()), before)
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert trained
    assert all(("lora" in name) or (".layers.0." in name) for name in trained)


@pytest.mark.parametrize("make", [with_lora, with_identity_layer])
def test_an_error_inside_leaves_the_policy_switched_on(make):
    policy, off = make("llama_tied")
    moved(policy)
    before = own_logprobs(policy, ROWS.inputs())
    bad = ROWS.inputs() | {"input_ids": torch.full_like(ROWS.input_ids, tiny.VOCAB)}
    with pytest.raises(IndexError):
        InitialPolicy(off)(policy, bad)
    assert torch.equal(own_logprobs(policy, ROWS.inputs()), before)


def test_own_log_probabilities_are_those_of_the_answers_without_gradient():
    policy = base("llama_tied")
    with torch.no_grad():
        logits = policy(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
    found = own_logprobs(policy, ROWS.inputs())
    torch.testing.assert_close(found, TokenBatch.align(logits, ROWS.labels).logprobs(), rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_while_it_is_read_and_the_mode_comes_back(training):
    policy = tiny.model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    add_objective_forward(policy)
    wanted = own_logprobs(policy.eval(), ROWS.inputs())
    found = own_logprobs(policy.train(training), ROWS.inputs())
    assert torch.equal(found, wanted)
    assert policy.training is training
    bad = ROWS.inputs() | {"input_ids": torch.full_like(ROWS.input_ids, tiny.VOCAB)}
    with pytest.raises(IndexError):
        own_logprobs(policy, bad)
    assert policy.training is training


def test_it_is_named_and_gives_nothing_but_labels():
    _, off = with_lora("llama_tied")
    signal = InitialPolicy(off, name="start")
    assert signal.provides == {"start"}


def test_the_identity_layer_is_unchanged_by_being_passed_over():
    policy, off = with_identity_layer("llama_tied")
    moved(policy)
    before = {name: value.clone() for name, value in identity_layer(policy).state_dict().items()}
    InitialPolicy(off)(policy, ROWS.inputs())
    assert all(torch.equal(value, before[name]) for name, value in identity_layer(policy).state_dict().items())


# ---------------------------------------------------------------- the whole distribution of the start


class Reads(Objective):
    """An objective that reads the whole distribution of the start: KL(start || policy)."""

    needs = frozenset({"reference"})
    per = "token"

    def __call__(self, batch: TokenBatch):
        p, q = batch.log_softmax(of="reference"), batch.log_softmax()
        return batch.losses((p.exp() * (p - q)).sum(-1), p_label=batch.logprobs(of="reference"))


@pytest.mark.parametrize("make", [with_lora, with_identity_layer])
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_distribution_is_that_of_the_base_model(kind, make):
    model = base(kind)
    with torch.no_grad():
        logits = model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
    wanted = TokenBatch.align(logits, ROWS.labels).log_softmax()
    policy, off = make(kind)
    signal = InitialPolicy(off, policy=moved(policy), reads="distribution")
    found = signal(policy, ROWS.inputs())["reference"]
    batch = TokenBatch.from_labels(ROWS.labels, {"reference": found})
    torch.testing.assert_close(batch.log_softmax(of="reference"), wanted, rtol=1e-4, atol=1e-5)
    assert not found.compute().requires_grad


def test_a_head_that_is_trained_is_that_of_the_start_too():
    policy = add_lora(base("gpt2"), {"r": 2, "target_modules": "all-linear", "modules_to_save": ["lm_head"]}, seed=1)
    start = own_logprobs(base("gpt2"), ROWS.inputs())
    signal = InitialPolicy(policy.disable_adapter, policy=moved(policy), reads="distribution")
    found = TokenBatch.from_labels(ROWS.labels, signal(policy, ROWS.inputs()))
    torch.testing.assert_close(found.logprobs(of="reference"), start, rtol=1e-4, atol=1e-5)
    only = InitialPolicy(policy.disable_adapter)
    assert torch.equal(only(policy, ROWS.inputs())["reference"], start)


@pytest.mark.parametrize("make", [with_lora, with_identity_layer])
def test_the_gradient_is_that_of_the_policy_alone(make):
    """The start is asked while the policy's own forward runs, and leaves it as it was."""
    policy, off = make("llama_tied")
    moved(policy)
    signal = InitialPolicy(off, policy=policy, reads="distribution")
    plan = Plan(Reads(), signals=(signal,))
    output = call_plan(plan, policy.train(), ROWS.inputs())
    output.loss.backward()
    start = base("llama_tied")
    with torch.no_grad():
        reference = start(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
    fresh, _ = make("llama_tied")
    fresh.load_state_dict(policy.state_dict())
    logits = fresh(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
    batch = TokenBatch.align(logits, ROWS.labels, {"reference": reference})
    reduce(Reads()(batch), weights(batch, plan.reduction)).backward()
    ours = {name: p.grad for name, p in policy.named_parameters() if p.requires_grad}
    theirs = {name: p.grad for name, p in fresh.named_parameters() if p.requires_grad}
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-3, atol=1e-5)
