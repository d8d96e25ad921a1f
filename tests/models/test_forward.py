"""The objective inside a model's forward equals the objective on that model's own logits."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM, LlamaModel
from trl.trainer.utils import add_fused_lm_head

import architectures
import tiny
from tiny_table import families
from trimtab.core import TokenBatch, count, reduce, weights
from trimtab.methods.hpd import HPD
from trimtab.methods.hpd import Config as HPDConfig
from trimtab.models import forward
from trimtab.models.forward import (
    ObjectiveCall,
    ObjectiveOutput,
    UnsupportedModel,
    add_objective_forward,
    check_head,
    resolve_head,
)
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match

OBJECTIVES = {"sft": Likelihood(), "kd": Match(forward_kl, 1.0, 0.2), "hpd": HPD(HPDConfig())}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
KINDS = ["llama", "llama_tied", "qwen2", "gemma2", "gemma3", "cohere", "granite", "gpt2", "phi"]
EVERY = families(KINDS, ("llama_tied", "gemma2", "gpt2", "phi"))  # the last one's head has a bias


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch):
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", 5)
    monkeypatch.setattr("trimtab.core.vocab.SLICE_BYTES", 4 * tiny.VOCAB * 3)


def teacher_of(objective, seed: int = 9):
    return tiny.teacher(tiny.model("llama", seed)) if "teacher" in objective.needs else None


def fused(model, objective, rows, teacher=None, **settings) -> ObjectiveOutput:
    """What a patched model, wrapped or not, returns for these rows."""
    signals = teacher(model, rows.inputs()) if teacher else {}
    call = tiny.call(objective, rows, signals, **settings)
    return model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=call)


def plain(model, objective, rows, teacher=None, **settings):
    """The same from the model's own logits."""
    inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask}
    signals = {}
    if teacher:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            signals["teacher"] = teacher.model(**inputs).logits
    how, total = settings.pop("reduction", "token_mean"), settings.pop("total", None)
    batch = TokenBatch.align(model(**inputs).logits, rows.labels, signals, row_id=rows.row_id, **settings)
    losses = objective(batch)
    return reduce(losses, weights(batch, how, total)), losses


