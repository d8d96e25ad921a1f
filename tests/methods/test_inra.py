"""InRa: three losses for one inserted layer, each that of the method it is named after."""

import math
from functools import partial

import pytest
import torch
from pydantic import ValidationError

import tiny
from trimtab.core import Aligned, Reference, Requirements
from trimtab.methods import dpo, sft, trra
from trimtab.methods.inra import METHOD, Config
from trimtab.models.forward import add_objective_forward
from trimtab.models.identity_layer import bypass, insert_identity_layer, train_only_identity_layer
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy

ROWS = tiny.rows(((3, 5), (3, 2), (2, 4), (2, 7)))


def prepared():
    policy = insert_identity_layer(tiny.model("llama_tied"))
    train_only_identity_layer(policy)
    add_objective_forward(policy)
    return policy


def around(policy) -> InitialPolicy:
    return InitialPolicy(partial(bypass, policy))


def pair() -> dict[str, FrozenModel]:
    seeds = {"reference": 3, "aligned": 4}
    return {name: FrozenModel(tiny.model("llama_tied", seed=seed), name=name) for name, seed in seeds.items()}


def step(plan, policy):
    signals = {}
    for signal in plan.signals:
        signals |= signal(policy, ROWS.inputs())
    call = tiny.call(plan.objective, ROWS, signals, reduction=plan.reduction)
    output = policy(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask, objective_call=call)
    policy.zero_grad()
    output.loss.backward()
    return output, tiny.gradients(policy)


LOSSES = {
    "sft": (lambda p: {}, lambda p: sft.METHOD.build(sft.Config(), p)),
    "dpo": (
        lambda p: {"reference": around(p)},
        lambda p: dpo.METHOD.build(dpo.Config(beta=0.005), p, reference=around(p)),
    ),
    "trra": (lambda p: pair(), lambda p: trra.METHOD.build(trra.Config(strength=1.0), p, **pair())),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_is_that_of_the_method_it_is_named_after(loss):
    models, other = LOSSES[loss]
    policy = prepared()
    found, grads = step(METHOD.build(Config(loss=loss), policy, **models(policy)), policy)
    wanted, wanted_grads = step(other(policy), policy)
    assert torch.equal(found.loss, wanted.loss)
    assert tiny.relative_error(grads, wanted_grads) == 0
    assert all(name.startswith("model.layers.0.") for name in grads)


def test_its_dpo_starts_at_log_2():
    policy = prepared()
    output, _ = step(METHOD.build(Config(loss="dpo"), policy, reference=around(policy)), policy)
    assert output.loss.item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_training_the_layer_leaves_the_network_around_it_as_it_was(loss):
    policy = prepared()
    plan = METHOD.build(
        Config(loss=loss, **({"beta": 1.0} if loss == "dpo" else {})), policy, **LOSSES[loss][0](policy)
    )
    run = partial(policy, input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask, use_cache=False)
    with torch.no_grad():
        before = run().logits
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.05)
    first, _ = step(plan, policy)
    for _ in range(5):
        optimizer.step()
        last, _ = step(plan, policy)
    assert last.loss < first.loss
    with torch.no_grad(), bypass(policy):
        assert torch.equal(run().logits, before)


def test_the_strength_is_that_of_the_fused_teacher():
    plan = METHOD.build(Config(loss="trra", strength=1.75), None, **pair())
    assert plan.signals[0].strength == 1.75


@pytest.mark.parametrize(
    ("loss", "rows", "models"),
    [
        ("sft", "answers", ()),
        ("dpo", "pairs", (Reference(),)),
        ("trra", "answers", (Reference("distribution", named=True), Aligned())),
    ],
)
def test_each_loss_asks_for_what_it_reads(loss, rows, models):
    assert METHOD.requirements(Config(loss=loss)) == Requirements(rows, "identity_layer", models)


@pytest.mark.parametrize(
    "setting", [{"loss": "kd"}, {"beta": 0.0}, {"strength": float("inf")}, {"strength": float("nan")}]
)
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Config(**setting)
