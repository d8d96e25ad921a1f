"""Whatever an optimizer moves is kept in float32, and the model computes in the dtype that it was loaded in."""

from copy import deepcopy

import pytest
import torch

import tiny
from trimtab.core import Objective
from trimtab.models.adapters import add_lora
from trimtab.models.forward import add_objective_forward
from trimtab.models.identity_layer import insert_identity_layer, train_only_identity_layer
from trimtab.models.masters import back_to_own_dtypes, computing, train_in_float32
from trimtab.models.scalar_head import add_score_forward, with_scalar_head
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.preference import DPO

ROWS = tiny.rows(((3, 5), (2, 4)))


def whole(dtype):
    model = tiny.model("llama_tied").to(dtype)
    add_objective_forward(model)
    return model


def inserted(dtype):
    model = insert_identity_layer(tiny.model("llama").to(dtype))
    train_only_identity_layer(model)
    add_objective_forward(model)
    return model


def adapted(dtype):
    """With what PEFT leaves in the model's own dtype: modules that are trained whole, and biases."""
    model = tiny.model("qwen2").to(dtype)
    add_objective_forward(model)
    settings = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "bias": "all"}
    return add_lora(model, settings, seed=0)


def scorer(dtype):
    model = with_scalar_head(tiny.model("llama").to(dtype), seed=0)
    add_score_forward(model)
    return add_lora(model, {"r": 2, "target_modules": ["q_proj"]}, seed=0)


POLICIES = {"whole": whole, "identity layer": inserted, "adapters": adapted, "scalar head": scorer}


class Scores(Objective):
    """loss = minus the score; of a scalar head."""

    needs = frozenset()
    per = "token"

    def __call__(self, batch):
        return batch.losses(-batch.logprobs())


def learn(model, name: str, steps: int = 20) -> torch.Tensor:
    """What the trained weights have moved, as one vector."""
    trained = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().float().clone() for p in trained]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)
    for _ in range(steps):
        call = tiny.call(Scores() if name == "scalar head" else Likelihood(), ROWS)
        model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask, objective_call=call).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([(p.float() - was).flatten() for p, was in zip(trained, start)])


@pytest.mark.parametrize("name", POLICIES)
def test_weights_in_bfloat16_move_as_those_in_float32(name):
    made, other = POLICIES[name](torch.bfloat16), POLICIES[name](torch.float32)
    for p, own in zip(other.parameters(), made.parameters(), strict=True):
        p.data.copy_(own)
    assert train_in_float32(made) > 0
    assert train_in_float32(made) == train_in_float32(other) == 0
    trained = [p for p in made.parameters() if p.requires_grad]
    assert trained
    assert {p.dtype for p in trained} == {torch.float32}
    assert all(p.dtype == torch.bfloat16 for p in made.parameters() if not p.requires_grad)
    mine, theirs = learn(made, name), learn(other, name)
    assert theirs.abs().max() > 1e-4
    assert torch.cosine_similarity(mine, theirs, dim=0) > 0.9
    assert mine.norm().item() == pytest.approx(theirs.norm().item(), rel=0.1)


@pytest.mark.parametrize("per", ["token", "sequence"])
@pytest.mark.parametrize("name", ["whole", "identity layer"])
def test_every_trained_weight_gets_its_gradient_after_the_model_was_read_without_one(name, per):
    """Autocast keeps what it has cast: without gradient, for good."""
    rows = tiny.rows(((3, 5), (3, 2)))
    made = POLICIES[name](torch.bfloat16)
    train_in_float32(made)
    reference = torch.zeros(7)
    objective, how = (Likelihood(), "token_mean") if per == "token" else (DPO(0.1), "sequence_mean")
    with torch.no_grad():
        made(input_ids=rows.input_ids, attention_mask=rows.attention_mask)
    call = tiny.call(objective, rows, {"reference": reference}, reduction=how)
    made(input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=call).loss.backward()
    for key, p in made.named_parameters():
        if p.requires_grad and "layers.0" not in key:
            assert p.grad is not None, key
            assert p.grad.abs().max() > 0, key
            assert p.grad.dtype == torch.float32


def test_the_rounded_model_is_computed_while_the_masters_move():
    """A forward gives what the model would give that is saved, up to the dtype of its products."""
    made = whole(torch.bfloat16)
    stored = deepcopy(made)
    train_in_float32(made)
    inputs = {"input_ids": ROWS.input_ids, "attention_mask": ROWS.attention_mask}
    with torch.no_grad():
        found, wanted = made(**inputs).logits, stored(**inputs).logits
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05 * wanted.float().std().item())
    copied = deepcopy(made)
    with torch.no_grad():
        made.get_input_embeddings().weight.zero_()  # a copy must run its own weights
        assert torch.equal(copied(**inputs).logits, found)
    text = copied.generate(ROWS.input_ids[:1, :3], max_new_tokens=3, do_sample=False)
    assert text.shape == (1, 6)


def test_a_folder_gets_the_dtypes_that_the_model_had(tmp_path):
    made = whole(torch.bfloat16)
    train_in_float32(made)
    assert back_to_own_dtypes(made)
    assert not back_to_own_dtypes(made)
    made.save_pretrained(tmp_path)
    again = type(made).from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert not torch.is_autocast_enabled("cpu")
    with computing(made):
        assert not torch.is_autocast_enabled("cpu")


def test_what_is_trained_in_float16_alone_computes_in_float32():
    made = whole(torch.float16)
    train_in_float32(made)
    with torch.no_grad():
        assert made(input_ids=ROWS.input_ids).logits.dtype == torch.float32