def trained(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return tiny.gradients(model)


def assert_same(model, objective, rows, teacher=None, tolerance=1e-5, **settings) -> None:
    wanted, losses = plain(model, objective, rows, teacher, **settings)
    wanted_grads = trained(model, wanted)
    found = fused(model, objective, rows, teacher, **settings)
    torch.testing.assert_close(found.loss, wanted, rtol=tolerance * 10, atol=tolerance)
    torch.testing.assert_close(found.unreduced, losses.values.detach(), rtol=tolerance * 10, atol=tolerance)
    found_grads = trained(model, found.loss)
    assert wanted_grads
    assert tiny.relative_error(found_grads, wanted_grads) < tolerance
    for name, wanted_grad in wanted_grads.items():  # each tensor too: a small one could hide in the norm of all
        assert tiny.relative_error({name: found_grads[name]}, {name: wanted_grad}) < 100 * tolerance or (
            wanted_grad.abs().max() < 1e-6
        ), name


@every_objective
@pytest.mark.parametrize("kind", EVERY)
def test_loss_and_all_gradients_are_those_of_the_models_own_logits(kind, objective):
    model = tiny.model(kind)
    add_objective_forward(model)
    assert_same(model, objective, tiny.rows(), teacher_of(objective), seed=2, step=3)


@every_objective
@pytest.mark.parametrize("kind", ["llama_tied", "gemma2", "cohere", "gpt2"])
def test_a_tied_head_and_embedding_get_one_gradient_that_holds_both(kind, objective):
    model = tiny.model(kind)
    add_objective_forward(model)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head is embedding
    rows, teacher = tiny.rows(), teacher_of(objective)
    trained(model, plain(model, objective, rows, teacher)[0])
    wanted = embedding.grad.clone()
    trained(model, fused(model, objective, rows, teacher).loss)
    torch.testing.assert_close(embedding.grad, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sum"])
@pytest.mark.parametrize("total", [None, 7.0])
def test_the_call_says_how_to_divide(reduction, total):
    model = tiny.model()
    add_objective_forward(model)
    assert_same(model, Likelihood(), tiny.rows(), reduction=reduction, total=total)


def test_seed_and_step_of_the_call_reach_the_draws():
    model, objective = tiny.model(), OBJECTIVES["hpd"]
    add_objective_forward(model)
    rows, teacher = tiny.rows(), teacher_of(objective)
    losses = {
        fused(model, objective, rows, teacher, seed=seed, step=step).loss.item() for seed in (0, 1) for step in (0, 1)
    }
    assert len(losses) == 4


@every_objective
def test_more_padding_and_other_neighbours_do_not_change_a_rows_values(objective):
    model, teacher, rows = tiny.model(), teacher_of(objective), tiny.rows()
    add_objective_forward(model)
    wanted = fused(model, objective, rows, teacher).unreduced
    wide = tiny.rows(width=17)
    torch.testing.assert_close(fused(model, objective, wide, teacher).unreduced, wanted, rtol=1e-4, atol=1e-5)
    first = fused(model, objective, rows.pick([0]), teacher).unreduced
    torch.testing.assert_close(first, wanted[: len(first)], rtol=1e-4, atol=1e-5)


# --- precision, adapters, checkpointing -------------------------------------------------------------------------


@every_objective
@pytest.mark.parametrize("kind", ["llama_tied", "gemma2", "granite"])
def test_bfloat16_weights_differ_by_rounding_alone(kind, objective):
    model = tiny.model(kind).to(torch.bfloat16)
    add_objective_forward(model)
    found = fused(model, objective, tiny.rows(), teacher_of(objective))
    assert found.loss.dtype == torch.float32
    found_grads = trained(model, found.loss)
    wanted_grads = trained(model, plain(model, objective, tiny.rows(), teacher_of(objective))[0])
    assert all(g.dtype == torch.bfloat16 for g in found_grads.values())
    assert tiny.relative_error(found_grads, wanted_grads) < 0.02


@every_objective
@pytest.mark.parametrize("kind", ["llama_tied", "phi"])
def test_bfloat16_autocast_with_float32_weights_differs_by_rounding_alone(kind, objective):
    model = tiny.model(kind)
    add_objective_forward(model)
    teacher = teacher_of(objective)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fused(model, objective, tiny.rows(), teacher).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = plain(model, objective, tiny.rows(), teacher)[0]
    found_grads, wanted_grads = trained(model, found), trained(model, wanted)
    assert all(g.dtype == torch.float32 for g in found_grads.values())
    assert tiny.relative_error(found_grads, wanted_grads) < 0.02
    exact = trained(model, plain(model, objective, tiny.rows(), teacher)[0])
    assert tiny.relative_error(found_grads, exact) > 1e-4  # autocast was at work


def lora(kind: str, **settings):
    """A patched model with adapters that do something already, as after some training."""
    model = tiny.model(kind)
    add_objective_forward(model)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=8, **settings))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return wrapped.eval()


ADAPTERS = {
    "on the body": {"target_modules": ["q_proj", "down_proj"]},
    "on the head": {"target_modules": ["lm_head"]},
    "on both": {"target_modules": ["v_proj", "lm_head"]},
    "with a trained copy of the head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


@every_objective
@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_lora_gets_the_gradients_of_plain_autograd_and_the_rest_none(settings, objective):
    wrapped = lora("llama", **settings)
    assert_same(wrapped, objective, tiny.rows(), teacher_of(objective))
    names = tiny.gradients(wrapped)
    assert all("lora_" in name or "modules_to_save" in name for name in names)
    assert any("lm_head" in name for name in names) == ("lm_head" in str(settings))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@every_objective
def test_lora_on_a_tied_head_leaves_the_embedding_alone(objective):
    wrapped = lora("llama_tied", target_modules=["lm_head"])
    assert_same(wrapped, objective, tiny.rows(), teacher_of(objective))
    assert wrapped.get_input_embeddings().weight.grad is None


@every_objective
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(objective, reentrant):
    model = tiny.model("llama_tied").train()
    add_objective_forward(model)
    teacher = teacher_of(objective)
    wanted = trained(model, fused(model, objective, tiny.rows(), teacher).loss)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing
    found = trained(model, fused(model, objective, tiny.rows(), teacher).loss)
    assert tiny.relative_error(found, wanted) < 1e-6


@every_objective
def test_a_frozen_body_trains_the_head_and_a_frozen_head_the_body(objective):
    teacher = teacher_of(objective)
    for frozen, left in (("model.", "lm_head"), ("lm_head", "model.")):
        model = tiny.model()
        add_objective_forward(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        assert_same(model, objective, tiny.rows(), teacher)
        assert all(name.startswith(left) for name in tiny.gradients(model))


@every_objective
def test_a_micro_batch_without_answers_gives_every_parameter_a_gradient_of_zero(objective):
    model = tiny.model("llama_tied")
    add_objective_forward(model)
    output = fused(model, objective, tiny.rows(((3, 0), (5, 0))), teacher_of(objective), total=9.0)
    assert output.loss.item() == 0
    assert output.unreduced.shape == (0,)
    found = trained(model, output.loss)
    assert found.keys() == dict(model.named_parameters()).keys()  # DDP waits for each of them
    assert all(g.eq(0).all() for g in found.values())


@every_objective
def test_without_gradients_the_loss_is_the_same(objective):
    model, teacher = tiny.model("gemma2"), teacher_of(objective)
    add_objective_forward(model)
    wanted = fused(model, objective, tiny.rows(), teacher)
    with torch.no_grad():
        found = fused(model, objective, tiny.rows(), teacher)
    assert not found.loss.requires_grad
    torch.testing.assert_close(found.loss, wanted.loss.detach())


# --- accumulation -----------------------------------------------------------------------------------------------


@every_objective
@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_eight_rows_give_the_same_gradient_as_8x1_2x4_and_1x8(objective, reduction):
    model, teacher = tiny.model("llama_tied"), teacher_of(objective)
    add_objective_forward(model)
    rows = tiny.rows(((3, 5), (1, 1), (2, 0), (4, 7), (2, 9), (1, 3), (6, 2), (2, 4)))
    total = count(rows.labels, reduction)
    found = []
    for size in (1, 4, 8):
        model.zero_grad()
        for start in range(0, 8, size):
            part = rows.pick(list(range(start, start + size)))
            fused(model, objective, part, teacher, reduction=reduction, total=total, seed=1, step=5).loss.backward()
        found.append(tiny.gradients(model))
    assert tiny.relative_error(found[1], found[0]) < 1e-5
    assert tiny.relative_error(found[2], found[0]) < 1e-5
    mean_of_means = 0.0
    for start in (0, 4):
        mean_of_means += plain(model, objective, rows.pick(list(range(start, start + 4))), teacher)[0].item() / 2
    whole = plain(model, objective, rows, teacher)[0].item()
    assert abs(mean_of_means - whole) > 1e-3  # these rows would tell a mean of means apart


# --- the patch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY)
def test_without_the_argument_the_forward_is_the_original_to_the_last_bit(kind):
    model, rows = tiny.model(kind), tiny.rows()
    inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask, "labels": rows.labels}
    wanted = model(**inputs)
    add_objective_forward(model)
    found = model(**inputs)
    assert torch.equal(found.logits, wanted.logits)
    assert torch.equal(found.loss, wanted.loss)
    del inputs["input_ids"]
    assert torch.equal(model(rows.input_ids, **inputs).logits, wanted.logits)  # by position as well
    assert torch.equal(model(rows.input_ids, **inputs, return_dict=False)[1], wanted.logits)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_generate_works_as_before(kind):
    model = tiny.model(kind)
    prompt = torch.tensor([[5, 9, 20, 11]])
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    wanted = model.generate(prompt, **settings)
    add_objective_forward(model)
    assert torch.equal(model.generate(prompt, **settings), wanted)
    with pytest.raises(ValueError, match="objective_cal1"):
        model.generate(prompt, objective_cal1=1, **settings)  # arguments are still checked


def test_patching_twice_changes_nothing():
    model = tiny.model()
    add_objective_forward(model)
    first = model.forward
    add_objective_forward(model)
    assert model.forward == first


@every_objective
def test_a_deepcopy_runs_its_own_weights(objective):
    model, rows, teacher = tiny.model("llama_tied"), tiny.rows(), teacher_of(objective)
    add_objective_forward(model)
    kept = copy.deepcopy(model)
    before = fused(kept, objective, rows, teacher).loss.item()
    logits = kept(input_ids=rows.input_ids).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert fused(kept, objective, rows, teacher).loss.item() == before
    assert torch.equal(kept(input_ids=rows.input_ids).logits, logits)
    assert abs(fused(model, objective, rows, teacher).loss.item() - before) > 1e-3
    fused(kept, objective, rows, teacher).loss.backward()
    assert tiny.gradients(kept)
    assert not tiny.gradients(model)


def test_a_patched_model_is_saved_and_loaded_like_any_other(tmp_path):
    model = tiny.model("llama_tied")
    add_objective_forward(model)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    ids = tiny.rows().input_ids
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


@every_objective
@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_trls_fused_head_and_ours_work_on_one_model(objective, order):
    model, rows, teacher = tiny.model("llama_tied"), tiny.rows(), teacher_of(objective)
    wanted, _ = plain(model, objective, rows, teacher)
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    for patch in (add_objective_forward, add_fused_lm_head)[:: 1 if order == "ours first" else -1]:
        patch(model)
    torch.testing.assert_close(fused(model, objective, rows, teacher).loss, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits, logits)
    theirs = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=rows.labels, fused_lm_head=True)
    torch.testing.assert_close(theirs.loss, plain(model, Likelihood(), rows)[0], rtol=1e-4, atol=1e-5)
    trained(model, fused(model, objective, rows, teacher).loss)
    assert tiny.gradients(model).keys() == dict(model.named_parameters()).keys()


def test_our_sft_is_the_loss_of_trls_fused_head_in_value_and_gradient():
    model, rows = tiny.model("gemma2"), tiny.rows()
    add_objective_forward(model)
    found = fused(model, Likelihood(), rows).loss
    found_grads = trained(model, found)
    add_fused_lm_head(model)
    theirs = model(
        input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=rows.labels, fused_lm_head=True
    ).loss
    torch.testing.assert_close(found, theirs)
    assert tiny.relative_error(found_grads, trained(model, theirs)) < 1e-5


def test_our_sft_is_the_loss_of_transformers_itself():
    model, rows = tiny.model("cohere"), tiny.rows()
    add_objective_forward(model)
    wanted = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=rows.labels).loss
    torch.testing.assert_close(fused(model, Likelihood(), rows).loss, wanted)


# --- what is refused --------------------------------------------------------------------------------------------


class Doubled(LlamaForCausalLM):
    """Does something to its logits that nobody was told of."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output


class Masked(LlamaForCausalLM):
    """Excludes a token outside its head."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits.index_fill(-1, torch.tensor([7]), -torch.inf)
        return output


@pytest.mark.parametrize(
    "build",
    [
        lambda: Doubled(tiny.model().config),
        lambda: Masked(tiny.model().config),
        lambda: architectures.build("prophetnet"),  # it predicts several tokens ahead
    ],
    ids=["x2", "mask", "prophetnet"],
)
def test_a_model_whose_logits_cannot_be_rebuilt_is_refused(build):
    model = build()
    with pytest.raises(
        UnsupportedModel, match=f"{type(model).__name__}.*changes them in a way trimtab does not support"
    ):
        add_objective_forward(model)
    assert "forward" not in vars(model)
    assert issubclass(UnsupportedModel, ValueError)


def test_a_small_change_of_the_logits_is_refused_too():
    class Nudged(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = 1.015 * output.logits
            return output

    with pytest.raises(UnsupportedModel):
        check_head(Nudged(tiny.model().config))


@pytest.mark.parametrize("kind", ["gemma2", "cohere", "granite"])
def test_a_forgotten_scale_or_soft_cap_would_be_refused(kind, monkeypatch):
    monkeypatch.setattr("trimtab.models.forward._scale_and_softcap", lambda config: (1.0, None))
    with pytest.raises(UnsupportedModel):
        check_head(tiny.model(kind))


@pytest.mark.parametrize("kind", EVERY)
def test_the_scale_and_the_soft_cap_are_those_of_the_config(kind):
    head = resolve_head(tiny.model(kind))
    scale, softcap = {"cohere": (0.25, None), "granite": (1 / 3, None), "gemma2": (1.0, 2.0)}.get(kind, (1.0, None))
    assert (head.scale, head.softcap) == (scale, softcap)
    assert head.vocab_size == tiny.VOCAB


def test_a_model_without_a_head_is_refused():
    with pytest.raises(UnsupportedModel, match="LlamaModel has no output head"):
        resolve_head(LlamaModel(tiny.model().config))


@pytest.mark.parametrize("training", [True, False])
def test_the_check_leaves_mode_gradients_and_generator_as_they_were(training):
    model = tiny.model("gpt2").train(training)  # with dropout
    state = torch.get_rng_state()
    check_head(model)
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert not tiny.gradients(model)
    refused = Doubled(tiny.model().config).train(training)
    with pytest.raises(UnsupportedModel):
        check_head(refused)
    assert refused.training is training


@every_objective
def test_a_head_that_gives_minus_infinity_trains_on_finite_numbers(objective):
    model = tiny.model("phi")
    with torch.no_grad():
        model.lm_head.bias[7] = -torch.inf
    add_objective_forward(model)
    assert resolve_head(model).masks
    output = fused(model, objective, tiny.rows(seed=5), teacher_of(objective))
    assert output.unreduced.isfinite().all()
    grads = trained(model, output.loss)
    assert all(g.isfinite().all() for g in grads.values())
    assert grads["lm_head.bias"][7] == 0
    assert not resolve_head(tiny.model("phi")).masks


def test_a_hidden_length_that_does_not_fit_the_labels_is_an_error():
    model, rows = tiny.model(), tiny.rows()
    add_objective_forward(model)
    call = ObjectiveCall(Likelihood(), rows.labels[:, :-2], {}, rows.row_id)
    with pytest.raises(IndexError):
        model(input_ids=rows.input_ids, objective_call=call)


def test_a_model_whose_weights_are_nan_is_named():
    model = tiny.model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UnsupportedModel, match="outputs NaN; its weights are broken"):
        add_objective_forward(model)


# ---------------------------------------------------------------- heads of several parts, and mixtures of experts


@pytest.mark.parametrize("kind", ["roberta", "modernbert-decoder", "llama4_text"])
def test_a_head_of_several_parts_or_layers_under_another_name_is_found(kind):
    architectures.check_sft(kind)


def test_a_soft_cap_under_another_name_is_seen_on_logits_as_small_as_a_new_models():
    assert resolve_head(architectures.build("recurrent_gemma")).softcap == 30.0
    model = architectures.build("recurrent_gemma")
    model._trimtab_head = ()
    hidden = model.base_model(input_ids=torch.arange(6)[None]).last_hidden_state
    logits = model(input_ids=torch.arange(6)[None]).logits
    assert forward._gives(model, hidden, logits)
    model.config.logits_soft_cap = 1e6
    assert not forward._gives(model, hidden, logits)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_the_router_loss_is_added_on_request_as_the_model_itself_computes_it(kind):
    model, rows = architectures.build(kind), architectures.ROWS
    inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask}
    output = model(**inputs, output_router_logits=True)
    batch = TokenBatch.align(output.logits, rows.labels, row_id=rows.row_id)
    wanted = reduce(Likelihood()(batch), weights(batch, "token_mean", None)) + 0.3 * output.aux_loss
    wanted_grads = trained(model, wanted)
    add_objective_forward(model)
    call = ObjectiveCall(Likelihood(), rows.labels, {}, rows.row_id, router_loss=0.3)
    found = model(**inputs, objective_call=call)
    torch.testing.assert_close(found.loss, wanted)
    assert found.metrics["router_loss"][0] == pytest.approx(output.aux_loss.item(), rel=1e-5)
    assert tiny.relative_error(trained(model, found.loss), wanted_grads) < 1e-5


def test_a_model_without_experts_has_no_router_loss():
    model = tiny.model("llama")
    add_objective_forward(model)
    call = ObjectiveCall(Likelihood(), tiny.rows().labels, {}, tiny.rows().row_id, router_loss=0.1)
    with pytest.raises(UnsupportedModel, match="transformers has no router loss for LlamaForCausalLM"):
        model(input_ids=tiny.rows().input_ids, attention_mask=tiny.rows().attention_mask, objective_call=call)
